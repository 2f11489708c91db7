// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/code_product.h"

#include <algorithm>
#include <optional>
#include <string>

#include "calib/ops/integer_product.h"
#include "calib/ops/operand.h"
#include "calib/ops/slide.h"
#include "calib/ops/widest.h"
#include "formats/base/integer_product.h"

namespace qtool {
namespace {

// A block of columns of the image, in bytes, should stay in the second-level cache.
constexpr std::int64_t column_block = 256 * 1024;

bool is_code(DType t) { return t == DType::i8 || t == DType::u8; }

/// Zero points of `count` rows or columns, repeated where stacks were joined to one tall matrix; nothing where the
/// kernels do not take them.
std::optional<std::vector<std::int32_t>> zero_points(const Tensor& zero, std::int64_t each, std::int64_t count) {
  if (zero.empty()) return std::vector<std::int32_t>{};
  if (!is_code(zero.dtype())) return std::nullopt;
  const Tensor as_float = to_f32(zero);
  std::vector<std::int32_t> out;
  for (const float z : as_float.read<float>()) out.push_back(static_cast<std::int32_t>(z));
  if (out.size() == 1) return out;
  if (static_cast<std::int64_t>(out.size()) != each || each == 0) return std::nullopt;
  out.resize(at(count));
  for (std::int64_t i = each; i < count; ++i) out[at(i)] = out[at(i % each)];
  return out;
}

/// False where the kernels do not fit.
bool multiply_on_kernels(Threads& threads, const MatMulPlan& p, const Tensor& a, const Tensor& a_zero, const Tensor& b,
                         const Tensor& b_zero, Tensor& sums) {
  if (threads.integers() == nullptr || !is_code(a.dtype()) || !is_code(b.dtype())) return false;
  const std::int64_t rows = a.rank() < 2 ? 1 : a.shape()[at(a.rank() - (p.transpose_a ? 1 : 2))];
  const auto za = zero_points(a_zero, rows, p.m), zb = zero_points(b_zero, b.rank() < 2 ? 1 : p.n, p.n);
  if (!za || !zb) return false;
  std::int32_t* to = sums.write<std::int32_t>().data();
  const auto one = [&](std::int64_t t) {
    IntegerProduct product{p.m, p.n, p.k, {}, {}, to + t * p.m * p.n, p.n};
    product.a = {a.bytes().data() + p.a_offsets[at(t)], p.transpose_a ? p.m : p.k, a.dtype() == DType::i8,
                 p.transpose_a, *za};
    product.b = {b.bytes().data() + p.b_offsets[at(t)], p.transpose_b ? p.k : p.n, b.dtype() == DType::i8,
                 p.transpose_b, *zb};
    threads.integers()->multiply(threads, product);
  };
  constexpr std::int64_t large = 1 << 23;  // multiplications that are worth several threads
  if (p.batches() == 1 || (p.batches() < 8 && p.m * p.n * p.k > large)) {
    for (std::int64_t t = 0; t < p.batches(); ++t) one(t);
  } else {
    threads.for_each(p.batches(), std::max<std::int64_t>(1, large / 16 / std::max<std::int64_t>(1, p.m * p.n * p.k)),
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t t = begin; t < end; ++t) one(t);
                     });
  }
  return true;
}

/// Image or kernel less its zero point, modulo 2^32.
void widen(const Tensor& codes, std::int64_t first, std::int64_t n, std::int32_t zero, std::uint32_t* to) {
  const auto copy = [&](const auto* from) {
    with_widest_vectors([&]() QTOOL_INLINE {
      for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<std::uint32_t>(from[first + i] - zero);
    });
  };
  codes.dtype() == DType::i8 ? copy(codes.read<std::int8_t>().data()) : copy(codes.read<std::uint8_t>().data());
}

/// One input channel per output channel: too little arithmetic for a matrix product.
void convolve_depthwise(Threads& threads, const Convolution& c, const Tensor& x, std::int32_t x_zero,
                        const Tensor& kernel, const std::vector<std::int32_t>& kernel_zero, std::uint32_t* y) {
  const Window& w = c.window;
  const std::int64_t channels = c.groups * c.outputs;
  const std::int64_t work = std::max<std::int64_t>(1, w.output_size() * w.kernel_size());
  threads.for_each(
      c.batch * channels, std::max<std::int64_t>(1, (1 << 17) / work), [&](std::int64_t begin, std::int64_t end) {
        std::vector<std::uint32_t> plane(at(w.input_size())), taps(at(w.kernel_size())), scratch;
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t n = i / channels, m = i % channels;
          widen(x, (n * c.groups + m / c.outputs) * w.input_size(), w.input_size(), x_zero, plane.data());
          const std::size_t z = kernel_zero.size() == 1 ? 0 : at(m);
          widen(kernel, m * w.kernel_size(), w.kernel_size(), kernel_zero.empty() ? 0 : kernel_zero[z], taps.data());
          with_widest_vectors([&]() QTOOL_INLINE {
            Slide<AddProduct, std::uint32_t>(w, plane.data(), taps.data(), 0U, y + i * w.output_size()).run(scratch);
          });
        }
      });
}

