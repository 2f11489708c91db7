// SPDX-License-Identifier: Apache-2.0
#include "backends/onnx/packed_rows.h"

#include <doctest/doctest.h>

#include "formats/base/rng.h"

using namespace qtool;

TEST_CASE("onnx-quantized 4: rows of packed codes, low bits first, each from a byte on, along and across the weight") {
  struct Case {
    std::int64_t n, k, block, row_bits;  // bits behind the codes of a row up to this are zero
    int bits;
  };
  for (const Case c : {Case{5, 64, 16, 64, 4}, Case{33, 100, 32, 128, 4}, Case{70, 3000, 32, 3008, 2},
                       Case{9, 40, 16, 48, 8}, Case{3, 17, 16, 32, 2}, Case{130, 1000, 128, 1000, 4}}) {
    const std::int64_t row = c.row_bits * c.bits / 8;
    for (const bool turned : {false, true}) {
      CAPTURE(c.n);
      CAPTURE(turned);
      const int middle = 1 << (c.bits - 1);
      Tensor codes(DType::i8, turned ? Shape{c.k, c.n} : Shape{c.n, c.k});
      const Rng rng(7);
      std::uint64_t next = 0;
      for (std::int8_t& code : codes.write<std::int8_t>()) {
        code = static_cast<std::int8_t>(static_cast<int>(rng.bits(next++) % static_cast<std::uint64_t>(2 * middle)) -
                                        middle);
      }
      std::vector<std::uint8_t> expected(static_cast<std::size_t>(c.n * row));
      for (std::int64_t n = 0; n < c.n; ++n) {
        for (std::int64_t k = 0; k < c.k; ++k) {
          const int code = codes.read<std::int8_t>()[static_cast<std::size_t>(turned ? k * c.n + n : n * c.k + k)];
          auto& byte = expected[static_cast<std::size_t>(n * row + k * c.bits / 8)];
          byte = static_cast<std::uint8_t>(byte | (code + middle) << (k * c.bits % 8));
        }
      }
      const onnx_form::HeldCodes held{codes, c.n, c.k, c.block, c.bits, turned, static_cast<std::uint8_t>(middle)};
      const Tensor packed = onnx_form::packed_rows(held, row, {c.n, row});
      CHECK(packed.same_bytes(Tensor::of<std::uint8_t>({c.n, row}, std::span<const std::uint8_t>(expected))));
    }
  }
}
