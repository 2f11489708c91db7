// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/code_product.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "calib/ops/code_planes.h"
#include "calib/ops/conv_direct.h"
#include "calib/ops/integer_product.h"
#include "calib/ops/operand.h"
#include "calib/ops/scratch.h"
#include "calib/ops/slide.h"
#include "formats/base/integer_product.h"
#include "formats/base/widest.h"

namespace qtool {
namespace {

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

/// Where products on the kernels go: int32 sums, or what SumsTo makes of them. Per row or column of one product.
class Destination {
 public:
  explicit Destination(Tensor& sums) : sums_(sums.write<std::int32_t>().data()) {}
  Destination(const SumsTo& to, std::int64_t n, bool by_row, Tensor& out) : scales_(to.scales.scales) {
    require(scales_.size() == 1 || static_cast<std::int64_t>(scales_.size()) == n, "there are too few scales");
    if (scales_.size() == 1) scales_.resize(at(n), scales_[0]);
    s_.by_row = by_row;
    s_.scales = scales_.data();
    bias_ = to.scales.bias;
    if (bias_) {
      require(bias_.dtype() == DType::i32 && bias_.count() == n, "the bias is not one int32 per output channel");
      s_.bias = bias_.read<std::int32_t>().data();
    }
    if (to.dtype == DType::f32) {
      s_.floats = out.write<float>().data();
      return;
    }
    const CodeRange range = code_range(to.dtype);
    s_.codes = reinterpret_cast<std::uint8_t*>(out.write_bytes().data());
    s_.zero_point = to.zero_point;
    s_.low = range.low - to.zero_point;
    s_.high = range.high - to.zero_point;
  }

  /// Multiplies: the result is what begins at `element`, its scales at `first`.
  void multiply(Threads& threads, IntegerProduct p, std::int64_t element, std::int64_t first) const {
    if (sums_ != nullptr) {
      p.c = sums_ + element;
      return threads.integers()->multiply(threads, p);
    }
    SumScaling s = s_;
    s.scales += first;
    if (s.bias != nullptr) s.bias += first;
    if (s.codes != nullptr) s.codes += element;
    if (s.floats != nullptr) s.floats += element;
    p.scaling = &s;
    threads.integers()->multiply(threads, p);
  }

