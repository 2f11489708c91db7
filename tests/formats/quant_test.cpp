// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/quant.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>

#include "formats/base/error.h"
#include "formats/number/e8m0.h"
#include "tests/formats/known_vector.h"

using namespace qtool;
using known::grouped;
using known::hex_codes;
using known::squared_error;

namespace {

Tensor f32(Shape shape, std::initializer_list<float> v) { return Tensor::of<float>(std::move(shape), v); }
Tensor i32(Shape shape, std::initializer_list<std::int32_t> v) { return Tensor::of<std::int32_t>(std::move(shape), v); }

std::vector<int> signed_codes(const Tensor& codes) {
  std::vector<int> out;
  const Tensor values = to_f32(codes);
  for (const float c : values.read<float>()) out.push_back(static_cast<int>(c));
  return out;
}

QuantSpec calibrated(QuantSpec s, const Tensor& x) {
  std::vector<float> low, high;
  ranges_of(x, s.grain, low, high);
  set_scales(s, low, high, x.shape());
  return s;
}

}  // namespace

TEST_CASE("number-formats 2: asymmetric and symmetric 4 bits") {
  const Tensor x = known::vector();
  QuantSpec s = grouped(number::uint4, 32);
  s.symmetric = false;
  s = calibrated(s, x);
  CHECK(s.scale.read<float>()[0] == 0.5875f);
  CHECK(s.zero_point.read<std::int32_t>()[0] == 12);
  CHECK(signed_codes(quantize(x, s)) == std::vector<int>{10, 14, 11, 15, 12, 0,  13, 10, 14, 11, 15,
                                                         12, 9,  13, 10, 14, 11, 9,  13, 10, 14, 11,
                                                         15, 12, 9,  13, 10, 14, 11, 15, 12, 9});
  CHECK(squared_error(x, fake_quantize(x, s)) == doctest::Approx(0.69921875).epsilon(1e-5));
  QuantSpec t = grouped(number::int4, 32);
  t.narrow = true;
  t = calibrated(t, x);
  CHECK(t.scale.read<float>()[0] == 1);
  CHECK(t.zero_point.empty());
  CHECK(squared_error(x, fake_quantize(x, t)) == 2.625);
}

TEST_CASE("number-formats 6: block formats") {
  const Tensor x = known::vector();
  struct Row {
    const char* name;
    const NumberFormat* format;
    int scale_byte, digits;
    const char* codes;
    double error;
  };
  const Row rows[] = {
      {"MXFP4 floor", &number::e2m1, 0x7f, 1, "B2938F1A2940B2A39C1B2A38C1A2940B", 1.625},
      {"MXFP4 even", &number::e2m1, 0x80, 1, "91928E191820A1918A091928A091920A", 3.625},
      {"MXFP6 E2M3", &number::e2m3, 0x7f, 2, "2A08260D203E04290A240E012C06280B2230022B08260C212E042A09240E002D",
       0.0625},
      {"MXFP6 E3M2", &number::e3m2, 0x7d, 2,
       "35143216243F10341530170836123416"
       "2D380D36143216283710351430170436",
       0.140625},
      {"MXFP8 E4M3", &number::e4m3, 0x79, 2,
       "EA68E36DC8FE61E96AE06E50EC64E76B"
       "DAF05AEB67E46CD0EE60EA69E16E48ED",
       0.02734375},
      {"MXFP8 E5M2", &number::e5m2, 0x72, 2,
       "F170EE72E0FB6CF071EC7364F26EF072"
       "E9F469F270EE72E4F36CF170EC7360F2",
       0.140625},
      // MXINT8 counts in 1/64, our int8 in 1: six powers of two less than byte 81
      {"MXINT8", &number::int8, 0x81 - 6, 2,
       "EB10F51AFF9009EE13F81D02E70CF116"
       "FBE005EA0FF419FEE308ED12F71C01E6",
       0},
  };
  for (const Row& r : rows) {
    CAPTURE(std::string(r.name));
    QuantSpec s = grouped(*r.format, 32);
    s.scale_format = &number::e8m0;
    s.scale = f32({1, 1}, {e8m0_value(static_cast<std::uint8_t>(r.scale_byte))});
    const Tensor codes = quantize(x, s);
    const auto mask = static_cast<std::uint16_t>((1 << r.format->bits) - 1);
    CHECK(hex_codes(codes, r.digits, mask) == r.codes);
    CHECK(squared_error(x, fake_quantize(x, s)) == doctest::Approx(r.error));
    CHECK(dequantize(codes, s).same_bytes(fake_quantize(x, s)));
    CHECK(unpack_codes(pack_codes(codes, s)).same_bytes(codes));
  }
  QuantSpec even = grouped(number::e2m1, 32);
  even.scale_format = &number::e8m0;
  CHECK(calibrated(even, x).scale.read<float>()[0] == e8m0_value(0x80));
  const QuantSpec nibbles = [&] {
    QuantSpec s = even;
    s.scale = f32({1, 1}, {1});
    return s;
  }();
  CHECK(static_cast<int>(pack_codes(quantize(x, nibbles), nibbles).read<std::uint8_t>()[0]) == 0x2b);
}

