// SPDX-License-Identifier: Apache-2.0
// Block formats: known answers and invariants of number-formats.md sections 2 to 9 and 11.
#include "formats/number/scheme.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "formats/base/error.h"
#include "formats/base/rng.h"
#include "formats/ir/quant.h"
#include "tests/formats/known_vector.h"

using namespace qtool;
using known::grouped;
using known::hex_codes;
using known::hex_scales;
using known::squared_error;

namespace {

QuantSpec chosen(QuantSpec spec, const Tensor& x) {
  choose_scales(spec, x);
  return spec;
}

Tensor wild(Shape shape, std::uint64_t seed) {
  Tensor x(DType::f32, std::move(shape));
  const Rng rng(seed, "schemes", "x");
  std::uint64_t i = 0;
  for (float& v : x.write<float>()) {
    v = static_cast<float>(std::exp2(rng.normal(i)) * rng.normal(i + 1));
    i += 2;
  }
  return x;
}

std::vector<Scheme> with_all_rules() {
  std::vector<Scheme> all;
  for (const Scheme& s : schemes()) {
    if (s.element == &number::e8m0 || s.element->lowest == 0) continue;
    Scheme one = s;
    if (one.group == 0) one.group = 16;
    all.push_back(one);
    if (s.scale == nullptr && s.element->is_integer) {
      one.rule = ScaleRule::full_range;
      all.push_back(one);
    }
    for (const ScaleRule rule :
         {ScaleRule::floor, ScaleRule::even, ScaleRule::ceil, ScaleRule::rceil, ScaleRule::search}) {
      one.rule = rule;
      if (s.scale == &number::e8m0 && s.rule != rule) all.push_back(one);
    }
    for (const ScaleRule rule : {ScaleRule::range, ScaleRule::four_over_six}) {
      one.rule = rule;
      if (s.scale == &number::e4m3 || s.scale == &number::ue5m3) all.push_back(one);
    }
  }
  return all;
}

}  // namespace

TEST_CASE("schemes are found by name; every number format is one") {
  CHECK(find_scheme("mxfp4")->element == &number::e2m1);
  CHECK(find_scheme("mxfp5") == nullptr);
  for (const NumberFormat* f : numbers()) CHECK(scheme_of(*f).element == f);
  CHECK(find_scheme("mxfp4")->bits_per_element(32) == 4.25);
  CHECK(find_scheme("nvfp4")->bits_per_element(16) == 4.5);
  CHECK(find_scheme("nf4_double")->bits_per_element(64) == doctest::Approx(4.127).epsilon(1e-4));
  CHECK(find_scheme("int4")->bits_per_element(32) == 5);
}

TEST_CASE("number-formats 2: the full range of symmetric integers") {
  const Tensor x = Tensor::of<float>({1, 4}, {1, -2, 3, 4});
  QuantSpec s = grouped(number::int4, 4);
  s.rule = ScaleRule::full_range;
  s = chosen(s, x);
  CHECK(s.scale.read<float>()[0] == 0.5f);
  CHECK(s.zero_point.read<std::int32_t>()[0] == -1);
  CHECK(hex_codes(quantize(x, s), 1, 15) == "1B57");
  CHECK(fake_quantize(x, s).same_bytes(x));
}

TEST_CASE("number-formats 4: block floating point") {
  const Tensor x = known::vector();
  struct Row {
    std::string_view name;
    std::int64_t group;
    double error;
  };
  for (const Row& r : {Row{"bfp4", 16, 1.625}, Row{"bfp4", 32, 2.625}, Row{"bfp6", 16, 0.125}, Row{"bfp6", 32, 0.1875},
                       Row{"bfp8", 16, 0}, Row{"bfp8", 32, 0}}) {
    CAPTURE(r.name);
    CAPTURE(r.group);
    QuantSpec s = grouped(r.name);
    s.grain.group = r.group;
    s = chosen(s, x);
    CHECK(squared_error(x, fake_quantize(x, s)) == r.error);
  }
  const QuantSpec s = chosen(grouped("bfp4"), x);
  // step = 2^(exponent - (m - 2)) with exponents 2 and 1
  CHECK(s.scale.read<float>()[0] == 1.0f);
  CHECK(s.scale.read<float>()[1] == 0.5f);
  const Tensor codes = quantize(x, s);
  const auto c = codes.read<std::int8_t>();
  CHECK(std::vector<int>(c.begin(), c.begin() + 16) ==
        std::vector<int>{-1, 1, -1, 2, 0, -7, 1, -1, 1, 0, 2, 0, -2, 1, -1, 1});
}

