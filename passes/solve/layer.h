// SPDX-License-Identifier: Apache-2.0
// Layer: a weight as solvers see it: matrices W [m, n] with y = W x, the rows x that feed them, and where elements and
// scales of the stored weight lie (gptq.md 3.1).
//
//   MatMul, Gemm     one matrix; rows are the vectors along the reduction axis
//   MatMul           of a weight [..., n, m]: a matrix for each of the first extents; rows are those of the slices of x
//                    that it is multiplied with
//   Conv             a matrix per group; n = channels of a group times taps; rows are patches, padding zeros included
//   ConvTranspose    as Conv on the image with zeros between its pixels and the kernel turned round
//   LSTM, GRU, RNN   W: a matrix per direction, all gates; rows are the time steps of x
//                    R: the same; rows are the states that it is multiplied with, as a float R and W as it is decided
//                    by then put them out. Of a GRU that resets before it multiplies, a matrix per gate: the
//                    candidate's sees other rows
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/block_vector.h"
#include "formats/base/rng.h"
#include "formats/ir/graph.h"
#include "formats/ir/quant.h"
#include "passes/product.h"
#include "passes/solve/grid.h"

namespace qtool::solve {

/// An input of a node.
struct WeightPlace {
  NodeId node = NodeId::none;
  std::size_t input = 0;
  friend auto operator<=>(const WeightPlace&, const WeightPlace&) = default;
};
inline Use& use_at(Graph& graph, const WeightPlace& p) { return graph[p.node].inputs[p.input]; }
inline const Use& use_at(const Graph& graph, const WeightPlace& p) { return graph[p.node].inputs[p.input]; }

class Layer {
 public:
  /// The layers of a node: its constant weights, none where it is no such operator.
  static std::vector<Layer> of(const Graph&, NodeId);

  /// Patches of one image that are looked at, at most.
  static constexpr std::int64_t most_patches = 4096;

  /// Copies what it needs of the node.
  Layer(const Graph&, const Product&);

  const WeightPlace& place() const { return place_; }
  NodeId node() const { return place_.node; }
  std::int64_t matrices() const { return matrices_; }
  std::int64_t rows() const { return m_; }
  std::int64_t columns() const { return n_; }
  /// Convolutions, of whose images no more than most_patches are looked at.
  bool is_spatial() const { return kind_ == Kind::patches; }
  /// The value in whose extents it shows how many rows there are, and its elements for each row of a matrix.
  std::pair<ValueId, std::int64_t> extent(const Graph&) const;
  /// Positions of the inputs of its node that rows come of. The first is what the weight is multiplied with, or what
  /// that is made of.
  const std::vector<std::size_t>& reads() const { return reads_; }
  /// Whether what it reads has its weight beside it: rows then come of the weight in float.
  bool reads_itself() const { return kind_ == Kind::states; }
  /// Layers that read the same and agree in this see the same rows.
  std::string sight() const;
  /// Whether each row is a token, in the order of the input.
  bool sees_tokens() const { return kind_ == Kind::rows && !turned_; }

  /// Calls f with rows of n numbers each, all of matrix `i` or a sample of them: where an image has more patches than
  /// most_patches, one from each of as many equal stretches, drawn by `rng`. `inputs`: of the node by position, any
  /// float type; those in reads() are looked at.
  void for_each_rows(std::span<const Tensor> inputs, std::int64_t i, const Rng& rng, Threads&,
                     const std::function<void(std::span<const float>)>& f) const;

  /// WeightPlace of row r, column c of matrix i in the stored weight.
  std::size_t element(std::int64_t i, std::int64_t r, std::int64_t c) const;
  /// A stored float32 weight as matrix i by columns: w[c * m + r].
  BlockVector<float> by_columns(std::span<const float> stored, std::int64_t i) const;

  /// How scales of `grain` fall on the columns of a matrix.
  struct Planes {
    std::vector<std::int32_t> of;       // plane of each column, ascending from 0
    std::vector<std::int64_t> columns;  // the first column of each plane
    bool own = false;                   // no two rows, planes or matrices share a scale
    bool together = false;  // columns of a plane are neighbours, and all planes but the last are equally wide
  };
  Planes planes(const Grain& grain) const;
  /// WeightPlace of the scale of row r in the plane that begins at column c of matrix i.
  std::size_t scale(const Grain& grain, std::int64_t i, std::int64_t r, std::int64_t c) const;

 private:
  enum class Kind : std::uint8_t { rows, slices, patches, steps, states };
  using Rows = std::function<void(std::span<const float>)>;
  Layer(const Graph&, WeightPlace, Kind);
  static bool fits(const Graph&, WeightPlace);
  void slices(const Tensor& x, std::int64_t i, const Rows& f) const;
  void patches(const Tensor& x, std::int64_t i, const Rng& rng, Threads&, const Rows& f) const;
  void steps(std::span<const Tensor> inputs, const Rows& f) const;
  void states(std::span<const Tensor> inputs, std::int64_t i, Threads&, const Rows& f) const;

  WeightPlace place_;
  Kind kind_;
  std::vector<std::size_t> reads_;
  Shape shape_;  // of the weight
  Attrs attrs_;
  std::string op_;
  std::int64_t matrices_, m_ = 0, n_ = 0, taps_ = 1;
  bool out_first_ = false;  // outputs before inputs in the stored weight
  bool turned_ = false;     // Gemm: rows are the columns of the input
};

}  // namespace qtool::solve
