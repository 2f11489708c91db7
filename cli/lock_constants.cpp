// SPDX-License-Identifier: Apache-2.0
#include "cli/lock_constants.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numeric>

#include "cli/text.h"
#include "formats/base/hash.h"
#include "formats/base/widest.h"

namespace qtool {
namespace {

/// Of a tensor against what codes make of it: sums of squares.
class Errors {
 public:
  /// Elements from `begin` on, in order.
  void add(std::size_t begin, std::span<const float> x, std::span<const float> coded) {
    const auto one = [&](std::size_t i, std::size_t chain) {
      const double value = x[i], difference = value - static_cast<double>(coded[i]);
      signals_[chain] += value * value;
      noises_[chain] += difference * difference;
    };
    std::size_t i = 0;
    for (; i < x.size() && (begin + i) % chains != 0; ++i) one(i, (begin + i) % chains);
    with_widest_vectors([&]() QTOOL_INLINE {
      for (; i + chains <= x.size(); i += chains) {
        for (std::size_t c = 0; c < chains; ++c) one(i + c, c);
      }
    });
    for (; i < x.size(); ++i) one(i, (begin + i) % chains);
  }

  /// Empty: exact.
  std::optional<double> db() const {
    const double signal = std::accumulate(signals_.begin(), signals_.end(), 0.0);
    const double noise = std::accumulate(noises_.begin(), noises_.end(), 0.0);
    if (noise == 0 || signal == 0) return std::nullopt;
    return 10 * std::log10(signal / noise);
  }

 private:
  static constexpr std::size_t chains = 8;  // of sums, which processors add side by side
  std::array<double, chains> signals_{}, noises_{};
};

/// Codes and error, with parts that are decided otherwise.
Errors add_ranges(LockedUse& row, const Tensor& x, QuantSpec& spec) {
  spec.codes = quantize(x, spec);
  row.codes_sha256 = hex(spec.codes.digest());
  for (std::size_t i = 0; i < row.ranges.size(); ++i) {
    const IndexRange& r = spec.ranges[i];
    if (!r.quant) continue;
    const Tensor part = part_of(x, spec.range_axis, r.begin, r.end);
    const QuantSpec own = with_scales(*r.quant, part);
    row.ranges[i].scale = numbers_of(own.scale);
    row.ranges[i].zero_point = numbers_of(own.zero_point);
    row.ranges[i].codes_sha256 = hex(quantize(part, own).digest());
  }
  Errors errors;
  errors.add(0, x.read<float>(), fake_quantize(x, spec).read<float>());
  return errors;
}

/// The same of one decision, part by part.
Errors add_codes(LockedUse& row, const Tensor& data, const QuantSpec& spec) {
  Errors errors;
  Hasher codes;
  for_each_coded(data, spec, [&](const CodedPart& part) {
    codes.bytes(part.codes);
    errors.add(part.begin, part.x, part.coded);
  });
  row.codes_sha256 = hex(codes.finish());
  return errors;
}

}  // namespace

double rounded_db(double db) { return std::nearbyint(db * 1000) / 1000; }

LockedNumbers numbers_of(const Tensor& t) {
  LockedNumbers n;
  if (t.empty()) return n;
  n.count = t.count();
  if (n.count > LockedNumbers::most_values) {
    n.sha256 = hex(t.digest());
  } else if (t.dtype() == DType::i32) {
    for (const std::int32_t v : t.read<std::int32_t>()) n.values.push_back(v);
  } else {
    for (const float v : t.read<float>()) n.values.push_back(static_cast<double>(v));
  }
  return n;
}

void add_numbers(LockedUse& row, const QuantSpec& spec) {
  row.scale = numbers_of(spec.scale);
  row.zero_point = numbers_of(spec.zero_point);
  row.second_scale = numbers_of(spec.second_scale);
  row.scale_mean = numbers_of(spec.scale_mean);
  row.minimum = numbers_of(spec.minimum);
}

OutputErrors::OutputErrors(const LayerInputs& inputs, const std::vector<Json>& folds, Threads& threads)
    : inputs_(inputs), threads_(threads) {
  for (const Json& fold : folds) {
    const std::string factors = text_in(fold, "inputs");
    if (text_in(fold, "side") == "inputs") unlike_.insert(text_in(fold, "into"));
    if (text_in(fold, "pass") != "equalize_layers" || factors.empty()) continue;
    const std::vector<double> more = exact_numbers(factors);
    std::vector<double>& all = divisors_[text_in(fold, "node")];
    all.resize(more.size(), 1.0);
    std::transform(more.begin(), more.end(), all.begin(), all.begin(), std::multiplies<>());
  }
}

bool OutputErrors::can(const LockedUse& row) const {
  return row.input == 1 && !unlike_.contains(row.node) && inputs_.contains(row.node);
}

std::optional<double> OutputErrors::operator()(const Node& product, const LockedUse& row, const Tensor& weight,
                                               const Tensor& coded) const {
  const auto found = divisors_.find(row.node);
  return output_error_db(product, weight, coded, inputs_.find(row.node)->second,
                         found == divisors_.end() ? std::span<const double>() : found->second, threads_);
}

void add_constant(LockedUse& row, const QuantSpec& decided, const Tensor& data, const Node* reader,
                  const OutputErrors& outputs) {
  row.shape = data.shape();
  row.dtype = name_of(data.dtype());
  row.float_sha256 = hex(data.digest());
  if (decided.is_bias) return;  // codes follow from the scales of input and weight
  QuantSpec spec = with_scales(decided, data);
  add_numbers(row, spec);
  const Errors errors = spec.ranges.empty() ? add_codes(row, data, spec) : add_ranges(row, to_f32(data), spec);
  if (const auto db = errors.db()) row.sqnr_db = rounded_db(*db);
  if (reader == nullptr || !row.sqnr_db || !outputs.can(row)) return;
  const Tensor x = to_f32(data);
  if (const auto db = outputs(*reader, row, x, fake_quantize(x, spec))) row.output_db = rounded_db(*db);
}

}  // namespace qtool