TEST_CASE("number-formats 5 and 6: rules of the MX scale") {
  const Tensor x = known::vector();
  const auto scale_byte = [&](std::string_view name, ScaleRule rule) {
    QuantSpec s = grouped(name);
    s.rule = rule;
    return hex_scales(chosen(s, x));
  };
  CHECK(scale_byte("mxfp4", ScaleRule::floor) == "7F");
  CHECK(scale_byte("mxfp4", ScaleRule::even) == "80");
  CHECK(scale_byte("mxfp4", ScaleRule::ceil) == "80");
  CHECK(scale_byte("mxfp4", ScaleRule::rceil) == "80");
  CHECK(scale_byte("mxfp4", ScaleRule::search) == "7F");  // floor wins here
  CHECK(scale_byte("mxfp6_e2m3", ScaleRule::floor) == "7F");
  CHECK(scale_byte("mxfp6_e3m2", ScaleRule::floor) == "7D");
  CHECK(scale_byte("mxfp8_e4m3", ScaleRule::floor) == "79");
  CHECK(scale_byte("mxfp8_e5m2", ScaleRule::floor) == "72");
  // bytes of MXINT8 are for codes in 64ths
  CHECK(scale_byte("mxint8", ScaleRule::floor) == "7B");
  const auto of = [](float amax, ScaleRule rule) {
    QuantSpec s = grouped("mxfp4");
    s.rule = rule;
    set_scales(s, {{-amax}}, {{0.0f}}, {1, 32});
    return s.scale.read<float>()[0];
  };
  CHECK(of(6, ScaleRule::rceil) == 1);
  CHECK(of(std::nextafter(6.0f, 7.0f), ScaleRule::rceil) == 2);
  CHECK(of(8, ScaleRule::ceil) == 2);
  CHECK(of(std::nextafter(8.0f, 9.0f), ScaleRule::ceil) == 4);
  CHECK(of(std::nextafter(8.0f, 7.0f), ScaleRule::floor) == 1);
  CHECK(of(6.99f, ScaleRule::even) == 1);
  CHECK(of(7, ScaleRule::even) == 2);
  for (const ScaleRule rule : {ScaleRule::floor, ScaleRule::even, ScaleRule::ceil, ScaleRule::rceil}) {
    CHECK(of(0, rule) == 0x1p-127f);
    CHECK(of(1e-40f, rule) == 0x1p-127f);
    CHECK(of(std::numeric_limits<float>::max(), rule) >= 0x1p125f);
  }
}

TEST_CASE("number-formats 6 and 7: NVFP4 and its relatives") {
  const Tensor x = known::vector();
  QuantSpec one = grouped("nvfp4_one_level");
  one.rule = ScaleRule::range;
  one = chosen(one, x);
  CHECK(hex_scales(one) == "392B");
  QuantSpec two = grouped("nvfp4");
  two.rule = ScaleRule::range;
  two = chosen(two, x);
  CHECK(hex_scales(two) == "7E70");
  CHECK(squared_error(x, fake_quantize(x, two)) == doctest::Approx(0.5625).epsilon(1e-5));
  QuantSpec wide = grouped("fp4_ue5m3");
  wide.rule = ScaleRule::range;
  wide = chosen(wide, x);
  CHECK(hex_scales(wide) == "796B");
  CHECK(hex_codes(quantize(x, wide), 1, 15) == "A2938F1A2930B1A2AF2E5C69F3D5B70E");
  CHECK(squared_error(x, fake_quantize(x, wide)) == doctest::Approx(0.64233).epsilon(1e-5));
}

