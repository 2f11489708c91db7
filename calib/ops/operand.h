// SPDX-License-Identifier: Apache-2.0
// Small helpers that operators share: refusing operands with a sentence, computing in float32 for the 16-bit floats,
// calling a template for the element type at hand.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "formats/base/error.h"
#include "formats/ir/tensor.h"

namespace qtool {

/// Error(Code::input) with a sentence about the operands unless `condition` holds.
inline void require(bool condition, const std::string& sentence) {
  if (!condition) throw Error(Code::input, sentence);
}

/// f16 and bf16 as float32; float32 and float64 as they are. Others are refused, named by `what`.
inline Tensor compute_float(const Tensor& t, std::string_view what) {
  if (t.dtype() == DType::f16 || t.dtype() == DType::bf16) return to_f32(t);
  require(t.dtype() == DType::f32 || t.dtype() == DType::f64,
          std::string(what) + " has type " + std::string(name_of(t.dtype())) + " where a float is needed");
  return t;
}

/// The result of a computation on compute_float() operands, in the type that the operands had.
inline Tensor stored_as(Tensor t, DType dtype) {
  return t.dtype() == dtype ? std::move(t) : from_f32(t, dtype);
}

/// Calls f(T{}) with T float or double. Requires: dtype is f32 or f64.
template <class F>
void with_float(DType dtype, F&& f) {
  if (dtype == DType::f64) {
    f(double{});
  } else {
    f(float{});
  }
}

/// Calls f(T{}) with T the C++ type of an integer dtype of 8 to 64 bits.
template <class F>
void with_integer(DType dtype, F&& f) {
  switch (dtype) {
    case DType::i8: return f(std::int8_t{});
    case DType::u8: return f(std::uint8_t{});
    case DType::i16: return f(std::int16_t{});
    case DType::u16: return f(std::uint16_t{});
    case DType::i32: return f(std::int32_t{});
    case DType::u32: return f(std::uint32_t{});
    case DType::i64: return f(std::int64_t{});
    case DType::u64: return f(std::uint64_t{});
    default: throw Error(Code::input, "the type " + std::string(name_of(dtype)) + " is no integer of 8 to 64 bits");
  }
}

inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// `axis` counted from the front. Error(Code::input) when it is outside [-rank, rank).
inline std::int64_t positive_axis(std::int64_t axis, std::int64_t rank) {
  require(axis >= -rank && axis < rank,
          "axis " + std::to_string(axis) + " is out of range for rank " + std::to_string(rank));
  return axis < 0 ? axis + rank : axis;
}

}  // namespace qtool
