// SPDX-License-Identifier: Apache-2.0
// What operators share: dispatch on element types, axes, broadcasting, walking strided operands. Not for code outside
// calib/ops.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "calib/op.h"
#include "formats/base/error.h"
#include "formats/base/widest.h"

namespace qtool::op {

/// Elements per chunk of parallel work that costs a few cycles per element.
inline constexpr std::int64_t elements_per_chunk = 32768;

[[noreturn]] inline void refuse(const std::string& what) { throw Error(Code::input, what); }
[[noreturn]] inline void refuse_type(DType t) {
  refuse("operands of type " + std::string(name_of(t)) + " are not supported here");
}

inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
/// Bytes of one element; packed types and strings are refused.
inline std::size_t width_of(const Tensor& x) {
  if (bit_width(x.dtype()) % 8 != 0 || x.dtype() == DType::string) refuse_type(x.dtype());
  return at(bit_width(x.dtype()) / 8);
}

inline bool is_half(DType t) { return t == DType::f16 || t == DType::bf16; }
/// f16 and bf16 are computed in float32; everything else as it is.
inline Tensor widened(const Tensor& t) { return is_half(t.dtype()) ? to_f32(t) : t; }
inline Tensor narrowed(Tensor t, DType dtype) { return is_half(dtype) ? from_f32(t, dtype) : t; }

/// Calls f(T()) with the C++ type of `dtype`.
template <class F>
void for_float_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: return f(float());
    case DType::f64: return f(double());
    default: refuse_type(dtype);
  }
}
template <class F>
void for_integer_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::i8: return f(std::int8_t());
    case DType::u8: return f(std::uint8_t());
    case DType::i16: return f(std::int16_t());
    case DType::u16: return f(std::uint16_t());
    case DType::i32: return f(std::int32_t());
    case DType::u32: return f(std::uint32_t());
    case DType::i64: return f(std::int64_t());
    case DType::u64: return f(std::uint64_t());
    default: refuse_type(dtype);
  }
}
template <class F>
void for_number_type(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(float());
  if (dtype == DType::f64) return f(double());
  for_integer_type(dtype, std::forward<F>(f));
}
template <class F>
void for_any_type(DType dtype, F&& f) {
  if (dtype == DType::boolean) return f(bool());
  for_number_type(dtype, std::forward<F>(f));
}

/// The value of an operand that should be one number; `name` says which.
std::int64_t one_integer(const Tensor& t, const char* name);
double one_number(const Tensor& t, const char* name);

/// Axis in [0, rank) from one in [-rank, rank).
std::int64_t axis_in(std::int64_t axis, std::int64_t rank);
/// The same for a list; sorted, Error on a repeated axis.
std::vector<std::int64_t> axes_in(std::vector<std::int64_t> axes, std::int64_t rank);
/// Product of shape[begin, end); Error where element_count() gives one.
std::int64_t extent(const Shape& shape, std::int64_t begin, std::int64_t end);
/// Elements between neighbours along each axis of a dense row-major tensor.
std::vector<std::int64_t> strides_of(const Shape& shape);

/// Shape that both broadcast to (numpy rules).
Shape broadcast(const Shape& a, const Shape& b);
/// The same for types before running: -1 where unknown.
Type broadcast(const Type& a, const Type& b);
/// The gradient of an operand that was broadcast from `shape` to that of `gradient`: sums over what was repeated.
Tensor sum_to(const Tensor& gradient, const Shape& shape);

/// N operands walked along one index space: neighbouring axes that all operands cross alike are merged.
template <std::size_t N>
struct Walk {
  Shape extents;                                     // at least one axis
  std::array<std::vector<std::int64_t>, N> strides;  // in elements; 0: repeated
  std::int64_t count = 0;
};

