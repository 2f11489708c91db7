// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/tensor.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/memory.h"

namespace qtool {
namespace {

struct DTypeFacts {
  std::string_view name;
  int bits;
};
// In the order of the enum.
constexpr DTypeFacts dtype_facts[] = {
    {"f32", 32},       {"f16", 16},   {"bf16", 16},      {"f64", 64},   {"i8", 8},     {"u8", 8},      {"i16", 16},
    {"u16", 16},       {"i32", 32},   {"u32", 32},       {"i64", 64},   {"u64", 64},   {"boolean", 8}, {"string", 0},
    {"c64", 64},       {"c128", 128}, {"i4", 4},         {"u4", 4},     {"i2", 2},     {"u2", 2},      {"f8e4m3fn", 8},
    {"f8e4m3fnuz", 8}, {"f8e5m2", 8}, {"f8e5m2fnuz", 8}, {"f8e8m0", 8}, {"f6e2m3", 6}, {"f6e3m2", 6},  {"f4e2m1", 4}};
static_assert(std::size(dtype_facts) == static_cast<std::size_t>(DType::f4e2m1) + 1);

const DTypeFacts& facts(DType t) { return dtype_facts[static_cast<std::size_t>(t)]; }

}  // namespace

std::string_view name_of(DType t) { return facts(t).name; }
int bit_width(DType t) { return facts(t).bits; }

std::size_t byte_size(DType t, std::int64_t count) {
  const auto bits = static_cast<std::uint64_t>(bit_width(t));
  if (bits % 8 == 0) return static_cast<std::size_t>(count) * (bits / 8);
  return static_cast<std::size_t>((static_cast<std::uint64_t>(count) * bits + 7) / 8);
}

bool is_float(DType t) { return t <= DType::f64; }
bool is_integer(DType t) { return t >= DType::i8 && t <= DType::u64; }

std::int64_t element_count(const Shape& shape) {
  std::int64_t n = 1;
  bool zero = false;
  for (const std::int64_t d : shape) {
    if (d < 0)
      throw Error(Code::input, "the shape " + to_string(shape) + " has an unknown extent where data is needed");
    zero = zero || d == 0;
  }
  if (zero) return 0;
  for (const std::int64_t d : shape) {
    if (n > (std::int64_t{1} << 58) / d) throw Error(Code::input, "the shape " + to_string(shape) + " is too large");
    n *= d;
  }
  return n;
}

std::string to_string(const Shape& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) out += ", ";
    out += shape[i] < 0 ? "?" : std::to_string(shape[i]);
  }
  return out + "]";
}

std::shared_ptr<Buffer> Buffer::allocate(std::size_t size, bool zeroed) {
  auto buffer = std::make_shared<Buffer>();
  const std::shared_ptr<std::byte> block = memory_block(size, zeroed);
  buffer->data_ = block.get();
  buffer->owner_ = block;
  buffer->size_ = size;
  buffer->writable_ = true;
  return buffer;
}

std::shared_ptr<Buffer> Buffer::made(std::size_t size, Making making) {
  QTOOL_ENSURE(making.part > 0 && making.make, "bytes that are made have a maker");
  auto buffer = std::make_shared<Buffer>();
  buffer->size_ = size;
  buffer->making_ = std::move(making);
  return buffer;
}

void Buffer::for_each_piece(const std::function<void(std::span<const std::byte>)>& f) const {
  constexpr std::size_t typical = std::size_t{1} << 18;  // stays in the cache
  if (!making_.make && file_ == nullptr) {
    if (size_ > 0) f({data_, size_});
    return;
  }
  const std::size_t grain = std::lcm(part(), sizeof(std::uint64_t));
  std::vector<std::byte> some(std::min(size_, (typical + grain - 1) / grain * grain));
  for (std::size_t at = 0; at < size_; at += some.size()) {
    const auto piece = std::span(some).first(std::min(some.size(), size_ - at));
    read(at, piece);
    f(piece);
  }
}

std::size_t Buffer::place_in_file() const { return static_cast<std::size_t>(data_ - file_->bytes().data()); }

void Buffer::read(std::size_t from, std::span<std::byte> to) const {
  if (to.empty()) return;
  if (making_.make) {
    QTOOL_ENSURE(from % making_.part == 0 && (to.size() % making_.part == 0 || from + to.size() == size_),
                 "bytes are made in whole parts");
    making_.make(from, to);
  } else if (file_ != nullptr) {
    file_->read(place_in_file() + from, to);
  } else {
    std::memcpy(to.data(), data_ + from, to.size());
  }
}

Digest Buffer::digest() const {
  const std::lock_guard lock(mutex_);
  if (digest_) return *digest_;
  Hasher hasher;
  for_each_piece([&](std::span<const std::byte> piece) { hasher.bytes(piece); });
  digest_ = hasher.finish();
  return *digest_;
}

std::shared_ptr<Buffer> Buffer::view(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  auto buffer = std::make_shared<Buffer>();
  buffer->data_ = bytes.data();
  buffer->size_ = bytes.size();
  buffer->owner_ = std::move(owner);
  return buffer;
}

