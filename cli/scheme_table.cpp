// SPDX-License-Identifier: Apache-2.0
// The table of weights in every number format: bits, error and who runs them, computed when it is written.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "backends/backend.h"
#include "cli/catalogue.h"
#include "cli/markdown.h"
#include "formats/base/rng.h"
#include "formats/ir/quant.h"

namespace qtool {
namespace {

constexpr std::int64_t usual_group = 32;

/// Normal numbers: 64 rows of 4096.
Tensor normal_numbers() {
  Tensor x(DType::f32, {64, 4096});
  const Rng rng(1, "numbers", "normal");
  std::uint64_t i = 0;
  for (float& v : x.write<float>()) v = static_cast<float>(rng.normal(i++));
  return x;
}

std::string one_digit(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", x);
  return text;
}

/// Power of the numbers over that of the error, in decibels.
std::string decibels(const Tensor& x, const QuantSpec& spec) {
  double signal = 0, noise = 0;
  const Tensor y = fake_quantize(x, spec);
  const auto a = x.read<float>(), b = y.read<float>();
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double v = static_cast<double>(a[i]), d = v - static_cast<double>(b[i]);
    signal += v * v;
    noise += d * d;
  }
  return one_digit(10 * std::log10(signal / noise));
}

/// Targets that take a product with such weights and float activations, else none.
std::string runners(const Scheme& scheme) {
  std::string names;
  for (const BackendDef* backend : backends()) {
    const Target target = backend->target();
    const bool runs = std::any_of(target.abilities.begin(), target.abilities.end(), [&](const Ability& row) {
      return row.role == Role::weight_only && row.op == "MatMul" &&
             std::find(row.weight_formats.begin(), row.weight_formats.end(), scheme.name) != row.weight_formats.end();
    });
    if (runs) names += (names.empty() ? "" : ", ") + markdown::code(backend->name);
  }
  return names.empty() ? "-" : names;
}

std::string bits_text(double bits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", bits);
  return text;
}

}  // namespace

std::string schemes_markdown() {
  const Tensor x = normal_numbers();
  std::vector<markdown::Row> rows;
  for (const Scheme& scheme : schemes()) {
    const NumberFormat& element = *scheme.element;
    if (element.bits > 8 && scheme.scale == nullptr) continue;  // wider than weights need
    const bool only_scales = &element == &number::e8m0 || &element == &number::ue5m3;
    if (only_scales) continue;
    const std::int64_t group = scheme.group != 0 ? scheme.group : usual_group;
    QuantSpec spec = spec_of(scheme, {Grain::Kind::groups, 1, group, 0});
    spec.symmetric = !(element.is_integer && element.lowest == 0);
    const double zeros = spec.symmetric ? 0 : static_cast<double>(element.bits) / static_cast<double>(group);
    rows.push_back({markdown::code(scheme.name), markdown::code(element.name), std::to_string(group),
                    scheme.scale != nullptr ? markdown::code(scheme.scale->name) : "float32",
                    std::string(name_of(scheme.rule)), bits_text(scheme.bits_per_element(group) + zeros),
                    decibels(x, spec), runners(scheme)});
  }
  return markdown::table({"`weights:`", "elements", "group", "scales", "rule", "bits", "dB", "who runs it"}, rows);
}

}  // namespace qtool