/// The kernel times a matrix of columns: bytes of the image where a tap sees it, its zero point outside.
void convolve_by_columns(Threads& threads, const Convolution& c, const Tensor& x,
                         const std::vector<std::int32_t>& x_zero, const Tensor& kernel,
                         const std::vector<std::int32_t>& kernel_zero, std::int32_t* y) {
  const Window& w = c.window;
  const std::int64_t positions = w.output_size(), depth = c.depth(), images = c.batch * c.groups;
  std::int64_t width = std::max<std::int64_t>(64, column_block / std::max<std::int64_t>(depth, 1) / 64 * 64);
  constexpr std::int64_t wanted_tasks = 4;  // of one image, so that several threads find work
  if (images < wanted_tasks)
    width = std::min(width, std::max<std::int64_t>(64, (positions / wanted_tasks + 63) / 64 * 64));
  width = std::min(width, positions);
  const std::int64_t across = (positions + width - 1) / width;
  const auto* image_codes = reinterpret_cast<const std::uint8_t*>(x.bytes().data());
  const auto outside = static_cast<std::uint8_t>(x_zero.empty() ? 0 : x_zero[0]);
  threads.for_each(images * across, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint8_t> columns;
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t image = t / across, channel = image % c.groups * c.outputs;
      const std::int64_t first = t % across * width, last = std::min(first + width, positions);
      IntegerProduct p{c.outputs, last - first, depth, {}, {}, y + image * c.outputs * positions + first, positions};
      p.a = {kernel.bytes().data() + channel * depth, depth, kernel.dtype() == DType::i8, false, kernel_zero};
      if (kernel_zero.size() > 1) p.a.zero_points = p.a.zero_points.subspan(at(channel), at(c.outputs));
      const std::uint8_t* from = image_codes + image * c.inputs * w.input_size();
      p.b = {reinterpret_cast<const std::byte*>(from) + first, positions, x.dtype() == DType::i8, false, x_zero};
      if (!w.is_pointwise()) {
        columns.resize(at(depth * (last - first)));
        image_to_columns(w, from, c.inputs, first, last, columns.data(), last - first, outside);
        p.b.codes = reinterpret_cast<const std::byte*>(columns.data());
        p.b.stride = last - first;
      }
      threads.integers()->multiply(threads, p);
    }
  });
}

/// False where the kernels do not fit.
bool convolve_on_kernels(Threads& threads, const Convolution& c, const Tensor& x, const Tensor& x_zero,
                         const Tensor& kernel, const Tensor& kernel_zero, Tensor& sums) {
  if (threads.integers() == nullptr || !is_code(x.dtype()) || !is_code(kernel.dtype())) return false;
  const std::int64_t channels = c.groups * c.outputs;
  const auto zx = zero_points(x_zero, 1, 1), zk = zero_points(kernel_zero, channels, channels);
  if (!zx || !zk) return false;
  std::int32_t* y = sums.write<std::int32_t>().data();
  if (c.inputs == 1 && c.groups > 1) {
    convolve_depthwise(threads, c, x, zx->empty() ? 0 : zx->front(), kernel, *zk, reinterpret_cast<std::uint32_t*>(y));
  } else {
    convolve_by_columns(threads, c, x, *zx, kernel, *zk, y);
  }
  return true;
}