TEST_CASE("number-formats 7: four over six") {
  const Tensor x = known::vector();
  QuantSpec s = grouped("nvfp4");
  s.rule = ScaleRule::four_over_six;
  s = chosen(s, x);
  CHECK(std::bit_cast<std::uint32_t>(s.second_scale.read<float>()[0]) == 0x3b955555u);
  CHECK(hex_scales(s) == "786E");
  CHECK(hex_codes(quantize(x, s), 1, 15) == "A2938F1A2930B1A29E1D4B58E2C4A50D");
  const auto errors = squared_errors(x, fake_quantize(x, s), s.grain);
  CHECK(errors[0] == doctest::Approx(0.26736).epsilon(1e-4));
  CHECK(errors[1] == doctest::Approx(0.21102).epsilon(1e-4));
}

TEST_CASE("number-formats 7: IF4 takes integers where they fit better") {
  const Tensor x = known::vector();
  QuantSpec s = grouped("if4");
  s.rule = ScaleRule::range;
  s = chosen(s, x);
  CHECK(s.second_scale.read<float>()[0] == 7.0f / 2688.0f);
  CHECK(hex_scales(s) == "7EF0");
  const Tensor codes = quantize(x, s);
  CHECK(hex_codes(codes, 1, 15).substr(0, 16) == "A2938F1A2930B1A2");
  std::vector<int> integers;
  for (const std::uint8_t c : codes.read<std::uint8_t>().subspan(16)) integers.push_back((c ^ 8) - 8);
  CHECK(integers == std::vector<int>{-1, -7, 1, -5, 3, -3, 5, 0, -6, 2, -4, 4, -2, 6, 0, -6});
  const auto errors = squared_errors(x, fake_quantize(x, s), s.grain);
  CHECK(errors[0] == doctest::Approx(0.26736).epsilon(1e-4));
  CHECK(errors[1] == doctest::Approx(0.08610).epsilon(1e-3));
}

TEST_CASE("number-formats 8: double quantization keeps scales close") {
  const Tensor x = wild({8, 4096}, 3);
  const QuantSpec plain = chosen(grouped(number::nf4, 64), x), twice = chosen(grouped("nf4_double"), x);
  CHECK(twice.second_scale.count() == 2);
  const auto a = effective_scales(plain), b = effective_scales(twice);
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(b[i] > 0);
  const double error = squared_error(x, fake_quantize(x, plain)), error2 = squared_error(x, fake_quantize(x, twice));
  CHECK(10 * std::log10(error2 / error) < 0.03);
}

TEST_CASE("number-formats 11.3: quantizing what was quantized changes nothing, for every scheme and rule") {
  const Tensor x = wild({6, 80}, 5);
  for (const Scheme& scheme : with_all_rules()) {
    CAPTURE(std::string(scheme.name));
    CAPTURE(std::string(name_of(scheme.rule)));
    const QuantSpec s = chosen(grouped(scheme), x);
    const Tensor codes = quantize(x, s), y = fake_quantize(x, s);
    REQUIRE(dequantize(codes, s).same_bytes(y));
    CHECK(quantize(y, s).same_bytes(codes));
    CHECK(fake_quantize(y, s).same_bytes(y));
  }
}

TEST_CASE("number-formats 11.5: powers of two leave codes alone") {
  const Tensor x = wild({4, 64}, 7);
  Tensor larger = x;
  for (float& v : larger.write<float>()) v *= 0x1p9f;
  for (const Scheme& scheme : with_all_rules()) {
    // One level of e4m3 or ue5m3 scales has subnormals of its own.
    if (scheme.scale != nullptr && scheme.scale != &number::e8m0 && scheme.second == Second::none) continue;
    if (scheme.element == &number::bf16) continue;  // its scales are subnormal
    CAPTURE(std::string(scheme.name));
    CAPTURE(std::string(name_of(scheme.rule)));
    const QuantSpec a = chosen(grouped(scheme), x), b = chosen(grouped(scheme), larger);
    CHECK(quantize(x, a).same_bytes(quantize(larger, b)));
  }
}

