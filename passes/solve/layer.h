// SPDX-License-Identifier: Apache-2.0
// Layer: a product as solvers see it: matrices W [m, n] with y = W x (one per group of channels), the rows x that feed
// them, and where elements and scales of the stored weight lie (gptq.md 3.1).
//
//   MatMul, Gemm     one matrix; rows are the vectors along the reduction axis
//   Conv             n = channels of a group times taps; rows are patches, padding zeros included
//   ConvTranspose    as Conv on the image with zeros between its pixels and the kernel turned round
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "formats/base/rng.h"
#include "formats/ir/graph.h"
#include "formats/ir/quant.h"
#include "passes/product.h"
#include "passes/solve/grid.h"

namespace qtool::solve {

class Layer {
 public:
  /// Patches of one image that are looked at, at most.
  static constexpr std::int64_t most_patches = 4096;

  /// Copies what it needs of the node.
  Layer(const Graph&, const Product&);

  NodeId node() const { return product_.node; }
  std::int64_t matrices() const { return product_.groups; }
  std::int64_t rows() const { return m_; }
  std::int64_t columns() const { return n_; }
  /// Layers that read one value and agree in this see the same rows.
  std::string sight() const;

  /// Calls f with rows of n numbers each, all of matrix `i` or a sample of them: where an image has more patches than
  /// most_patches, one from each of as many equal stretches, drawn by `rng`. `x`: the input, any float type.
  void for_each_rows(const Tensor& x, std::int64_t i, const Rng& rng, Threads&,
                     const std::function<void(std::span<const float>)>& f) const;

  /// Place of row r, column c of matrix i in the stored weight.
  std::size_t element(std::int64_t i, std::int64_t r, std::int64_t c) const;
  /// A stored float32 weight as matrix i by columns: w[c * m + r].
  std::vector<float> by_columns(std::span<const float> stored, std::int64_t i) const;

  /// How scales of `grain` fall on the columns of a matrix.
  struct Planes {
    std::vector<std::int32_t> of;       // plane of each column, ascending from 0
    std::vector<std::int64_t> columns;  // the first column of each plane
    bool own = false;                   // no two rows, planes or matrices share a scale
    bool together = false;  // columns of a plane are neighbours, and all planes but the last are equally wide
  };
  Planes planes(const Grain& grain) const;
  /// Place of the scale of row r in the plane that begins at column c of matrix i.
  std::size_t scale(const Grain& grain, std::int64_t i, std::int64_t r, std::int64_t c) const;

 private:
  void patches(const Tensor& x, std::int64_t i, const Rng& rng, Threads&,
               const std::function<void(std::span<const float>)>& f) const;

  Product product_;
  Shape shape_;  // of the weight
  Attrs attrs_;
  std::string op_;
  std::int64_t m_, n_;
};

}  // namespace qtool::solve
