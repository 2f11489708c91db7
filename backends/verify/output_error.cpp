// SPDX-License-Identifier: Apache-2.0
#include "backends/verify/output_error.h"

#include <algorithm>
#include <array>
#include <utility>

#include "formats/base/widest.h"

namespace qtool::verify {
namespace {

constexpr std::int64_t most_weights = std::int64_t{1} << 18;

/// Inputs as the product reads them behind the folds. False: a fold that is not replayed on inputs.
bool follow(std::span<const Fold> folds, std::vector<double>& divisors) {
  for (const Fold& fold : folds) {
    if (fold.kind == Fold::Kind::before) return false;
    if (fold.kind != Fold::Kind::equalized || fold.inputs.empty()) continue;
    if (fold.inputs.size() != divisors.size()) return false;
    for (std::size_t i = 0; i < divisors.size(); ++i) divisors[i] *= fold.inputs[i];
  }
  return true;
}

/// Weights and their errors of every step-th output channel, [channels, depth] each.
class Sampled {
 public:
  Sampled(const Layout& layout, std::int64_t elements)
      : depth(elements), step((layout.outputs() * elements + most_weights - 1) / most_weights) {
    channels = (layout.outputs() + step - 1) / step;
    weights.resize(static_cast<std::size_t>(channels * depth));
    errors = weights;
  }

  /// Fills `to` from the lines of a matrix: output channels, or an element of each of them. `read(i, line)`. Several
  /// lines at a time, so that what is written across them lies side by side.
  template <class Read>
  void fill(std::int64_t lines, std::int64_t width, bool out_first, std::vector<float>& to, const Read& read) const {
    if (out_first) {
      for (std::int64_t c = 0; c < channels; ++c) read(c * step, std::span(to).subspan(at(c, 0), at(1, 0)));
      return;
    }
    constexpr std::int64_t most = 16;
    std::vector<float> block(static_cast<std::size_t>(most * width));
    const auto size = static_cast<std::size_t>(width);
    for (std::int64_t first = 0; first < lines; first += most) {
      const std::int64_t n = std::min(most, lines - first);
      for (std::int64_t i = 0; i < n; ++i)
        read(first + i, std::span(block).subspan(static_cast<std::size_t>(i) * size, size));
      for (std::int64_t c = 0; c < channels; ++c) {
        const float* from = block.data() + c * step;
        float* out = to.data() + at(c, first);
        for (std::int64_t i = 0; i < n; ++i) out[i] = from[i * width];
      }
    }
  }

  std::int64_t depth = 0, step = 1, channels = 0;
  std::vector<float> weights, errors;

 private:
  std::size_t at(std::int64_t channel, std::int64_t element) const {
    return static_cast<std::size_t>(channel * depth + element);
  }
};

void read_weights(const Numbers& weight, bool out_first, Sampled& s) {
  const std::int64_t lines = weight.dims[0], width = weight.count() / lines;
  s.fill(lines, width, out_first, s.weights,
         [&](std::int64_t i, std::span<float> line) { weight.read(i * width, line); });
}

/// errors = W - W^
void read_codes(const Coded& coded, bool out_first, Sampled& s) {
  const auto width = static_cast<std::size_t>(coded.width);
  std::vector<std::int32_t> codes(width);
  std::vector<float> scale(width), zero(width);
  s.fill(coded.rows, coded.width, out_first, s.errors, [&](std::int64_t i, std::span<float> line) {
    coded.codes(i, codes);
    coded.scales(i, scale, zero);
    for (std::size_t j = 0; j < width; ++j) line[j] = scale[j] * (static_cast<float>(codes[j]) - zero[j]);
  });
  for (std::size_t i = 0; i < s.errors.size(); ++i) s.errors[i] = s.weights[i] - s.errors[i];
}

/// x * w and x * d of one row, in sums side by side.
std::pair<double, double> dots(const float* x, const float* w, const float* d, std::int64_t n) {
  constexpr std::size_t lanes = 32;
  using Sums = std::array<float, lanes>;
  Sums y{}, e{};
  const auto whole = static_cast<std::size_t>(n) / lanes * lanes, size = static_cast<std::size_t>(n);
  with_widest_vectors([&]() QTOOL_INLINE {
    Sums one{}, other{};  // local ones: nothing else can be meant by a pointer
    const float *from = x, *by = w, *off = d;
    for (std::size_t i = 0; i < whole; i += lanes, from += lanes, by += lanes, off += lanes) {
      for (std::size_t l = 0; l < lanes; ++l) one[l] += from[l] * by[l];
      for (std::size_t l = 0; l < lanes; ++l) other[l] += from[l] * off[l];
    }
    y = one;
    e = other;
  });
  std::pair<double, double> sums{0, 0};
  for (std::size_t l = 0; l < lanes; ++l) {
    sums.first += static_cast<double>(y[l]);
    sums.second += static_cast<double>(e[l]);
  }
  for (std::size_t i = whole; i < size; ++i) {
    sums.first += static_cast<double>(x[i]) * static_cast<double>(w[i]);
    sums.second += static_cast<double>(x[i]) * static_cast<double>(d[i]);
  }
  return sums;
}

}  // namespace

std::optional<OutputError> output_error(const NodeView& product, const Numbers& weight, const Coded& coded,
                                        bool transposed, const InputRows& rows, std::span<const Fold> folds,
                                        Threads& threads) {
  const auto layout = layout_of(product, weight.dims);
  if (!layout || product.op == "ConvTranspose" || coded.dims.size() < 2) {
    return std::nullopt;
  }
  const std::int64_t depth = (layout->out_first ? layout->b : layout->a) * layout->taps, wide = depth * layout->groups;
  if (rows.width != wide || layout->outputs() % layout->groups != 0) return std::nullopt;
  std::vector<double> divisors(static_cast<std::size_t>(layout->inputs()), 1.0);
  if (!follow(folds, divisors)) return std::nullopt;
  std::vector<float> x = rows.values;
  const auto taps = static_cast<std::size_t>(layout->taps);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double divisor = divisors[i / taps % divisors.size()];
    if (divisor != 1) x[i] = static_cast<float>(static_cast<double>(x[i]) / divisor);
  }

  Sampled s(*layout, depth);
  read_weights(weight, layout->out_first, s);
  read_codes(coded, layout->out_first != transposed, s);
  std::vector<OutputError> found(static_cast<std::size_t>(s.channels));
  const std::int64_t in_group = layout->outputs() / layout->groups;
  constexpr std::int64_t grain = 16;
  threads.for_each(s.channels, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) {
      const std::int64_t group = c * s.step / in_group;
      for (std::int64_t r = 0; r < rows.count; ++r) {
        const float* in = x.data() + r * wide + group * depth;
        const auto [y, e] = dots(in, s.weights.data() + c * depth, s.errors.data() + c * depth, depth);
        found[static_cast<std::size_t>(c)].signal += y * y;
        found[static_cast<std::size_t>(c)].noise += e * e;
      }
    }
  });
  OutputError all;
  for (const OutputError& one : found) {
    all.signal += one.signal;
    all.noise += one.noise;
  }
  return all;
}

}  // namespace qtool::verify