 private:
  std::int32_t* sums_ = nullptr;
  std::vector<float> scales_;
  Tensor bias_;
  SumScaling s_;
};

/// False where the kernels do not fit.
bool multiply_on_kernels(Threads& threads, const MatMulPlan& p, const Tensor& a, const Tensor& a_zero, const Tensor& b,
                         const Tensor& b_zero, const Destination& to) {
  if (threads.integers() == nullptr || !is_code(a.dtype()) || !is_code(b.dtype())) return false;
  const std::int64_t rows = a.rank() < 2 ? 1 : a.shape()[at(a.rank() - (p.transpose_a ? 1 : 2))];
  const auto za = zero_points(a_zero, rows, p.m), zb = zero_points(b_zero, b.rank() < 2 ? 1 : p.n, p.n);
  if (!za || !zb) return false;
  const auto one = [&](std::int64_t t) {
    IntegerProduct product{p.m, p.n, p.k, {}, {}, nullptr, p.n};
    product.a = {a.bytes().data() + p.a_offsets[at(t)], p.transpose_a ? p.m : p.k, a.dtype() == DType::i8,
                 p.transpose_a, *za};
    product.b = {b.bytes().data() + p.b_offsets[at(t)], p.transpose_b ? p.k : p.n, b.dtype() == DType::i8,
                 p.transpose_b, *zb};
    to.multiply(threads, product, t * p.m * p.n, 0);
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

/// Codes less their zero point, modulo 2^32 where T is an integer.
template <class T>
void widen(const Tensor& codes, std::int64_t first, std::int64_t n, std::int32_t zero, T* to) {
  const auto copy = [&](const auto* from) {
    with_widest_vectors([&]() QTOOL_INLINE {
      for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(from[first + i] - zero);
    });
  };
  codes.dtype() == DType::i8 ? copy(codes.read<std::int8_t>().data()) : copy(codes.read<std::uint8_t>().data());
}

std::int32_t zero_of(const std::vector<std::int32_t>& zeros, std::int64_t channel) {
  return zeros.empty() ? 0 : zeros[zeros.size() == 1 ? 0 : at(channel)];
}

/// The same as floats, on the way of float convolutions: sums of so few products of codes are exact.
void convolve_depthwise_exactly(Threads& threads, Convolution c, const Tensor& x, std::int32_t x_zero,
                                const Tensor& kernel, const std::vector<std::int32_t>& kernel_zero, std::int32_t* y) {
  const std::int64_t images = c.batch, channels = c.groups * c.outputs, taps = c.window.kernel_size();
  const std::int64_t plane = c.window.input_size(), positions = c.window.output_size();
  const auto image = scratch_of<float>(c.groups * plane), sums = scratch_of<float>(channels * positions);
  std::vector<float> wide(at(channels * taps));
  for (std::int64_t m = 0; m < channels; ++m)
    widen(kernel, m * taps, taps, zero_of(kernel_zero, m), &wide[at(m * taps)]);
  c.batch = 1;
  constexpr std::int64_t piece = 1 << 15;
  for (std::int64_t n = 0; n < images; ++n) {
    threads.for_each(c.groups * plane, piece, [&](std::int64_t begin, std::int64_t end) {
      widen(x, n * c.groups * plane + begin, end - begin, x_zero, image.get() + begin);
    });
    convolve<float>(threads, c, image.get(), wide.data(), nullptr, sums.get());
    op::map(threads, sums.get(), y + n * channels * positions, channels * positions,
            [](float v) { return static_cast<std::int32_t>(v); });
  }
}

/// One input channel per output channel: too little arithmetic for a matrix product. False for codes of other types.
bool convolve_depthwise(Threads& threads, const Convolution& c, const Tensor& x, const Tensor& x_zeros,
                        const Tensor& kernel, const Tensor& kernel_zeros, Tensor& sums) {
  if (threads.integers() == nullptr || !is_code(x.dtype()) || !is_code(kernel.dtype())) return false;
  const auto zx = zero_points(x_zeros, 1, 1),
             zk = zero_points(kernel_zeros, c.groups * c.outputs, c.groups * c.outputs);
  if (!zx || !zk) return false;
  const std::int32_t x_zero = zero_of(*zx, 0);
  const std::vector<std::int32_t>& kernel_zero = *zk;
  std::int32_t* const y = sums.write<std::int32_t>().data();
  const Window& w = c.window;
  constexpr std::int64_t most_taps = (1 << 24) / (255 * 255);  // whose sums are exact in float
  if (w.kernel_size() <= most_taps && convolves_directly(c)) {
    convolve_depthwise_exactly(threads, c, x, x_zero, kernel, kernel_zero, y);
    return true;
  }
  const std::int64_t channels = c.groups * c.outputs;
  const std::int64_t work = std::max<std::int64_t>(1, w.output_size() * w.kernel_size());
  threads.for_each(c.batch * channels, std::max<std::int64_t>(1, (1 << 17) / work),
                   [&](std::int64_t begin, std::int64_t end) {
                     std::vector<std::uint32_t> plane(at(w.input_size())), taps(at(w.kernel_size())), scratch;
                     for (std::int64_t i = begin; i < end; ++i) {
                       const std::int64_t n = i / channels, m = i % channels;
                       widen(x, (n * c.groups + m / c.outputs) * w.input_size(), w.input_size(), x_zero, plane.data());
                       widen(kernel, m * w.kernel_size(), w.kernel_size(), zero_of(kernel_zero, m), taps.data());
                       auto* const to = reinterpret_cast<std::uint32_t*>(y) + i * w.output_size();
                       with_widest_vectors([&]() QTOOL_INLINE {
                         Slide<AddProduct, std::uint32_t>(w, plane.data(), taps.data(), 0U, to).run(scratch);
                       });
                     }
                   });
  return true;
}

/// The kernel times the image as its own matrix of columns, see code_planes.h; null: every row is a channel.
void convolve_by_columns(Threads& threads, const Convolution& c, const CodePlanes* planes, const Tensor& x,
                         const std::vector<std::int32_t>& x_zero, const std::byte* kernel, bool kernel_is_signed,
                         const std::vector<std::int32_t>& kernel_zero, const Destination& y) {
  // As signed codes, which is how kernels want this operand.
  const std::uint8_t flip = x.dtype() == DType::i8 ? 0 : 0x80;
  const std::int32_t outside = zero_of(x_zero, 0);
  const std::vector<std::int32_t> signed_zero{outside - (flip != 0 ? 128 : 0)};
  const Window& w = c.window;
  const std::int64_t positions = w.output_size(), images = c.batch * c.groups;
  const std::int64_t depth = planes == nullptr ? c.depth() : planes->depth();
  const auto* codes = reinterpret_cast<const std::uint8_t*>(x.bytes().data());
  const auto one = [&](std::int64_t image, std::uint8_t* scratch) {
    const std::int64_t channel = image % c.groups * c.outputs;
    const std::uint8_t* const from = codes + image * c.inputs * w.input_size();
    IntegerProduct p{c.outputs, positions, depth, {}, {}, nullptr, positions};
    p.a = {kernel + channel * depth, depth, kernel_is_signed, false, kernel_zero};
    if (kernel_zero.size() > 1) p.a.zero_points = p.a.zero_points.subspan(at(channel), at(c.outputs));
    p.b = {reinterpret_cast<const std::byte*>(from), positions, x.dtype() == DType::i8, false, x_zero};
    if (planes != nullptr) {
      planes->fill(threads, from, static_cast<std::uint8_t>(outside), flip, scratch);
      p.b = {reinterpret_cast<const std::byte*>(scratch), 0, true, false, signed_zero};
      p.b.rows = planes->rows.data();
      p.b.columns = planes->columns.data();
      p.line = planes->width();
      p.kept = w.output[2];
      p.n = p.line * w.output[0] * w.output[1];
    }
    y.multiply(threads, p, image * c.outputs * positions, channel);
  };
  const auto memory = [&] { return scratch_of<std::uint8_t>(planes == nullptr ? 0 : planes->size()); };
  constexpr std::int64_t wanted_tasks = 4;
  if (images < wanted_tasks) {
    const auto scratch = memory();
    for (std::int64_t i = 0; i < images; ++i) one(i, scratch.get());
    return;
  }
  constexpr std::int64_t small_work = 1 << 20;  // multiplications
  threads.for_each(images,
                   std::max<std::int64_t>(1, small_work / std::max<std::int64_t>(1, c.outputs * depth * positions)),
                   [&](std::int64_t begin, std::int64_t end) {
                     const auto scratch = memory();
                     for (std::int64_t i = begin; i < end; ++i) one(i, scratch.get());
                   });
}

bool leaves_kernels_as(DType t) { return t == DType::f32 || is_code(t); }

bool is_depthwise(const Convolution& c) { return c.inputs == 1 && c.groups > 1; }

/// False where the kernels do not fit.
bool convolve_on_kernels(Threads& threads, const Convolution& c, const Tensor& x, const Tensor& x_zero,
                         const Tensor& kernel, const Tensor& kernel_zero, Prepared* prepared, const Destination& to) {
  if (threads.integers() == nullptr || !is_code(x.dtype()) || !is_code(kernel.dtype())) return false;
  const std::int64_t channels = c.groups * c.outputs;
  const auto zx = zero_points(x_zero, 1, 1), zk = zero_points(kernel_zero, channels, channels);
  if (!zx || !zk) return false;
  if (c.window.is_pointwise()) {
    convolve_by_columns(threads, c, nullptr, x, *zx, kernel.bytes().data(), kernel.dtype() == DType::i8, *zk, to);
    return true;
  }
  const CodePlanes planes(c);
  if (planes.rows.empty()) return false;
  std::vector<std::byte> ordered;
  const std::byte* by_fours = nullptr;
  if (prepared != nullptr) {
    by_fours = reinterpret_cast<const std::byte*>(
        prepared->get([&](float* floats) { order_by_fours(kernel, reinterpret_cast<std::byte*>(floats)); }));
  } else {
    ordered.resize(at(size_by_fours(kernel)));
    order_by_fours(kernel, ordered.data());
    by_fours = ordered.data();
  }
  convolve_by_columns(threads, c, &planes, x, *zx, by_fours, kernel.dtype() == DType::i8, *zk, to);
  return true;
}

/// out[i] = f(sum, scale) for every sum with its bias added.
template <class R, class F>
void for_sums(Threads& threads, const Tensor& sums, const SumScales& s, R* to, const F& f) {
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
  constexpr std::int64_t piece = 1 << 15;
  const bool along = s.n > 1 && s.inner == 1;  // neighbours have different scales
  // Runs of neighbours that share a scale, or lines of all of them.
  const std::int64_t run = along ? s.n : s.n == 1 ? std::min(sums.count(), piece) : s.inner;
  const std::int64_t runs = (sums.count() + run - 1) / run;
  threads.for_each(runs, std::max<std::int64_t>(1, piece / run), [&](std::int64_t begin, std::int64_t end) {
    with_widest_vectors([&]() QTOOL_INLINE {
      const auto own = f;  // a copy that no store to `to` can change
      for (std::int64_t i = begin; i < end; ++i) {
        const std::uint32_t* in = from + i * run;
        const std::int64_t count = std::min(run, sums.count() - i * run);
        const float* scale = scales.data() + (along || s.n == 1 ? 0 : i % s.n);
        const std::uint32_t* b = bias.data() + (along || s.n == 1 ? 0 : i % s.n);
        if (along) {
          op::fill_by(to + i * run, count, [=](std::int64_t j) QTOOL_INLINE {
            return own(static_cast<std::int32_t>(in[j] + b[j]), scale[j]);
          });
        } else {
          const float one_scale = *scale;
          const std::uint32_t one_bias = *b;
          op::fill_by(to + i * run, count, [=](std::int64_t j) QTOOL_INLINE {
            return own(static_cast<std::int32_t>(in[j] + one_bias), one_scale);
          });
        }
      }
    });
  });
}

}  // namespace

Tensor product_of_codes(Threads& threads, const MatMulPlan& plan, const Tensor& a, const Tensor& a_zero,
                        const Tensor& b, const Tensor& b_zero) {
  Tensor sums = Tensor::unset(DType::i32, plan.output);
  if (multiply_on_kernels(threads, plan, a, a_zero, b, b_zero, Destination(sums))) return sums;
  const std::int64_t row_axis = a.rank() >= 2 ? a.rank() - 2 : 0;
  return sums_to_i32(exact_product(threads, plan,
                                   centred(a, a_zero, plan.transpose_a ? a.rank() - 1 : row_axis, "operand A"),
                                   centred(b, b_zero, plan.transpose_b ? b.rank() - 2 : b.rank() - 1, "operand B")));
}

Tensor scaled_product_of_codes(Threads& threads, const MatMulPlan& plan, const Tensor& a, const Tensor& a_zero,
                               const Tensor& b, const Tensor& b_zero, const SumsTo& to) {
  if (plan.k > 0 && plan.n > 0 && leaves_kernels_as(to.dtype)) {
    Tensor out = Tensor::unset(to.dtype, plan.output);
    if (multiply_on_kernels(threads, plan, a, a_zero, b, b_zero, Destination(to, plan.n, false, out))) return out;
  }
  return scaled_sums(threads, product_of_codes(threads, plan, a, a_zero, b, b_zero), to);
}

Tensor convolution_of_codes(Threads& threads, const Convolution& c, const Tensor& x, const Tensor& x_zero,
                            const Tensor& kernel, const Tensor& kernel_zero) {
  Tensor sums = Tensor::unset(DType::i32, c.window.output_shape(c.batch, c.groups * c.outputs));
  if (is_depthwise(c)) {
    if (convolve_depthwise(threads, c, x, x_zero, kernel, kernel_zero, sums)) return sums;
  } else if (convolve_on_kernels(threads, c, x, x_zero, kernel, kernel_zero, nullptr, Destination(sums))) {
    return sums;
  }
  return sums_to_i32(
      exact_convolution(threads, c, centred(x, x_zero, 1, "the image"), centred(kernel, kernel_zero, 0, "the kernel")));
}

std::int64_t kernel_floats(const Node&, std::size_t i, const Tensor& kernel) {
  if (i != 3) return 0;
  if (!is_code(kernel.dtype()) || kernel.rank() < 3) return 0;
  const bool depthwise = kernel.shape()[1] == 1, pointwise = op::extent(kernel.shape(), 2, kernel.rank()) == 1;
  return depthwise || pointwise ? 0 : (size_by_fours(kernel) + 3) / 4;
}

Tensor scaled_convolution_of_codes(Threads& threads, const Convolution& c, const Tensor& x, const Tensor& x_zero,
                                   const Tensor& kernel, const Tensor& kernel_zero, const SumsTo& to,
                                   Prepared* prepared) {
  const std::int64_t channels = c.groups * c.outputs;
  if (c.depth() > 0 && channels > 0 && !is_depthwise(c) && leaves_kernels_as(to.dtype)) {
    Tensor out = Tensor::unset(to.dtype, c.window.output_shape(c.batch, channels));
    if (convolve_on_kernels(threads, c, x, x_zero, kernel, kernel_zero, prepared, Destination(to, channels, true, out)))
      return out;
  }
  return scaled_sums(threads, convolution_of_codes(threads, c, x, x_zero, kernel, kernel_zero), to);
}

Tensor scaled_sums(Threads& threads, const Tensor& sums, const SumsTo& to) {
  Tensor out = Tensor::unset(to.dtype, sums.shape());
  if (to.dtype == DType::f32) {
    for_sums(threads, sums, to.scales, out.write<float>().data(),
             [](std::int32_t sum, float scale) QTOOL_INLINE { return static_cast<float>(sum) * scale; });
    return out;
  }
  const CodeRange range = code_range(to.dtype);
  const float zero_point = to.zero_point, low = range.low - zero_point, high = range.high - zero_point;
  op::for_integer_type(to.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_sums(threads, sums, to.scales, out.write<T>().data(), [=](std::int32_t sum, float scale) QTOOL_INLINE {
      return code_of<T>(static_cast<float>(sum) * scale, low, high, zero_point);
    });
  });
  return out;
}

}  // namespace qtool
