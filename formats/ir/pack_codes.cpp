// SPDX-License-Identifier: Apache-2.0
// Codes packed as ONNX stores them, and back.
#include "formats/ir/pack_bits.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/widest.h"
#include "formats/ir/absent.h"
#include "formats/ir/quant.h"

namespace qtool {

void pack_bits(const std::uint8_t* codes, std::int64_t count, int bits, std::byte* out) {
  auto* const to = reinterpret_cast<std::uint8_t*>(out);
  std::int64_t i = 0;
  with_widest_vectors([&]() QTOOL_INLINE {
    if (bits == 8) {
      for (; i < count; ++i) to[i] = codes[i];
    } else if (bits == 4) {
      for (; i + 2 <= count; i += 2) {
        std::uint16_t two;  // the first in the low byte
        std::memcpy(&two, codes + i, 2);
        to[i / 2] = static_cast<std::uint8_t>((two & 0x0f) | (two >> 4 & 0xf0));
      }
    } else if (bits == 2) {
      for (; i + 4 <= count; i += 4) {
        to[i / 4] = static_cast<std::uint8_t>((codes[i] & 3) | (codes[i + 1] & 3) << 2 | (codes[i + 2] & 3) << 4 |
                                              codes[i + 3] << 6);
      }
    }
  });
  const unsigned mask = (1U << bits) - 1U;
  for (; i < count; ++i) {
    const std::int64_t bit = i * bits;
    const unsigned word = (codes[i] & mask) << (bit % 8);
    to[bit / 8] = static_cast<std::uint8_t>(to[bit / 8] | word);
    if (word > 0xff) to[bit / 8 + 1] = static_cast<std::uint8_t>(to[bit / 8 + 1] | word >> 8);
  }
}

Tensor pack_codes(const Tensor& codes, const QuantSpec& spec) {
  QTOOL_ENSURE(spec.format != nullptr && spec.format->onnx.has_value(), "only formats with an ONNX type are packed");
  const DType dtype = *spec.format->onnx;
  if (codes.dtype() == DType::i32) return codes;  // a bias
  const int bits = bit_width(dtype);
  if (bits == bit_width(codes.dtype())) return codes.viewed_as(dtype);
  if (is_absent(codes)) return absent(dtype, codes.shape());
  const auto count = static_cast<std::size_t>(codes.count());
  if (count == 0) return Tensor(dtype, codes.shape());
  const std::size_t elements = std::lcm(codes.part(), std::size_t{8});  // that end on a byte
  const auto width = static_cast<std::size_t>(bits);
  const auto make = [codes, bits, width, count](std::size_t from, std::span<std::byte> out) {
    const std::size_t first = from * 8 / width;
    std::vector<std::uint8_t> some(std::min(out.size() * 8 / width, count - first));
    codes.read(first, std::as_writable_bytes(std::span(some)));
    std::fill(out.begin(), out.end(), std::byte{0});
    pack_bits(some.data(), static_cast<std::int64_t>(some.size()), bits, out.data());
  };
  return Tensor(dtype, codes.shape(), Buffer::made(byte_size(dtype, codes.count()), {elements * width / 8, make}));
}

Tensor unpack_codes(const Tensor& packed) {
  const DType dtype = packed.dtype();
  if (dtype == DType::i32) return packed;
  const auto bits = static_cast<unsigned>(bit_width(dtype));
  if (bits == 16) return packed.viewed_as(DType::u16);
  QTOOL_ENSURE(bits > 0 && bits <= 8, "packed codes are of 16 bits or fewer");
  const bool is_signed = dtype == DType::i8 || dtype == DType::i4 || dtype == DType::i2;
  Tensor codes(is_signed ? DType::i8 : DType::u8, packed.shape());
  const auto in = packed.bytes();
  const auto out = codes.write_bytes();
  const std::uint32_t mask = (1u << bits) - 1u, sign = 1u << (bits - 1);
  std::size_t bit = 0;
  for (std::size_t i = 0; i < out.size(); ++i, bit += bits) {
    std::uint32_t word = static_cast<std::uint32_t>(in[bit / 8]);
    if (bit % 8 + bits > 8) word |= static_cast<std::uint32_t>(in[bit / 8 + 1]) << 8;
    const std::uint32_t code = (word >> (bit % 8)) & mask;
    out[i] = static_cast<std::byte>(is_signed && (code & sign) != 0 ? code | ~mask : code);
  }
  return codes;
}

}  // namespace qtool
