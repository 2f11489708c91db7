// SPDX-License-Identifier: Apache-2.0
// Grid: what the weights of one matrix may become. A matrix W [m, n] (m outputs, n inputs) is held by columns, so that
// the weights of one input lie side by side and row is vector lane; its columns are cut into planes (groups of inputs
// that share a scale), and every row of a plane has a scale and a zero point.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "formats/ir/quant.h"
#include "formats/number/nearest.h"

namespace qtool::solve {

/// How the range of a scale is chosen (gptq.md 4.2, layerwise-optimizers.md section 1).
struct Clip {
  enum class Kind : std::uint8_t {
    minmax,    // all of it
    mse,       // least squared error
    weighted,  // least squared error, each input weighted by its H_kk
    block,     // least e H_gg e^T over the inputs of the plane; `weighted` for planes of more than 1024 inputs
  };
  Kind kind = Kind::minmax;
  int points = 40;     // ranges that are tried
  float least = 0.2F;  // the smallest is above it, as a share of the whole
  float power = 2;     // of errors, in place of the square
  float most = 1;      // the largest, as a share of the whole
};

class Grid {
 public:
  /// `like`: the decision, whose scales (if any) are not looked at. `plane_of`: of each column, ascending from 0.
  Grid(const QuantSpec& like, std::int64_t m, std::vector<std::int32_t> plane_of);

  std::int64_t rows() const { return m_; }
  std::int64_t planes() const { return planes_; }
  std::int32_t plane(std::int64_t column) const { return plane_of_[static_cast<std::size_t>(column)]; }
  std::span<float> scale(std::int64_t plane) { return row_of(scale_, plane); }
  std::span<float> zero(std::int64_t plane) { return row_of(zero_, plane); }
  std::span<const float> scale(std::int64_t plane) const { return row_of(scale_, plane); }
  std::span<const float> zero(std::int64_t plane) const { return row_of(zero_, plane); }
  const QuantSpec& like() const { return like_; }
  /// Symmetric codes of an unsigned format lie about their middle; told from the whole matrix.
  void set_centred(bool centred) { centred_ = centred; }

  /// Scales and zero points of rows [first, first + rows) of a plane from its `columns` columns: w[c * ld + r] is row
  /// first + r. `h`: H of these columns, ld `columns` (weighted: its diagonal is read; block: all of it); may be null
  /// where the clip does not ask for it.
  void fit(std::int64_t plane, std::int64_t first, std::int64_t rows, std::int64_t columns, const float* w,
           std::int64_t ld, const double* h, const Clip& clip);

  /// Row r as the other one has it: its scales and zero points in all planes.
  void take_row(const Grid& other, std::int64_t r);

  /// Nearest values of `count` weights of one column, rows from `first` on, as codes and as numbers (the float32
  /// product of scale and level, as runtimes form it).
  /// T: float or double.
  template <class T>
  void nearest(std::int64_t column, std::int64_t first, std::int64_t count, const T* w, std::int16_t* codes,
               T* values) const {
    nearest_in(plane(column), first, count, w, codes, values);
  }

 private:
  template <class T>
  void nearest_in(std::int64_t plane, std::int64_t first, std::int64_t count, const T* w, std::int16_t* codes,
                  T* values) const;
  template <class V>
  static auto row_of(V& v, std::int64_t plane, std::int64_t m) {
    return std::span(v).subspan(static_cast<std::size_t>(plane * m), static_cast<std::size_t>(m));
  }
  std::span<float> row_of(std::vector<float>& v, std::int64_t plane) const { return row_of(v, plane, m_); }
  std::span<const float> row_of(const std::vector<float>& v, std::int64_t plane) const { return row_of(v, plane, m_); }

  QuantSpec like_;
  std::shared_ptr<const Nearest> reals_;  // formats that are no integers
  std::int64_t m_, planes_;
  std::vector<std::int32_t> plane_of_;
  std::vector<float> scale_, zero_;
  float lowest_, highest_;
  bool centred_ = false;
};

}  // namespace qtool::solve