TEST_CASE("number-formats 6: NVFP4, with and without a tensor scale, and NF4") {
  const Tensor x = known::vector();
  QuantSpec s = grouped(number::e2m1, 16);
  s.scale_format = &number::e4m3;
  const QuantSpec two = calibrated(s, x);
  CHECK(std::bit_cast<std::uint32_t>(two.second_scale.read<float>()[0]) == 0x3b2aaaabu);
  CHECK(hex_codes(quantize(x, two), 1, 15) == "A2938F1A2930B1A2AF2E5C69F3E5B70E");
  CHECK(squared_error(x, fake_quantize(x, two)) == doctest::Approx(0.5625).epsilon(1e-4));
  s.second_scale = Tensor::scalar(1.0f);
  const QuantSpec one = calibrated(s, x);
  std::uint16_t bytes[2];
  number::e4m3.encode(one.scale.read<float>(), {bytes, 2});
  CHECK(bytes[0] == 0x39);
  CHECK(bytes[1] == 0x2b);
  CHECK(hex_codes(quantize(x, one), 1, 15) == "A2938F1A2930B1A2AF2E5C69F3D5B70E");
  CHECK(squared_error(x, fake_quantize(x, one)) == doctest::Approx(0.64233).epsilon(1e-4));
  const QuantSpec nf = calibrated(grouped(number::nf4, 32), x);
  CHECK(hex_codes(quantize(x, nf), 1, 15) == "596A708596A75869748596A748596A75");
  CHECK(squared_error(x, fake_quantize(x, nf)) == doctest::Approx(0.78898).epsilon(1e-4));
}

