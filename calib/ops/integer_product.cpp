// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/integer_product.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "calib/ops/operand.h"

namespace qtool {
namespace {

constexpr double exact_in_float = 16777216.0;  // 2^24

double largest(const Tensor& t) {
  float out = 0;
  for (const float v : t.read<float>()) out = std::max(out, std::abs(v));
  return static_cast<double>(out);
}

/// Largest sum of |b| over the summed index, of any column of any matrix of the stack.
double largest_column_sum(const MatMulPlan& p, const Tensor& b) {
  const float* from = b.read<float>().data();
  const std::int64_t matrices = p.k * p.n == 0 ? 0 : b.count() / (p.k * p.n);
  float out = 0;
  std::vector<float> sums(at(p.n));
  for (std::int64_t t = 0; t < matrices; ++t, from += p.k * p.n) {
    std::fill(sums.begin(), sums.end(), 0.0F);
    for (std::int64_t l = 0; l < p.k; ++l) {
      for (std::int64_t j = 0; j < p.n; ++j) {
        sums[at(j)] += std::abs(from[p.transpose_b ? j * p.k + l : l * p.n + j]);
      }
    }
    for (const float s : sums) out = std::max(out, s);
  }
  return static_cast<double>(out);
}

Tensor to_f64(const Tensor& t) {
  Tensor out(DType::f64, t.shape());
  const auto from = t.read<float>();
  std::copy(from.begin(), from.end(), out.write<double>().begin());
  return out;
}

}  // namespace

Tensor centred(const Tensor& codes, const Tensor& zero_point, std::int64_t axis, std::string_view what) {
  require(codes.dtype() == DType::i8 || codes.dtype() == DType::u8,
          std::string(what) + " has type " + std::string(name_of(codes.dtype())) + " where 8-bit codes are needed");
  Tensor out = to_f32(codes);
  if (zero_point.empty()) return out;
  const Tensor zeros = to_f32(zero_point);
  const auto z = zeros.read<float>();
  const auto to = out.write<float>();
  if (zeros.count() == 1) {
    if (z[0] != 0) {
      for (float& v : to) v -= z[0];
    }
    return out;
  }
  axis = op::axis_in(axis, codes.rank());
  const std::int64_t n = codes.shape()[at(axis)], inner = op::extent(codes.shape(), axis + 1, codes.rank());
  require(zeros.count() == n, std::string(what) + " of shape " + to_string(codes.shape()) + " has " +
                                  std::to_string(zeros.count()) + " zero points");
  for (std::size_t i = 0; i < to.size(); ++i) to[i] -= z[at(static_cast<std::int64_t>(i) / inner % n)];
  return out;
}

Tensor exact_product(Threads& threads, const MatMulPlan& p, const Tensor& a, const Tensor& b) {
  const bool small = largest(a) * largest_column_sum(p, b) <= exact_in_float;
  Tensor y(small ? DType::f32 : DType::f64, p.output);
  if (small) {
    multiply_stacks<float>(threads, p, 1.0F, a.read<float>().data(), b.read<float>().data(), y.write<float>().data());
  } else {
    const Tensor wide_a = to_f64(a), wide_b = to_f64(b);
    multiply_stacks<double>(threads, p, 1.0, wide_a.read<double>().data(), wide_b.read<double>().data(),
                            y.write<double>().data());
  }
  return y;
}

Tensor exact_convolution(Threads& threads, const Convolution& c, const Tensor& x, const Tensor& kernel) {
  const std::int64_t channels = c.groups * c.outputs, depth = c.depth();
  double widest = 0;
  const float* w = kernel.read<float>().data();
  for (std::int64_t m = 0; m < channels; ++m) {
    float sum = 0;
    for (std::int64_t i = 0; i < depth; ++i) sum += std::abs(w[m * depth + i]);
    widest = std::max(widest, static_cast<double>(sum));
  }
  const Shape shape = c.window.output_shape(c.batch, channels);
  if (largest(x) * widest <= exact_in_float) {
    Tensor y(DType::f32, shape);
    convolve<float>(threads, c, x.read<float>().data(), w, nullptr, y.write<float>().data());
    return y;
  }
  Tensor y(DType::f64, shape);
  const Tensor wide_x = to_f64(x), wide_w = to_f64(kernel);
  convolve<double>(threads, c, wide_x.read<double>().data(), wide_w.read<double>().data(), nullptr,
                   y.write<double>().data());
  return y;
}

Tensor sums_to_i32(const Tensor& sums) {
  Tensor out(DType::i32, sums.shape());
  const auto to = out.write<std::int32_t>();
  if (sums.dtype() == DType::f32) {
    const auto from = sums.read<float>();
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<std::int32_t>(from[i]);
  } else {
    const auto from = sums.read<double>();
    for (std::size_t i = 0; i < to.size(); ++i) {
      to[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(static_cast<std::int64_t>(from[i])));
    }
  }
  return out;
}

Tensor saturated(Threads& threads, const Tensor& x, float zero_point, DType dtype) {
  Tensor y(dtype, x.shape());
  const CodeRange range = code_range(dtype);
  const float* from = x.read<float>().data();
  const float low = range.low - zero_point, high = range.high - zero_point;
  op::for_integer_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    op::map(threads, from, y.write<T>().data(), x.count(),
            [=](float v) { return code_of<T>(v, low, high, zero_point); });
  });
  return y;
}

}  // namespace qtool
