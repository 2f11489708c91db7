// SPDX-License-Identifier: Apache-2.0
#include "formats/number/number.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "formats/number/e8m0.h"
#include "formats/number/half.h"
#include "tests/formats/one_code.h"

using namespace qtool;
using namespace qtool::test;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
const float nan_value = std::numeric_limits<float>::quiet_NaN();

/// Finite values in ascending order with their codes; minus zero left out.
std::map<float, std::uint16_t> table(const NumberFormat& f) {
  std::map<float, std::uint16_t> all;
  for (std::uint32_t c = 0; c < (1u << f.bits); ++c) {
    const auto code = static_cast<std::uint16_t>(c);
    const float x = decode(f, code);
    if (std::isfinite(x) && !(x == 0 && std::signbit(x))) all[x] = code;
  }
  return all;
}

}  // namespace

TEST_CASE("formats are found by name") {
  CHECK(find_number("e4m3") == &number::e4m3);
  CHECK(find_number("int9") == nullptr);
  CHECK(numbers().size() == 42);
}

TEST_CASE("number-formats 11.1: every code decodes and encodes to itself") {
  for (const NumberFormat* f : numbers()) {
    CAPTURE(std::string(f->name));
    int wrong = 0;
    float low = inf, high = -inf;
    for (std::uint32_t c = 0; c < (1u << f->bits); ++c) {
      const auto code = static_cast<std::uint16_t>(c);
      const float x = decode(*f, code);
      if (!std::isfinite(x)) continue;
      low = std::min(low, x);
      high = std::max(high, x);
      wrong += encode(*f, x) != code;
    }
    CHECK(wrong == 0);
    CHECK(low == f->lowest);
    CHECK(high == f->highest);
  }
}

