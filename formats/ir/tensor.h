// SPDX-License-Identifier: Apache-2.0
// Tensor: a value. Copying shares the bytes; writing detaches them. Row-major, little-endian; sub-byte
// element types stay packed as ONNX packs them (flat sequence, first element in the low bits, zero tail).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/hash.h"

namespace qtool {

class MappedFile;
enum class Lasting : bool;

/// Every TensorProto type. Names of the minifloats follow ONNX.
enum class DType : std::uint8_t {
  f32,
  f16,
  bf16,
  f64,
  i8,
  u8,
  i16,
  u16,
  i32,
  u32,
  i64,
  u64,
  boolean,
  string,
  c64,
  c128,
  i4,
  u4,
  i2,
  u2,
  f8e4m3fn,
  f8e4m3fnuz,
  f8e5m2,
  f8e5m2fnuz,
  f8e8m0,
  f6e2m3,
  f6e3m2,
  f4e2m1,
};

/// "f32", "u4", ... ; the spelling that recipes, messages and JSON use.
std::string_view name_of(DType);
/// Bits of one stored element; 0 for string.
int bit_width(DType);
/// Bytes of `count` packed elements.
std::size_t byte_size(DType, std::int64_t count);
/// f16, bf16, f32, f64.
bool is_float(DType);
/// The integer types of 8 to 64 bits.
bool is_integer(DType);

/// Extents; -1: known only when run.
using Shape = std::vector<std::int64_t>;
/// Product of the extents. Error(Code::input) on a negative extent or on more than 2^58 elements (whose bytes are still
/// counted in 64 bits).
std::int64_t element_count(const Shape&);
/// "[1, 3, ?, ?]".
std::string to_string(const Shape&);

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<std::int8_t> {
  static constexpr DType value = DType::i8;
};
template <>
struct DTypeOf<std::uint8_t> {
  static constexpr DType value = DType::u8;
};
template <>
struct DTypeOf<std::int16_t> {
  static constexpr DType value = DType::i16;
};
template <>
struct DTypeOf<std::uint16_t> {
  static constexpr DType value = DType::u16;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<std::uint32_t> {
  static constexpr DType value = DType::u32;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<std::uint64_t> {
  static constexpr DType value = DType::u64;
};
template <>
struct DTypeOf<bool> {
  static constexpr DType value = DType::boolean;
};

/// How bytes that follow from others are made when somebody reads them, instead of being held.
struct Making {
  /// Bytes from multiples of this on can be made by themselves.
  std::size_t part = 1;
  /// Writes all of `out`, the bytes from `from` on. Thread-safe; the same bytes each time.
  std::function<void(std::size_t from, std::span<std::byte> out)> make;
};

/// Bytes with an owner: heap memory, or a window into something mapped; or none, and how they are made. Read-only once
/// shared.
class Buffer {
 public:
  /// Heap memory of `size` bytes, aligned to 64; zeroed, or as it was found.
  static std::shared_ptr<Buffer> allocate(std::size_t size, bool zeroed = true);
  /// Bytes owned by `owner` (a mapping); never written.
  static std::shared_ptr<Buffer> view(std::span<const std::byte> bytes, std::shared_ptr<const void> owner);
  /// A part of a file. Where it is copied or looked at in pieces, its pages are not touched.
  static std::shared_ptr<Buffer> view(std::span<const std::byte> part, const MappedFile& file);
  /// bytes() makes them once and keeps them; aligned(), digest() and read() do not.
  static std::shared_ptr<Buffer> made(std::size_t size, Making);
  std::size_t size() const { return size_; }
  std::span<const std::byte> bytes() const {
    return making_.make ? kept_copy()->bytes() : std::span<const std::byte>(data_, size_);
  }
  /// bytes() at a multiple of `align`: where a file holds them elsewhere, a copy that stays with the buffer.
  /// Thread-safe.
  std::span<const std::byte> bytes(std::size_t align) const {
    return is_aligned(align) ? bytes() : kept_copy()->bytes();
  }
  /// `buffer` itself, or such a copy, which goes with the last that holds it; until then all get the same.
  /// Thread-safe.
  static std::shared_ptr<Buffer> aligned(const std::shared_ptr<Buffer>& buffer, std::size_t align);
  /// Copies the bytes from `from` on, of which nothing stays in memory but `to`. Of those that are made `from` is a
  /// multiple of part(), and so is the end, or it is the end of all.
  void read(std::size_t from, std::span<std::byte> to) const;
  std::size_t part() const { return making_.make ? making_.part : 1; }
  /// Gives all bytes in order, in pieces of 8-byte words (but for the end); of those that lie in a file or are made
  /// only one is in memory at a time.
  void for_each_piece(const std::function<void(std::span<const std::byte>)>&) const;
  /// Where they lie, if they do without being made.
  const std::byte* address() const { return data_; }
  /// Whether they lie in a file.
  bool is_mapped() const { return file_ != nullptr; }
  bool writable() const { return writable_; }
  /// Of the bytes; computed when first asked for. Thread-safe.
  Digest digest() const;

 private:
  friend class Tensor;
  bool is_aligned(std::size_t align) const {
    return !making_.make && reinterpret_cast<std::uintptr_t>(data_) % align == 0;
  }
  std::shared_ptr<Buffer> kept_copy() const;
  std::shared_ptr<Buffer> copy(Lasting) const;
  std::size_t place_in_file() const;
  mutable std::mutex mutex_;                // guards the next three
  mutable std::optional<Digest> digest_;    // dropped when a tensor is about to write
  mutable std::shared_ptr<Buffer> kept_;    // aligned copies, and what was made
  mutable std::weak_ptr<Buffer> borrowed_;  // one that others hold
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  bool writable_ = false;
  std::shared_ptr<const void> owner_;
  const MappedFile* file_ = nullptr;  // the owner, where that is a file
  Making making_;
};

class Tensor {
 public:
  /// No value at all (an optional input left out); dtype f32, shape [0].
  Tensor() = default;
  /// Zeros. Strings: empty strings.
  Tensor(DType, Shape);
  /// Elements as memory was found, for results that will be written in full. Not for strings.
  static Tensor unset(DType, Shape);
  /// Requires: buffer has byte_size(dtype, element_count(shape)) bytes.
  Tensor(DType, Shape, std::shared_ptr<Buffer>);
  static Tensor strings(Shape, std::vector<std::string>);
  template <class T>
  static Tensor of(Shape shape, std::span<const T> values) {
    Tensor t(DTypeOf<T>::value, std::move(shape));
    auto out = t.write<T>();
    std::copy(values.begin(), values.end(), out.begin());
    return t;
  }
  template <class T>
  static Tensor of(Shape shape, std::initializer_list<T> values) {
    return of<T>(std::move(shape), std::span<const T>(values.begin(), values.size()));
  }
  template <class T>
  static Tensor scalar(T value) {
    return of<T>({}, {value});
  }

  bool empty() const { return !buffer_ && !strings_; }
  explicit operator bool() const { return !empty(); }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::int64_t rank() const { return static_cast<std::int64_t>(shape_.size()); }
  std::int64_t count() const { return count_; }
  std::size_t size_bytes() const { return buffer_ ? buffer_->size() : 0; }

  /// T must match dtype (std::uint16_t also reads f16 and bf16; std::uint8_t any packed or 8-bit type).
  template <class T>
  std::span<const T> read() const {
    check(DTypeOf<T>::value);
    const auto b = buffer_ ? buffer_->bytes(alignof(T)) : std::span<const std::byte>{};
    return {reinterpret_cast<const T*>(b.data()), b.size() / sizeof(T)};
  }
  /// Holds the elements where read() may take them as they are; they lie at any address in files. Who reads large
  /// constants does this to a tensor of its own first: a copy that read() has to make stays with all that share the
  /// bytes, and lies on the disk under a memory ceiling. True: they were not, and others get the same copy while it
  /// is held.
  bool align();
  /// Detaches if shared or mapped.
  template <class T>
  std::span<T> write() {
    check(DTypeOf<T>::value);
    const auto b = write_bytes();
    return {reinterpret_cast<T*>(b.data()), b.size() / sizeof(T)};
  }
  std::span<const std::byte> bytes() const { return buffer_ ? buffer_->bytes() : std::span<const std::byte>{}; }
  /// Of its buffer; the first two require one.
  void read(std::size_t from, std::span<std::byte> to) const { buffer_->read(from, to); }
  std::size_t part() const { return buffer_->part(); }
  /// Buffer::for_each_piece(); nothing of a tensor without a buffer.
  void for_each_piece(const std::function<void(std::span<const std::byte>)>& f) const {
    if (buffer_) buffer_->for_each_piece(f);
  }
  const std::byte* address() const { return buffer_ ? buffer_->address() : nullptr; }
  bool is_mapped() const { return buffer_ && buffer_->is_mapped(); }
  std::span<std::byte> write_bytes();
  /// SHA-256 of bytes(), kept with them: tensors that share bytes hash them once. Nobody may write through a span that
  /// write() gave before this was called.
  Digest digest() const { return buffer_ ? buffer_->digest() : Hasher().finish(); }
  const std::vector<std::string>& read_strings() const;

  /// The same bytes under another shape of equal count.
  Tensor reshaped(Shape) const;
  /// The same bytes under another type of equal width (u8 as i8, u16 as f16).
  Tensor viewed_as(DType) const;
  /// True when both share one buffer (used to see whether a constant was touched).
  bool same_storage(const Tensor& other) const {
    return buffer_ == other.buffer_ && strings_ == other.strings_ && dtype_ == other.dtype_ && shape_ == other.shape_;
  }
  /// True when nobody else holds these bytes, so that write() does not copy.
  bool sole_owner() const { return buffer_ && buffer_.use_count() == 1 && buffer_->writable(); }
  /// Equal type, shape and bytes.
  bool same_bytes(const Tensor& other) const;

 private:
  void check(DType asked) const;
  DType dtype_ = DType::f32;
  Shape shape_{0};
  std::int64_t count_ = 0;
  std::shared_ptr<Buffer> buffer_;
  std::shared_ptr<const std::vector<std::string>> strings_;
};

/// Any numeric type to float32 (f16, bf16, minifloats and integers; sub-byte types unpacked). c64, c128 and
/// strings: Error(Code::input).
Tensor to_f32(const Tensor&);
/// float32 to `dtype`, round to nearest even. Integers and formats of 8 bits or fewer saturate (ONNX Cast with
/// saturate = 1); f16 and bf16 overflow to infinity. NaN: zero where the type has none and is an integer.
Tensor from_f32(const Tensor&, DType dtype);
/// An integer or boolean tensor of any width as int64 values (for shapes, axes, indices).
std::vector<std::int64_t> to_int64s(const Tensor&);

}  // namespace qtool