/// out[i] = f(sum, scale) for every sum with its bias added.
template <class R, class F>
void for_sums(Threads& threads, const Tensor& sums, const SumScales& s, R* to, const F& f) {
  const bool along = s.n > 1 && s.inner == 1;  // neighbours have different scales
  const std::int64_t run = along ? s.n : s.n == 1 ? sums.count() : s.inner;
  if (sums.count() == 0) return;
  require(s.scales.size() == 1 || static_cast<std::int64_t>(s.scales.size()) == s.n, "there are too few scales");
  std::vector<float> scales(at(s.n), s.scales[0]);
  if (s.scales.size() > 1) scales = s.scales;
  std::vector<std::uint32_t> bias(at(s.n), 0);
  if (s.bias) {
    require(s.bias.dtype() == DType::i32 && s.bias.count() == s.n, "the bias is not one int32 per output channel");
    std::copy(s.bias.read<std::int32_t>().begin(), s.bias.read<std::int32_t>().end(), bias.begin());
  }
  const auto* from = reinterpret_cast<const std::uint32_t*>(sums.read<std::int32_t>().data());
  if (s.n == 1) {
    threads.for_each(run, 1 << 15, [&](std::int64_t begin, std::int64_t end) {
      with_widest_vectors([&]() QTOOL_INLINE {
        const float scale = scales[0];
        const std::uint32_t b = bias[0];
        QTOOL_INDEPENDENT
        for (std::int64_t i = begin; i < end; ++i) to[i] = f(static_cast<std::int32_t>(from[i] + b), scale);
      });
    });
    return;
  }
  threads.for_each(sums.count() / run, std::max<std::int64_t>(1, (1 << 15) / run),
                   [&](std::int64_t begin, std::int64_t end) {
                     with_widest_vectors([&]() QTOOL_INLINE {
                       for (std::int64_t row = begin; row < end; ++row) {
                         const std::uint32_t* in = from + row * run;
                         R* out = to + row * run;
                         if (along) {
                           const float* scale = scales.data();
                           const std::uint32_t* b = bias.data();
                           QTOOL_INDEPENDENT
                           for (std::int64_t i = 0; i < run; ++i) {
                             out[i] = f(static_cast<std::int32_t>(in[i] + b[i]), scale[i]);
                           }
                         } else {
                           const float scale = scales[at(row % s.n)];
                           const std::uint32_t b = bias[at(row % s.n)];
                           QTOOL_INDEPENDENT
                           for (std::int64_t i = 0; i < run; ++i) {
                             out[i] = f(static_cast<std::int32_t>(in[i] + b), scale);
                           }
                         }
                       }
                     });
                   });
}

}  // namespace

Tensor product_of_codes(Threads& threads, const MatMulPlan& plan, const Tensor& a, const Tensor& a_zero,
                        const Tensor& b, const Tensor& b_zero) {
  Tensor sums = Tensor::unset(DType::i32, plan.output);
  if (multiply_on_kernels(threads, plan, a, a_zero, b, b_zero, sums)) return sums;
  const std::int64_t row_axis = a.rank() >= 2 ? a.rank() - 2 : 0;
  return sums_to_i32(exact_product(threads, plan,
                                   centred(a, a_zero, plan.transpose_a ? a.rank() - 1 : row_axis, "operand A"),
                                   centred(b, b_zero, plan.transpose_b ? b.rank() - 2 : b.rank() - 1, "operand B")));
}

Tensor convolution_of_codes(Threads& threads, const Convolution& c, const Tensor& x, const Tensor& x_zero,
                            const Tensor& kernel, const Tensor& kernel_zero) {
  Tensor sums = Tensor::unset(DType::i32, c.window.output_shape(c.batch, c.groups * c.outputs));
  if (convolve_on_kernels(threads, c, x, x_zero, kernel, kernel_zero, sums)) return sums;
  return sums_to_i32(
      exact_convolution(threads, c, centred(x, x_zero, 1, "the image"), centred(kernel, kernel_zero, 0, "the kernel")));
}

Tensor scaled_sums(Threads& threads, const Tensor& sums, const SumScales& s) {
  Tensor out = Tensor::unset(DType::f32, sums.shape());
  for_sums(threads, sums, s, out.write<float>().data(),
           [](std::int32_t sum, float scale) QTOOL_INLINE { return static_cast<float>(sum) * scale; });
  return out;
}

Tensor requantized_sums(Threads& threads, const Tensor& sums, const SumScales& s, float zero_point, DType dtype) {
  Tensor out = Tensor::unset(dtype, sums.shape());
  const CodeRange range = code_range(dtype);
  const float low = range.low - zero_point, high = range.high - zero_point;
  op::for_integer_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    for_sums(threads, sums, s, out.write<T>().data(), [=](std::int32_t sum, float scale) QTOOL_INLINE {
      return code_of<T>(static_cast<float>(sum) * scale, low, high, zero_point);
    });
  });
  return out;
}

}  // namespace qtool