std::shared_ptr<Buffer> Buffer::view(std::span<const std::byte> part, const MappedFile& file) {
  auto owner = std::make_shared<const MappedFile>(file);
  const MappedFile* const kept = owner.get();
  auto buffer = view(part, std::move(owner));
  buffer->file_ = kept;
  return buffer;
}

std::shared_ptr<Buffer> Buffer::aligned(const std::shared_ptr<Buffer>& buffer, std::size_t align) {
  if (buffer->is_aligned(align)) return buffer;
  const std::lock_guard lock(buffer->mutex_);
  if (buffer->kept_) return buffer->kept_;
  auto shared = buffer->borrowed_.lock();
  if (!shared) buffer->borrowed_ = shared = buffer->copy(Lasting::no);
  return shared;
}

std::shared_ptr<Buffer> Buffer::kept_copy() const {
  const std::lock_guard lock(mutex_);
  if (!kept_) kept_ = copy(Lasting::yes);
  return kept_;
}

std::shared_ptr<Buffer> Buffer::copy(Lasting lasting) const {
  std::shared_ptr<std::byte> block = memory_block(size_, false, lasting);
  read(0, {block.get(), size_});
  const std::span<const std::byte> bytes(block.get(), size_);
  return view(bytes, std::move(block));
}

Tensor::Tensor(DType dtype, Shape shape) : dtype_(dtype), shape_(std::move(shape)), count_(element_count(shape_)) {
  if (dtype_ == DType::string) {
    strings_ = std::make_shared<const std::vector<std::string>>(static_cast<std::size_t>(count_));
  } else {
    buffer_ = Buffer::allocate(byte_size(dtype_, count_));
  }
}

Tensor::Tensor(DType dtype, Shape shape, std::shared_ptr<Buffer> buffer)
    : dtype_(dtype), shape_(std::move(shape)), count_(element_count(shape_)), buffer_(std::move(buffer)) {
  QTOOL_ENSURE(buffer_ && buffer_->size() == byte_size(dtype_, count_), "buffer and shape agree");
}

Tensor Tensor::unset(DType dtype, Shape shape) {
  const std::size_t size = byte_size(dtype, element_count(shape));
  return Tensor(dtype, std::move(shape), Buffer::allocate(size, false));
}

Tensor Tensor::strings(Shape shape, std::vector<std::string> values) {
  Tensor t;
  t.dtype_ = DType::string;
  t.shape_ = std::move(shape);
  t.count_ = element_count(t.shape_);
  QTOOL_ENSURE(static_cast<std::size_t>(t.count_) == values.size(), "strings and shape agree");
  t.strings_ = std::make_shared<const std::vector<std::string>>(std::move(values));
  return t;
}

std::span<std::byte> Tensor::write_bytes() {
  QTOOL_ENSURE(buffer_ != nullptr, "only a tensor with data is written");
  if (!buffer_->writable() || buffer_.use_count() > 1) {
    auto own = Buffer::allocate(buffer_->size(), false);
    buffer_->read(0, {const_cast<std::byte*>(own->data_), own->size_});
    buffer_ = std::move(own);
  } else {
    buffer_->digest_.reset();  // nobody else holds these bytes, nor asks for their digest
  }
  return {const_cast<std::byte*>(buffer_->data_), buffer_->size_};
}

bool Tensor::align() {
  const auto width = static_cast<std::size_t>(std::max(8, bit_width(dtype_))) / 8;
  if (!buffer_ || buffer_->is_aligned(width)) return false;
  buffer_ = Buffer::aligned(buffer_, width);
  return true;
}

const std::vector<std::string>& Tensor::read_strings() const {
  QTOOL_ENSURE(strings_ != nullptr, "a string tensor is read as strings");
  return *strings_;
}

Tensor Tensor::reshaped(Shape shape) const {
  QTOOL_ENSURE(element_count(shape) == count_, "a reshape keeps the number of elements");
  Tensor t = *this;
  t.shape_ = std::move(shape);
  return t;
}

Tensor Tensor::viewed_as(DType dtype) const {
  QTOOL_ENSURE(bit_width(dtype) == bit_width(dtype_) && dtype_ != DType::string, "a view keeps the width");
  Tensor t = *this;
  t.dtype_ = dtype;
  return t;
}

bool Tensor::same_bytes(const Tensor& other) const {
  if (dtype_ != other.dtype_ || shape_ != other.shape_ || empty() != other.empty()) return false;
  if (dtype_ == DType::string && strings_ && other.strings_) return *strings_ == *other.strings_;
  const auto a = bytes(), b = other.bytes();
  return a.size() == b.size() && (a.data() == b.data() || a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

void Tensor::check(DType asked) const {
  if (asked == dtype_) return;
  const bool sixteen = asked == DType::u16 && bit_width(dtype_) == 16;
  const bool small = asked == DType::u8 && bit_width(dtype_) <= 8 && dtype_ != DType::string;
  if (sixteen || small) return;
  throw Error(Code::internal,
              "a tensor of type " + std::string(name_of(dtype_)) + " was read as " + std::string(name_of(asked)));
}

}  // namespace qtool