TEST_CASE("onnx-quantized 9: spec vectors") {
  QuantSpec s;
  s.format = &number::int4;
  s.grain = {Grain::Kind::axis, 0, 0, 0};
  s.scale = f32({3}, {2, 3, 4});
  s.zero_point = i32({3}, {1, 1, 1});
  const Tensor x = f32({3, 4}, {0, 2.5f, 4.8f, 8.6f, -30, -20, 6, 9, 12, 15, 16, 40});
  const Tensor codes = quantize(x, s);
  CHECK(signed_codes(codes) == std::vector<int>{1, 2, 3, 5, -8, -6, 3, 4, 4, 5, 5, 7});
  const Tensor packed = pack_codes(codes, s);
  const auto bytes = packed.read<std::uint8_t>();
  CHECK(std::vector<int>(bytes.begin(), bytes.end()) == std::vector<int>{0x21, 0x53, 0xa8, 0x43, 0x54, 0x75});
  CHECK(unpack_codes(packed).same_bytes(codes));

  QuantSpec f4 = s;
  f4.format = &number::e2m1;
  f4.zero_point = {};
  const Tensor y = f32({3, 4}, {0, 2.5f, 4.8f, 8.6f, -30, -20, 6, 9, -0.0f, -2.5f, -4.8f, -8.6f});
  const Tensor values = [&] {
    QuantSpec unit = f4;
    unit.scale = f32({3}, {1, 1, 1});
    return dequantize(quantize(y, f4), unit);
  }();
  const auto v = values.read<float>();
  CHECK(std::vector<float>(v.begin(), v.end()) == std::vector<float>{0, 1, 2, 4, -6, -6, 2, 3, 0, -0.5f, -1, -2});

  QuantSpec f8;
  f8.format = &number::e4m3;
  f8.scale = f32({}, {2});
  const Tensor z = f32({5}, {0, 1, 2, 1e5f, 200});
  const auto halves = [&](const NumberFormat& format) {
    f8.format = &format;
    std::vector<float> out;
    const Tensor y8 = fake_quantize(z, f8);
    for (const float d : y8.read<float>()) out.push_back(d / 2);
    return out;
  };
  CHECK(halves(number::e4m3) == std::vector<float>{0, 0.5f, 1, 448, 96});
  CHECK(halves(number::e5m2) == std::vector<float>{0, 0.5f, 1, 49152, 96});

  QuantSpec u8;
  u8.format = &number::uint8;
  u8.grain = {Grain::Kind::axis, 1, 0, 0};
  u8.scale = f32({3}, {2, 4, 5});
  u8.zero_point = i32({3}, {84, 24, 196});
  CHECK(signed_codes(quantize(f32({1, 3, 2, 1}, {-162, 10, -100, 232, -485, 245}), u8)) ==
        std::vector<int>{3, 89, 0, 82, 99, 245});

  QuantSpec blocked = u8;
  blocked.grain = {Grain::Kind::groups, 1, 2, 0};
  blocked.scale = f32({3, 2}, {1.5f, 2.5f, 3, 4.9f, 5.1f, 6.9f});
  blocked.zero_point = i32({3, 2}, {0, 1, 1, 0, 2, 3});
  CHECK(signed_codes(quantize(f32({3, 4}, {6, 12, 50, 5, 1, 8, 4, 5, 0, 20, 10, 4}), blocked)) ==
        std::vector<int>{4, 8, 21, 3, 1, 4, 1, 1, 2, 6, 4, 4});
}

TEST_CASE("onnx-quantized 9: DynamicQuantizeLinear") {
  QuantSpec s;
  s.format = &number::uint8;
  s.symmetric = false;
  s.dynamic = true;
  const Tensor x = f32({6}, {-1, -2.1f, -1.3f, -2.5f, -3.34f, -4});
  const QuantSpec now = calibrated(s, x);
  CHECK(now.scale.read<float>()[0] == 0.0156862754f);
  CHECK(now.zero_point.read<std::int32_t>()[0] == 255);
  QuantSpec fixed = now;
  fixed.dynamic = false;
  CHECK(fake_quantize(x, s).same_bytes(fake_quantize(x, fixed)));
}

TEST_CASE("onnx-quantized 1: INT4 and INT2 packing") {
  QuantSpec s;
  s.format = &number::int4;
  const Tensor codes = Tensor::of<std::int8_t>({2, 3}, std::vector<std::int8_t>{-8, -1, 0, 1, 7, -2});
  const Tensor p4 = pack_codes(codes, s);
  CHECK(p4.dtype() == DType::i4);
  CHECK(std::vector<int>(p4.read<std::uint8_t>().begin(), p4.read<std::uint8_t>().end()) ==
        std::vector<int>{0xf8, 0x10, 0xe7});
  s.format = &number::int2;
  const Tensor two = Tensor::of<std::int8_t>({5}, std::vector<std::int8_t>{-2, -1, 0, 1, 1});
  const Tensor p2 = pack_codes(two, s);
  CHECK(std::vector<int>(p2.read<std::uint8_t>().begin(), p2.read<std::uint8_t>().end()) ==
        std::vector<int>{0x4e, 0x01});
  CHECK(unpack_codes(p2).same_bytes(two));
}

