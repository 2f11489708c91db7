// SPDX-License-Identifier: Apache-2.0
// What signal processing multiplies with: BlackmanWindow, HammingWindow, HannWindow, MelWeightMatrix. Written as
// float64 and cast to output_datatype.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "calib/op.h"
#include "calib/ops/delegate.h"
#include "calib/ops/operand.h"
#include "formats/file/reader.h"

namespace qtool::op {
namespace {

// Entries of a table; more is not a window but an attack on memory.
constexpr std::int64_t largest_table = std::int64_t{1} << 28;

std::int64_t output_type(const Attrs& attrs) { return attrs.get("output_datatype", std::int64_t{1}); }

void out_as_asked(const OpContext& c, const Tensor& table) {
  Attrs to;
  to.set("to", output_type(c.attrs()));
  c.out(0, run_op(c, op::Cast, {table}, std::move(to), 13)[0]);
}

void infer_table(InferContext& c, Shape shape) {
  const std::int64_t number = output_type(c.attrs());
  const auto dtype = dtype_of_onnx(number > 0 && number < 1000 ? static_cast<std::int32_t>(number) : 0);
  if (dtype) c.out(0, *dtype, std::move(shape));
}

/// sum of weights[k] cos(2 pi k i / n), n = size or size - 1.
void window(const OpContext& c, const double (&weights)[3]) {
  const std::int64_t size = one_integer(c.in(0), "size");
  require(size >= 0 && size <= largest_table, "a window of " + std::to_string(size) + " points is not made");
  const bool periodic = c.attrs().get("periodic", std::int64_t{1}) != 0;
  const double n = static_cast<double>(std::max<std::int64_t>(periodic ? size : size - 1, 1));
  Tensor y(DType::f64, {size});
  double* to = y.write<double>().data();
  for (std::int64_t i = 0; i < size; ++i) {
    const double turn = 2 * std::numbers::pi * static_cast<double>(i) / n;
    to[i] = weights[0] + weights[1] * std::cos(turn) + weights[2] * std::cos(2 * turn);
  }
  out_as_asked(c, y);
}

void blackman(const OpContext& c) { window(c, {0.42, -0.5, 0.08}); }
void hamming(const OpContext& c) { window(c, {25.0 / 46, -21.0 / 46, 0}); }
void hann(const OpContext& c) { window(c, {0.5, -0.5, 0}); }

void window_infer(InferContext& c) {
  infer_table(c, {c.constant(0) ? one_integer(c.constant(0), "size") : std::int64_t{-1}});
}

// ---- MelWeightMatrix(num_mel_bins, dft_length, sample_rate, lower_edge_hertz, upper_edge_hertz)

double mel_of(double hertz) { return 2595 * std::log10(1 + hertz / 700); }
double hertz_of(double mel) { return 700 * (std::pow(10, mel / 2595) - 1); }

/// Column b is a triangle over the bins of a spectrum: zero at edge b, one at edge b + 1, zero at edge b + 2, where
/// edges are evenly spaced on the mel scale.
void mel_weights(const OpContext& c) {
  const std::int64_t bands = one_integer(c.in(0), "num_mel_bins"), length = one_integer(c.in(1), "dft_length"),
                     rate = one_integer(c.in(2), "sample_rate");
  const double low = one_number(c.in(3), "lower_edge_hertz"), high = one_number(c.in(4), "upper_edge_hertz");
  require(bands > 0 && length > 0 && rate > 0 && low >= 0 && high >= low && bands < largest_table &&
              length / 2 + 1 <= largest_table / bands,
          "a mel scale of " + std::to_string(bands) + " bands over a spectrum of length " + std::to_string(length) +
              " is not made");
  const std::int64_t rows = length / 2 + 1;
  const double step = (mel_of(high) - mel_of(low)) / static_cast<double>(bands + 2);
  const auto edge = [&](std::int64_t i) {
    const double hertz = hertz_of(mel_of(low) + step * static_cast<double>(i));
    return static_cast<std::int64_t>(
        std::floor(std::min(static_cast<double>(length + 1) * hertz / static_cast<double>(rate), 1e15)));
  };
  Tensor y(DType::f64, {rows, bands});
  double* to = y.write<double>().data();
  for (std::int64_t b = 0; b < bands; ++b) {
    const std::int64_t left = edge(b), centre = edge(b + 1), right = edge(b + 2);
    require(left >= 0 && right <= rows, "the mel bands reach beyond the spectrum");
    for (std::int64_t r = left; r < right; ++r) {
      const double rise = static_cast<double>(r - left) / static_cast<double>(centre - left),
                   fall = static_cast<double>(right - r) / static_cast<double>(right - centre);
      to[r * bands + b] = r < centre ? rise : fall;
    }
    if (centre < rows) to[centre * bands + b] = 1;
  }
  out_as_asked(c, y);
}

void mel_infer(InferContext& c) {
  Shape shape{-1, -1};
  if (c.constant(1)) shape[0] = one_integer(c.constant(1), "dft_length") / 2 + 1;
  if (c.constant(0)) shape[1] = one_integer(c.constant(0), "num_mel_bins");
  infer_table(c, shape);
}

}  // namespace

constinit const OpDef BlackmanWindow{"BlackmanWindow", "", 17, window_infer, blackman, nullptr};
constinit const OpDef HammingWindow{"HammingWindow", "", 17, window_infer, hamming, nullptr};
constinit const OpDef HannWindow{"HannWindow", "", 17, window_infer, hann, nullptr};
constinit const OpDef MelWeightMatrix{"MelWeightMatrix", "", 17, mel_infer, mel_weights, nullptr};

}  // namespace qtool::op
