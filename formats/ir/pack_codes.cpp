// SPDX-License-Identifier: Apache-2.0
// Codes packed as ONNX stores them, and back.
#include <algorithm>
#include <numeric>
#include <vector>

#include "formats/base/error.h"
#include "formats/ir/absent.h"
#include "formats/ir/quant.h"

namespace qtool {
namespace {

/// The low bits of each code, one after the other.
void pack(std::span<const std::byte> codes, unsigned bits, std::span<std::byte> out) {
  std::fill(out.begin(), out.end(), std::byte{0});
  const std::uint32_t mask = (1u << bits) - 1u;
  std::size_t bit = 0;
  for (std::size_t i = 0; i < codes.size(); ++i, bit += bits) {
    const std::uint32_t word = (static_cast<std::uint32_t>(codes[i]) & mask) << (bit % 8);
    out[bit / 8] |= static_cast<std::byte>(word & 0xffu);
    if (word > 0xffu) out[bit / 8 + 1] |= static_cast<std::byte>(word >> 8);
  }
}

}  // namespace

Tensor pack_codes(const Tensor& codes, const QuantSpec& spec) {
  QTOOL_ENSURE(spec.format != nullptr && spec.format->onnx.has_value(), "only formats with an ONNX type are packed");
  const DType dtype = *spec.format->onnx;
  if (codes.dtype() == DType::i32) return codes;  // a bias
  const auto bits = static_cast<unsigned>(bit_width(dtype));
  if (bits == static_cast<unsigned>(bit_width(codes.dtype()))) return codes.viewed_as(dtype);
  if (is_absent(codes)) return absent(dtype, codes.shape());
  const auto count = static_cast<std::size_t>(codes.count());
  if (count == 0) return Tensor(dtype, codes.shape());
  const std::size_t elements = std::lcm(codes.part(), std::size_t{8});  // that end on a byte
  const auto make = [codes, bits, count](std::size_t from, std::span<std::byte> out) {
    const std::size_t first = from * 8 / bits;
    std::vector<std::byte> some(std::min(out.size() * 8 / bits, count - first));
    codes.read(first, some);
    pack(some, bits, out);
  };
  return Tensor(dtype, codes.shape(), Buffer::made(byte_size(dtype, codes.count()), {elements * bits / 8, make}));
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
