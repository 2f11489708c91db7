// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>

#include "formats/base/error.h"
#include "formats/ir/tensor.h"

using namespace qtool;

TEST_CASE("every real type survives the way over float32") {
  for (int i = 0; i <= static_cast<int>(DType::f4e2m1); ++i) {
    const auto t = static_cast<DType>(i);
    if (t == DType::string || t == DType::c64 || t == DType::c128) continue;
    CAPTURE(std::string(name_of(t)));
    // 1 and 2 are values of every type (a boolean has only 1); seven elements leave a tail in packed types
    const float two = t == DType::boolean || t == DType::i2 ? 1.0f : 2.0f;
    const Tensor x = Tensor::of<float>({7}, {1, two, 1, 1, two, two, 1});
    const Tensor stored = from_f32(x, t);
    CHECK(stored.dtype() == t);
    CHECK(stored.size_bytes() == byte_size(t, 7));
    CHECK(to_f32(stored).same_bytes(x));
  }
  CHECK_THROWS_AS(to_f32(Tensor(DType::string, {1})), Error);
  CHECK_THROWS_AS(from_f32(Tensor(DType::f32, {1}), DType::c64), Error);
}

TEST_CASE("integers round to even and saturate") {
  const float inf = std::numeric_limits<float>::infinity();
  const Tensor x = Tensor::of<float>({6}, {0.5f, 1.5f, -2.5f, inf, -inf, NAN});
  CHECK(to_int64s(from_f32(x, DType::i8)) == std::vector<std::int64_t>{0, 2, -2, 127, -128, 0});
  CHECK(to_int64s(from_f32(x, DType::u16)) == std::vector<std::int64_t>{0, 2, 0, 65535, 0, 0});
  CHECK(to_int64s(from_f32(x, DType::i4)) == std::vector<std::int64_t>{0, 2, -2, 7, -8, 0});
  CHECK(to_int64s(from_f32(x, DType::u2)) == std::vector<std::int64_t>{0, 2, 0, 3, 0, 0});
  CHECK(to_int64s(from_f32(x, DType::i64)) == std::vector<std::int64_t>{0, 2, -2,
                                                                        std::numeric_limits<std::int64_t>::max(),
                                                                        std::numeric_limits<std::int64_t>::min(), 0});
  CHECK(to_int64s(from_f32(x, DType::i32))[3] == 2147483647);
}

TEST_CASE("half overflows to infinity, minifloats saturate") {
  const Tensor big = Tensor::of<float>({1}, {1e6f});
  CHECK(std::isinf(to_f32(from_f32(big, DType::f16)).read<float>()[0]));
  CHECK(to_f32(from_f32(big, DType::f8e5m2)).read<float>()[0] == 57344);
  CHECK(to_f32(from_f32(big, DType::f8e5m2fnuz)).read<float>()[0] == 57344);
  CHECK(to_f32(from_f32(big, DType::f8e4m3fn)).read<float>()[0] == 448);
  CHECK(to_f32(from_f32(big, DType::f8e4m3fnuz)).read<float>()[0] == 240);  // number-formats 3
  const Tensor zero = from_f32(Tensor::of<float>({2}, {-1e-9f, NAN}), DType::f8e4m3fnuz);
  CHECK(zero.read<std::uint8_t>()[0] == 0);  // fnuz has no minus zero
  CHECK(zero.read<std::uint8_t>()[1] == 0x80);
}

TEST_CASE("only integers become int64") {
  CHECK(to_int64s(Tensor::of<bool>({2}, {true, false})) == std::vector<std::int64_t>{1, 0});
  CHECK(to_int64s(Tensor()).empty());
  CHECK_THROWS_AS(to_int64s(Tensor::scalar(1.0f)), Error);
  CHECK_THROWS_AS(to_int64s(Tensor::scalar(std::numeric_limits<std::uint64_t>::max())), Error);
}