TEST_CASE("the fast path agrees with codes, for every grain") {
  Tensor x(DType::f32, {3, 10, 7});
  for (std::size_t i = 0; i < 210; ++i) x.write<float>()[i] = std::sin(static_cast<float>(i * i)) * 3.0f;
  const Grain grains[] = {{Grain::Kind::tensor, 0, 0, 0}, {Grain::Kind::axis, 0, 0, 0},
                          {Grain::Kind::axis, 1, 0, 0},   {Grain::Kind::axis, 2, 0, 0},
                          {Grain::Kind::groups, 0, 2, 0}, {Grain::Kind::groups, 1, 4, 0},
                          {Grain::Kind::groups, 2, 4, 0}, {Grain::Kind::blocks, 0, 4, 3}};
  for (const NumberFormat* f : numbers()) {
    if (f == &number::e8m0) continue;
    for (const Grain& g : grains) {
      for (const bool symmetric : {true, false}) {
        CAPTURE(std::string(f->name));
        CAPTURE(static_cast<int>(g.kind));
        CAPTURE(g.axis);
        QuantSpec s;
        s.format = f;
        s.grain = g;
        s.symmetric = symmetric;
        s = calibrated(s, x);
        REQUIRE(s.scale.shape() == scale_shape(g, x.shape()));
        const Tensor codes = quantize(x, s);
        const Tensor y = fake_quantize(x, s);
        REQUIRE(dequantize(codes, s).same_bytes(y));
        REQUIRE(quantize(y, s).same_bytes(codes));  // number-formats 11.3
        QuantSpec chosen = s;
        chosen.codes = codes;
        REQUIRE(fake_quantize(x, chosen).same_bytes(y));
      }
    }
  }
}

TEST_CASE("number-formats 9: edge cases of ranges and scales") {
  QuantSpec s;
  s.format = &number::int8;
  const auto scale_of = [&](std::initializer_list<float> v) {
    return calibrated(s, Tensor::of<float>({static_cast<std::int64_t>(v.size())}, v)).scale.read<float>()[0];
  };
  CHECK(scale_of({0, 0, 0}) == 1);
  CHECK(scale_of({0, -5, 0}) == 5.0f / 127);
  CHECK(scale_of({1e-40f}) == std::numeric_limits<float>::min());
  CHECK(std::isfinite(scale_of({std::numeric_limits<float>::max(), -1})));
  QuantSpec asymmetric = s;
  asymmetric.symmetric = false;
  const float huge = std::numeric_limits<float>::max();
  CHECK(std::isfinite(calibrated(asymmetric, f32({2}, {huge, -huge})).scale.read<float>()[0]));
  CHECK(fake_quantize(f32({2}, {3, 3}), calibrated(asymmetric, f32({2}, {3, 3}))).read<float>()[1] ==
        doctest::Approx(3));
  std::vector<float> low, high;
  CHECK_THROWS_AS(ranges_of(f32({2}, {1, NAN}), {}, low, high), Error);
  CHECK_THROWS_AS(ranges_of(f32({2}, {1, -INFINITY}), {}, low, high), Error);
  ranges_of(Tensor(DType::f32, {0, 3}), {Grain::Kind::axis, 1, 0, 0}, low, high);
  CHECK(high == std::vector<float>{0, 0, 0});
  // an unsigned symmetric format is centred only where values below zero ask for it
  s.format = &number::uint8;
  CHECK(calibrated(s, f32({2}, {0, 4})).zero_point.empty());
  const QuantSpec centred = calibrated(s, f32({2}, {-4, 4}));
  CHECK(centred.zero_point.read<std::int32_t>()[0] == 128);
  CHECK(centred.scale.read<float>()[0] == 4.0f / 127);
}

TEST_CASE("half tensors keep their type, biases use 32 bits") {
  QuantSpec s;
  s.format = &number::int8;
  s.scale = f32({}, {0.5f});
  const Tensor h = from_f32(f32({3}, {0.2f, 0.3f, -90}), DType::f16);
  const Tensor y = fake_quantize(h, s);
  CHECK(y.dtype() == DType::f16);
  CHECK(to_f32(y).same_bytes(f32({3}, {0, 0.5f, -64})));
  QuantSpec b = s;
  b.is_bias = true;
  b.scale = f32({}, {0.25f});
  CHECK(quantize(f32({2}, {1e6f, -0.3f}), b).same_bytes(i32({2}, {4000000, -1})));
  CHECK(fake_quantize(f32({2}, {1e6f, -0.3f}), b).same_bytes(f32({2}, {1e6f, -0.25f})));
}
