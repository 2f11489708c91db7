// SPDX-License-Identifier: Apache-2.0
// DFT and STFT. A signal's last axis holds one number (real) or two (real and imaginary part).
#include <algorithm>
#include <complex>
#include <optional>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/fourier.h"
#include "calib/ops/operand.h"
#include "calib/ops/rows.h"

namespace qtool::op {
namespace {

using Complex = Fourier::Complex;

/// Entries of a spectrum of length n that are put out.
std::int64_t bins(std::int64_t n, bool onesided) { return onesided ? n / 2 + 1 : n; }

struct Transform {
  bool inverse, onesided;
  std::int64_t given, length;  // entries along the axis: in the input, and as transformed

  bool real_output() const { return inverse && onesided; }
  std::int64_t results() const { return inverse ? length : bins(length, onesided); }
};

template <class Context>
std::int64_t axis_of(const Context& c, const Tensor& axis_input, std::int64_t rank) {
  std::int64_t axis = c.opset < 20 ? c.attrs().get("axis", std::int64_t{1}) : -2;
  if (c.opset >= 20 && axis_input) axis = one_integer(axis_input, "axis");
  axis = axis_in(axis, rank);
  require(axis != rank - 1, "the last axis of a signal cannot be transformed");
  return axis;
}

template <class Context>
Transform transform_of(const Context& c, std::int64_t given, const Tensor& length_input) {
  Transform t{c.attrs().get("inverse", std::int64_t{0}) != 0, c.attrs().get("onesided", std::int64_t{0}) != 0, given,
              given};
  if (t.real_output()) t.length = 2 * (given - 1);
  if (length_input) t.length = one_integer(length_input, "dft_length");
  require(t.length > 0, "a Fourier transform of length " + std::to_string(t.length) + " is not defined");
  return t;
}

/// The signal as the transform sees it: cut or padded with zeros; half a spectrum completed by symmetry.
void prepare(const Transform& t, std::vector<Complex>& x) {
  x.resize(at(t.length));
  if (!t.real_output()) return;
  x[0] = x[0].real();
  if (t.length % 2 == 0) x[at(t.length / 2)] = x[at(t.length / 2)].real();
  for (std::int64_t i = t.length / 2 + 1; i < t.length; ++i) x[at(i)] = std::conj(x[at(t.length - i)]);
}

template <class T>
Complex number(const T* x, std::int64_t parts) {
  return {static_cast<double>(x[0]), parts == 2 ? static_cast<double>(x[1]) : 0.0};
}

void require_signal(const Shape& s, std::size_t rank) {
  require(s.size() >= rank && (s.back() == 1 || s.back() == 2),
          "a signal of shape " + to_string(s) + " is not real or complex");
}

void dft(const OpContext& c) {
  const Tensor x = compute_float(c.in(0), "the signal");
  require_signal(x.shape(), 2);
  const std::int64_t axis = axis_of(c, c.in(2), x.rank()), parts = x.shape().back();
  const Transform t = transform_of(c, x.shape()[at(axis)], c.in(1));
  Shape shape = x.shape();
  shape[at(axis)] = t.results();
  shape.back() = t.real_output() ? 1 : 2;
  Tensor y(x.dtype(), shape);
  const std::int64_t inner = extent(x.shape(), axis + 1, x.rank() - 1), outer = extent(x.shape(), 0, axis);
  const Fourier fourier(t.length, t.inverse);
  for_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* from = x.read<T>().data();
    T* to = y.write<T>().data();
    for_rows(c.threads, outer * inner, 8 * t.length, [&](std::int64_t row) {
      const std::int64_t o = row / inner, i = row % inner;
      std::vector<Complex> in, out(at(t.length));
      for (std::int64_t k = 0; k < std::min(t.given, t.length); ++k) {
        in.push_back(number(from + ((o * t.given + k) * inner + i) * parts, parts));
      }
      prepare(t, in);
      fourier.run(in.data(), out.data());
      for (std::int64_t k = 0; k < t.results(); ++k) {
        T* result = to + ((o * t.results() + k) * inner + i) * shape.back();
        result[0] = static_cast<T>(out[at(k)].real());
        if (shape.back() == 2) result[1] = static_cast<T>(out[at(k)].imag());
      }
    });
  });
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

void dft_infer(InferContext& c) {
  if (!c.in(0).known_dtype) return;
  c.out(0, c.in(0).dtype);
  const bool axis_known = c.opset < 20 || !c.has(2) || c.constant(2);
  if (!c.in(0).known_rank || c.in(0).shape.size() < 2 || !axis_known) return;
  Shape shape = c.in(0).shape;
  const std::int64_t axis = axis_of(c, c.constant(2), static_cast<std::int64_t>(shape.size()));
  const bool length_known = c.has(1) ? bool(c.constant(1)) : shape[at(axis)] > 0;
  const Transform t = transform_of(c, length_known ? shape[at(axis)] : 2, length_known ? c.constant(1) : Tensor());
  shape[at(axis)] = length_known ? t.results() : -1;
  shape.back() = t.real_output() ? 1 : 2;
  c.out(0, c.in(0).dtype, shape);
}

// ---- STFT(signal [batch, length, 1 or 2], frame_step, window, frame_length)

struct Frames {
  std::int64_t step, length, count, bins;  // -1 where unknown
};

/// `signal`, `window`: lengths, -1 where unknown. `step`, `length`: one number, or empty.
Frames frames_of(const Attrs& attrs, std::int64_t signal, std::int64_t window, const Tensor& step, const Tensor& length,
                 bool has_window, bool has_length) {
  Frames f{step ? one_integer(step, "frame_step") : -1, -1, -1, -1};
  require(!step || f.step > 0, "frame_step has the value " + std::to_string(f.step));
  if (length) {
    f.length = one_integer(length, "frame_length");
  } else if (!has_length) {
    f.length = has_window ? window : signal;
  }
  if (f.length < 0 && !length) return f;
  require(f.length > 0 && (signal < 0 || f.length <= signal) && (!has_window || window < 0 || window == f.length),
          "frames of length " + std::to_string(f.length) + " do not fit the signal or the window");
  f.bins = bins(f.length, attrs.get("onesided", std::int64_t{1}) != 0);
  if (signal >= 0 && f.step > 0) f.count = (signal - f.length) / f.step + 1;
  return f;
}

void stft(const OpContext& c) {
  const Tensor x = compute_float(c.in(0), "the signal");
  require_signal(x.shape(), 3);
  require(x.rank() == 3, "STFT needs a signal [batch, length, 1 or 2]");
  const Tensor window = c.has(2) ? compute_float(c.in(2), "the window") : Tensor();
  require(!window || (window.rank() == 1 && window.dtype() == x.dtype()), "the window of STFT does not fit");
  const std::int64_t batch = x.shape()[0], length = x.shape()[1], parts = x.shape()[2];
  const Frames f = frames_of(c.attrs(), length, window ? window.count() : -1, c.in(1), c.in(3), bool(window), c.has(3));
  Tensor y(x.dtype(), {batch, f.count, f.bins, 2});
  const Fourier fourier(f.length, false);
  for_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T *from = x.read<T>().data(), *weights = window ? window.read<T>().data() : nullptr;
    T* to = y.write<T>().data();
    for_rows(c.threads, batch * f.count, 8 * f.length, [&](std::int64_t row) {
      const T* first = from + (row / f.count * length + row % f.count * f.step) * parts;
      std::vector<Complex> in, out(at(f.length));
      for (std::int64_t i = 0; i < f.length; ++i) {
        in.push_back(number(first + i * parts, parts) * (weights ? static_cast<double>(weights[i]) : 1.0));
      }
      fourier.run(in.data(), out.data());
      for (std::int64_t k = 0; k < f.bins; ++k) {
        to[(row * f.bins + k) * 2] = static_cast<T>(out[at(k)].real());
        to[(row * f.bins + k) * 2 + 1] = static_cast<T>(out[at(k)].imag());
      }
    });
  });
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

void stft_infer(InferContext& c) {
  if (!c.in(0).known_dtype) return;
  c.out(0, c.in(0).dtype);
  if (!c.in(0).known_rank || c.in(0).shape.size() != 3) return;
  const bool window_known = c.in(2).known_rank && c.in(2).shape.size() == 1;
  const Frames f = frames_of(c.attrs(), c.in(0).shape[1], window_known ? c.in(2).shape[0] : -1, c.constant(1),
                             c.constant(3), c.has(2), c.has(3));
  c.out(0, c.in(0).dtype, {c.in(0).shape[0], f.count, f.bins, 2});
}

}  // namespace

constinit const OpDef DFT{"DFT", "", 17, dft_infer, dft, nullptr};
constinit const OpDef STFT{"STFT", "", 17, stft_infer, stft, nullptr};

}  // namespace qtool::op