template <std::size_t N>
Walk<N> make_walk(const Shape& shape, const std::array<std::vector<std::int64_t>, N>& strides) {
  Walk<N> w;
  w.count = element_count(shape);
  for (std::size_t d = 0; d < shape.size(); ++d) {
    if (shape[d] == 1) continue;
    bool merge = !w.extents.empty();
    for (std::size_t i = 0; i < N && merge; ++i) merge = w.strides[i].back() == strides[i][d] * shape[d];
    if (merge) {
      w.extents.back() *= shape[d];
      for (std::size_t i = 0; i < N; ++i) w.strides[i].back() = strides[i][d];
    } else {
      w.extents.push_back(shape[d]);
      for (std::size_t i = 0; i < N; ++i) w.strides[i].push_back(strides[i][d]);
    }
  }
  if (w.extents.empty()) {
    w.extents.push_back(w.count);
    for (auto& s : w.strides) s.push_back(1);
  }
  return w;
}

/// Strides of an operand of shape `from` as it is repeated over `to`.
std::vector<std::int64_t> broadcast_strides(const Shape& from, const Shape& to);

/// Calls f(position, starts, steps, n) for the runs along the last axis that make up positions [begin, end): operand
/// i is at starts[i], starts[i] + steps[i], ...
template <std::size_t N, class F>
void for_runs(const Walk<N>& w, std::int64_t begin, std::int64_t end, F&& f) {
  const std::size_t last = w.extents.size() - 1;
  const std::int64_t inner = w.extents[last];
  std::array<std::int64_t, N> starts{}, steps{};
  for (std::size_t i = 0; i < N; ++i) steps[i] = w.strides[i][last];
  while (begin < end) {
    const std::int64_t column = begin % inner;
    std::int64_t rest = begin / inner, neighbours = 1;  // runs from here to the end of the axis before the last
    for (std::size_t i = 0; i < N; ++i) starts[i] = column * steps[i];
    for (std::size_t d = last; d-- > 0;) {
      const std::int64_t at = rest % w.extents[d];
      rest /= w.extents[d];
      for (std::size_t i = 0; i < N; ++i) starts[i] += at * w.strides[i][d];
      if (d + 1 == last && column == 0) neighbours = w.extents[d] - at;
    }
    for (; neighbours > 0 && begin < end; --neighbours) {
      const std::int64_t n = std::min(inner - column, end - begin);
      f(begin, starts, steps, n);
      begin += n;
      for (std::size_t i = 0; last > 0 && i < N; ++i) starts[i] += w.strides[i][last - 1];
    }
  }
}

/// All runs, in parallel.
template <std::size_t N, class F>
void for_runs(Threads& threads, const Walk<N>& w, F&& f) {
  if (w.count <= elements_per_chunk) return for_runs(w, 0, w.count, f);
  threads.for_each(w.count, elements_per_chunk,
                   [&](std::int64_t begin, std::int64_t end) { for_runs(w, begin, end, f); });
}

/// to[i] = f(i) for i < n, where f reads element i of operands that may be `to` itself. For use inside
/// with_widest_vectors().
template <class R, class F>
QTOOL_INLINE inline void fill_by(R* to, std::int64_t n, const F& f) {
  QTOOL_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) to[i] = f(i);
}

/// out[i] = f(in[i]) over equally long spans, in parallel.
template <class R, class T, class F>
void map(Threads& threads, const T* in, R* out, std::int64_t n, F&& f) {
  const auto part = [&](std::int64_t begin, std::int64_t end) {
    with_widest_vectors([&]() QTOOL_INLINE {
      const auto own = f;  // a copy that no store to `out` can change
      const T* from = in + begin;
      fill_by(out + begin, end - begin, [&](std::int64_t i) QTOOL_INLINE { return static_cast<R>(own(from[i])); });
    });
  };
  if (n <= elements_per_chunk) return part(0, n);
  threads.for_each(n, elements_per_chunk, part);
}

/// Copies the elements of a strided view of `in` (strides in elements, from element `offset` on) into a new tensor.
Tensor gather_strided(Threads& threads, const Tensor& in, Shape shape, const std::vector<std::int64_t>& strides,
                      std::int64_t offset = 0);

/// infer: the output has the type of input 0.
void infer_same(InferContext&);
/// infer: input 0 with an unknown number of entries along attribute `axis`; without it, a list of unknown length.
void infer_chosen(InferContext&);
/// infer: inputs broadcast together; the type of input 0, or boolean.
void infer_broadcast(InferContext&);
void infer_broadcast_bool(InferContext&);

}  // namespace qtool::op