TEST_CASE("number-formats 11.2: midpoints go to the even code, their neighbours to the near value") {
  for (const NumberFormat* f : numbers()) {
    CAPTURE(std::string(f->name));
    const auto all = table(*f);
    int wrong = 0;
    for (auto a = all.begin(), b = std::next(a); b != all.end(); ++a, ++b) {
      const double exact = 0.5 * (static_cast<double>(a->first) + static_cast<double>(b->first));
      const auto middle = static_cast<float>(exact);
      if (middle == exact) {
        const std::uint16_t even = (a->second & 1) == 0 ? a->second : b->second;
        wrong += decode(*f, encode(*f, middle)) != decode(*f, even);
      }
      float below = middle, above = middle;
      while (static_cast<double>(below) >= exact) below = std::nextafter(below, -inf);
      while (static_cast<double>(above) <= exact) above = std::nextafter(above, inf);
      wrong += decode(*f, encode(*f, below)) != a->first;
      wrong += decode(*f, encode(*f, above)) != b->first;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("encoding saturates and is monotone") {
  for (const NumberFormat* f : numbers()) {
    CAPTURE(std::string(f->name));
    CHECK(decode(*f, encode(*f, inf)) == f->highest);
    CHECK(decode(*f, encode(*f, -inf)) == f->lowest);
    CHECK(decode(*f, encode(*f, std::numeric_limits<float>::max())) == f->highest);
    float before = -inf;
    for (int i = -4000; i <= 4000; ++i) {
      const float x = std::copysign(std::exp2(static_cast<float>(std::abs(i)) / 100.0f - 20.0f), static_cast<float>(i));
      const float y = decode(*f, encode(*f, x));
      CHECK_FALSE(y < before);
      before = y;
    }
  }
}

TEST_CASE("number-formats 3: known codes") {
  struct Row {
    const NumberFormat* format;
    float x;
    int code;
  };
  const Row rows[] = {
      {&number::e2m1, 0.25f, 0x0},
      {&number::e2m1, 0.26f, 0x1},
      {&number::e2m1, 0.75f, 0x2},
      {&number::e2m1, 1.25f, 0x2},
      {&number::e2m1, 1.75f, 0x4},
      {&number::e2m1, 2.5f, 0x4},
      {&number::e2m1, 3.5f, 0x6},
      {&number::e2m1, 5.0f, 0x6},
      {&number::e2m1, 5.01f, 0x7},
      {&number::e2m1, 100.0f, 0x7},
      {&number::e2m1, -0.1f, 0x8},
      {&number::e2m1, -2.6f, 0xd},
      {&number::e2m1, inf, 0x7},
      {&number::e2m1, nan_value, 0x7},
      {&number::e4m3, 448, 0x7e},
      {&number::e4m3, 464, 0x7e},
      {&number::e4m3, 465, 0x7e},
      {&number::e4m3, 1e9f, 0x7e},
      {&number::e4m3, 0x1p-10f, 0x00},
      {&number::e4m3, 1.5f * 0x1p-10f, 0x01},
      {&number::e4m3, 0x1p-9f, 0x01},
      {&number::e4m3, 0.0146484375f, 0x08},
      {&number::e4m3, 1.0625f, 0x38},
      {&number::e4m3, 1.1875f, 0x3a},
      {&number::e4m3, 17, 0x58},
      {&number::e4m3, -240, 0xf7},
      {&number::e4m3, 0.1f, 0x1d},
      {&number::e4m3, 3.14159f, 0x45},
      {&number::e4m3, inf, 0x7e},
      {&number::e4m3, nan_value, 0x7f},
      {&number::e5m2, 57344, 0x7b},
      {&number::e5m2, 61439, 0x7b},
      {&number::e5m2, 61440, 0x7b},
      {&number::e5m2, 7.62939453125e-06f, 0x00},
      {&number::e5m2, 1.1444091796875e-05f, 0x01},
      {&number::e5m2, 1.125f, 0x3c},
      {&number::e5m2, 1.375f, 0x3e},
      {&number::e5m2, 0.1f, 0x2e},
      {&number::e5m2, 3.14159f, 0x42},
      {&number::e5m2, inf, 0x7b},
      {&number::e5m2, nan_value, 0x7f},
      {&number::e2m3, 0.0625f, 0x00},
      {&number::e3m2, 0.0625f, 0x01},
      {&number::e2m3, 0.09375f, 0x01},
      {&number::e3m2, 0.09375f, 0x02},
      {&number::e2m3, 0.99f, 0x08},
      {&number::e3m2, 0.99f, 0x0c},
      {&number::e2m3, 7.25f, 0x1e},
      {&number::e3m2, 7.25f, 0x17},
      {&number::e2m3, 7.5f, 0x1f},
      {&number::e3m2, 7.5f, 0x18},
      {&number::e2m3, 30, 0x1f},
      {&number::e3m2, 30, 0x1f},
      {&number::e2m3, -1.3f, 0x2a},
      {&number::e3m2, -1.3f, 0x2d},
      // section 9: NaN of an integer is zero
      {&number::int8, nan_value, 0x00},
      {&number::int4, -9, 0x8},
      {&number::uint8, -3, 0x00},
  };
  for (const Row& r : rows) {
    CAPTURE(std::string(r.format->name));
    CAPTURE(r.x);
    CHECK(encode(*r.format, r.x) == r.code);
  }
}

TEST_CASE("number-formats 3: E8M0 rounds down, up and to the nearest") {
  const auto row = [](float x, int down, int up) {
    CAPTURE(x);
    CHECK(e8m0_down(x) == down);
    CHECK(e8m0_up(x) == up);
  };
  row(1.0f, 0x7f, 0x7f);
  row(1.0001f, 0x7f, 0x80);
  row(0.75f, 0x7e, 0x7f);
  row(0.0f, 0x00, 0x00);
  row(inf, 0xfe, 0xfe);
  row(nan_value, 0xff, 0xff);
  CHECK(encode(number::e8m0, 1.5f) == 0x80);   // a tie between 7F and 80
  CHECK(encode(number::e8m0, 0.75f) == 0x7e);  // a tie between 7E and 7F
  CHECK(e8m0_value(0) == 0x1p-127f);
}

TEST_CASE("half: every code survives, and rounding agrees with double arithmetic") {
  for (std::uint32_t c = 0; c < 0x10000; ++c) {
    const auto code = static_cast<std::uint16_t>(c);
    const bool nan16 = (c & 0x7fff) > 0x7c00, nan_b = (c & 0x7fff) > 0x7f80;
    if (nan16) {
      REQUIRE(std::isnan(f16_to_float(code)));
    } else {
      REQUIRE(float_to_f16(f16_to_float(code)) == code);
    }
    if (nan_b) {
      REQUIRE(std::isnan(bf16_to_float(code)));
    } else {
      REQUIRE(float_to_bf16(bf16_to_float(code)) == code);
    }
  }
  CHECK(float_to_f16(65519.99f) == 0x7bff);
  CHECK(float_to_f16(65520.0f) == 0x7c00);  // a tie that goes to infinity
  CHECK(float_to_f16(-1e10f) == 0xfc00);
  CHECK(float_to_f16(0x1p-25f) == 0x0000);  // a tie with zero
  CHECK(float_to_f16(0x1.8p-25f) == 0x0001);
  CHECK(float_to_f16(-0.0f) == 0x8000);
  CHECK(std::isnan(f16_to_float(float_to_f16(nan_value))));
  CHECK(float_to_bf16(1.00390625f) == 0x3f80);  // a tie, even below
  CHECK(float_to_bf16(1.01171875f) == 0x3f82);  // a tie, even above
  CHECK(float_to_bf16(std::numeric_limits<float>::max()) == 0x7f80);
  CHECK(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0x7f800001u)))));
}
