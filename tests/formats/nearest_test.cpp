// SPDX-License-Identifier: Apache-2.0
#include "formats/number/nearest.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "formats/base/rng.h"
#include "formats/ir/quant.h"

using namespace qtool;

namespace {

/// Numbers of all sizes that formats tell apart, their values and what lies between, zeros, infinities and NaN.
std::vector<float> probes(const NumberFormat& format) {
  std::vector<float> all = {0.0f,
                            -0.0f,
                            1e-40f,
                            -1e-40f,
                            std::numeric_limits<float>::max(),
                            std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()};
  const Rng rng(1, "nearest", format.name);
  for (std::uint64_t i = 0; i < 4000; ++i) {
    all.push_back(static_cast<float>(rng.normal(2 * i) * std::exp2(24 * rng.uniform(2 * i + 1) - 14)));
  }
  for (std::uint32_t c = 0; c<(1u << format.bits); c += format.bits> 8 ? 97 : 1) {
    const auto code = static_cast<std::uint16_t>(c);
    float x = 0;
    format.decode({&code, 1}, {&x, 1});
    const float inf = std::numeric_limits<float>::infinity();
    for (const float v : {x, std::nextafter(x, inf), x * 1.25f, x * 1.5f, x * 1.0625f, -x}) all.push_back(v);
  }
  return all;
}

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b)); }

}  // namespace

TEST_CASE("the nearest code by table is that of the format, for every format") {
  for (const NumberFormat* f : numbers()) {
    CAPTURE(std::string(f->name));
    const std::vector<float> x = probes(*f);
    std::vector<float> want(x.size()), got(x.size());
    std::vector<std::uint16_t> codes(x.size()), found(x.size());
    f->encode(x, codes);
    f->decode(codes, want);
    const float one = 1;
    Column c;
    c.count = static_cast<std::int64_t>(x.size());
    c.x = x.data();
    c.scale = &one;
    c.step_stride = 0;
    c.value = got.data();
    c.code = found.data();
    Nearest(*f).round(c);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < x.size(); ++i) wrong += codes[i] != found[i] || !same_bits(want[i], got[i]) ? 1 : 0;
    CHECK(wrong == 0);
  }
}

TEST_CASE("a column with steps of its own is what quantize() makes of it") {
  constexpr std::int64_t rows = 300, columns = 5;
  Tensor w(DType::f32, {rows, columns});
  const Rng rng(2, "nearest", "w");
  for (std::size_t i = 0; i < rows * columns; ++i) w.write<float>()[i] = static_cast<float>(rng.normal(i));
  for (const Scheme& scheme : schemes()) {
    if (scheme.element == &number::e8m0) continue;
    for (const bool symmetric : {true, false}) {
      if (!symmetric && (!scheme.element->is_integer || scheme.scale != nullptr)) continue;
      CAPTURE(std::string(scheme.name));
      CAPTURE(symmetric);
      QuantSpec spec = spec_of(scheme, {Grain::Kind::axis, 0, 0, 0});
      spec.symmetric = symmetric;
      spec = with_scales(spec, w);
      const Tensor codes = quantize(w, spec), y = dequantize(codes, spec);
      const std::vector<float> scale = effective_scales(spec);
      std::vector<float> zero(rows);
      if (!spec.zero_point.empty()) {
        for (std::size_t i = 0; i < rows; ++i) zero[i] = static_cast<float>(spec.zero_point.read<std::int32_t>()[i]);
      }
      Tensor out = w;
      std::vector<std::uint16_t> found(rows);
      const Nearest nearest(*spec.format, spec.narrow, spec.alternative);
      std::size_t wrong = 0;
      for (std::int64_t k = 0; k < columns; ++k) {
        Column c;
        c.count = rows;
        c.x = out.read<float>().data() + k;
        c.x_stride = columns;
        c.scale = scale.data();
        c.zero = spec.zero_point.empty() ? nullptr : zero.data();
        c.value = out.write<float>().data() + k;
        c.value_stride = columns;
        c.code = found.data();
        c.x = c.value;  // in place
        nearest.round(c);
        for (std::size_t i = 0; i < rows; ++i) {
          const std::size_t at = i * columns + static_cast<std::size_t>(k);
          const auto mask = static_cast<std::uint16_t>((1u << spec.format->bits) - 1u);
          std::uint16_t code = 0;
          if (codes.dtype() == DType::u16) {
            code = codes.read<std::uint16_t>()[at];
          } else {
            code = static_cast<std::uint16_t>(codes.bytes()[at]);
          }
          wrong += (code & mask) != found[i] ? 1 : 0;
        }
      }
      CHECK(wrong == 0);
      CHECK(out.same_bytes(y));
    }
  }
}