TEST_CASE("number-formats 9: edge cases of every scheme") {
  constexpr float huge = std::numeric_limits<float>::max();
  Tensor x(DType::f32, {6, 40});  // no whole number of blocks
  const auto v = x.write<float>();
  v[40] = 3;       // a single one
  v[81] = 1e-40f;  // subnormal
  v[120] = huge / 4;
  v[160] = -0.0f;
  for (std::size_t i = 200; i < 240; ++i) v[i] = -1.25f;
  for (const Scheme& scheme : with_all_rules()) {
    CAPTURE(std::string(scheme.name));
    CAPTURE(std::string(name_of(scheme.rule)));
    // A second level is relative to the largest of all: the huge number would leave nothing of the others.
    for (const std::int64_t row : {0, 1, 2, 3, 4, 5}) {
      CAPTURE(row);
      const Tensor one = part_of(x, 0, row, row + 1);
      const QuantSpec s = chosen(grouped(scheme), one);
      const Tensor y = fake_quantize(one, s);
      const auto from = one.read<float>(), to = y.read<float>();
      for (const float scale : effective_scales(s)) REQUIRE((std::isfinite(scale) && scale != 0));
      for (std::size_t i = 0; i < 40; ++i) {
        REQUIRE(std::isfinite(to[i]));
        if (row != 5) CHECK((from[i] != 0 || to[i] == 0));
      }
      if (row == 1) CHECK(to[0] == doctest::Approx(3).epsilon(0.3));
      if (row == 5) CHECK(to[7] == doctest::Approx(-1.25).epsilon(0.3));
    }
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      Tensor with = part_of(x, 0, 1, 2);
      with.write<float>()[3] = bad;
      CHECK_THROWS_AS(chosen(grouped(scheme), with), Error);
    }
    // groups longer than the axis
    QuantSpec wide = grouped(scheme);
    wide.grain.group = 1 << 12;
    CHECK(chosen(wide, part_of(x, 0, 1, 2)).scale.count() == 1);
  }
}

TEST_CASE("groups along an axis that is not the last are those of the transposed tensor") {
  const Tensor x = wild({64, 6}, 11);
  Tensor turned(DType::f32, {6, 64});
  for (std::size_t r = 0; r < 64; ++r) {
    for (std::size_t c = 0; c < 6; ++c) turned.write<float>()[c * 64 + r] = x.read<float>()[r * 6 + c];
  }
  for (const Scheme& scheme : with_all_rules()) {
    if (scheme.second == Second::groups) continue;  // its blocks follow memory
    CAPTURE(std::string(scheme.name));
    const QuantSpec along = grouped(scheme);
    QuantSpec down = along;
    down.grain.axis = 0;
    const Tensor a = fake_quantize(turned, chosen(along, turned)), b = fake_quantize(x, chosen(down, x));
    bool same = true;
    for (std::size_t r = 0; r < 64; ++r) {
      for (std::size_t c = 0; c < 6; ++c) same = same && a.read<float>()[c * 64 + r] == b.read<float>()[r * 6 + c];
    }
    CHECK(same);
  }
}

TEST_CASE("index ranges are decided for themselves, and the rest without them") {
  Tensor x = wild({6, 32}, 13);
  for (std::size_t r = 0; r < 6; ++r) {
    for (std::size_t c = 8; c < 12; ++c) x.write<float>()[r * 32 + c] *= 100;
  }
  QuantSpec s = grouped(number::int4, 16);
  const auto outliers = std::make_shared<QuantSpec>(grouped(number::int8, 4));
  s.range_axis = 1;
  s.ranges = {{8, 10, outliers}, {10, 12, nullptr}};
  const QuantSpec full = with_scales(s, x);
  const Tensor y = fake_quantize(x, full);
  QuantSpec plain = s;
  plain.ranges.clear();
  const Tensor rest = outside_ranges(x, s);
  const Tensor z = fake_quantize(rest, chosen(plain, rest));
  const Tensor part = part_of(x, 1, 8, 10), part8 = fake_quantize(part, chosen(*outliers, part));
  for (std::size_t r = 0; r < 6; ++r) {
    for (std::size_t c = 0; c < 32; ++c) {
      const float got = y.read<float>()[r * 32 + c];
      const float want = c >= 8 && c < 10    ? part8.read<float>()[r * 2 + c - 8]
                         : c >= 10 && c < 12 ? x.read<float>()[r * 32 + c]
                                             : z.read<float>()[r * 32 + c];
      CHECK(got == want);
    }
  }
}
