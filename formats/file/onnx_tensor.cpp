// SPDX-License-Identifier: Apache-2.0
// TensorProto to Tensor and back. Elements lie in raw_data, in a typed field, or in another file; the form is
// remembered, so that an untouched constant is written as it was read.
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "formats/base/error.h"
#include "formats/file/onnx_internal.h"
#include "formats/ir/absent.h"

namespace qtool::onnx_file {
namespace {

using onnx::TensorProto;

[[noreturn]] void refuse(const std::string& where, const std::string& why) {
  throw Error(Code::input, where + " " + why,
              "the file is damaged or was written by a broken exporter; export it again");
}

std::string described(DType dtype, const Shape& shape) {
  return to_string(shape) + " of " + std::string(name_of(dtype));
}

/// Which typed field holds a type (comments of TensorProto in onnx.proto).
enum class Field : std::uint8_t { floats, int32s, int64s, doubles, uint64s, strings };

Field field_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::c64: return Field::floats;
    case DType::f64:
    case DType::c128: return Field::doubles;
    case DType::i64: return Field::int64s;
    case DType::u32:
    case DType::u64: return Field::uint64s;
    case DType::string: return Field::strings;
    default: return Field::int32s;
  }
}

std::int64_t typed_entries(const TensorProto& p) {
  return std::int64_t{p.float_data_size()} + p.int32_data_size() + p.int64_data_size() + p.double_data_size() +
         p.uint64_data_size() + p.string_data_size();
}

int entries_of(const TensorProto& p, Field field) {
  switch (field) {
    case Field::floats: return p.float_data_size();
    case Field::int32s: return p.int32_data_size();
    case Field::int64s: return p.int64_data_size();
    case Field::doubles: return p.double_data_size();
    case Field::uint64s: return p.uint64_data_size();
    case Field::strings: return p.string_data_size();
  }
  return 0;
}

void clear_elements(TensorProto& p) {
  p.clear_float_data();
  p.clear_int32_data();
  p.clear_int64_data();
  p.clear_double_data();
  p.clear_uint64_data();
  p.clear_string_data();
  p.clear_raw_data();
}

bool is_six_bits(DType dtype) { return bit_width(dtype) == 6; }

/// Entries of the typed field that `count` elements take: 4- and 2-bit elements share one entry per byte, 6-bit
/// ones have an entry each.
std::uint64_t entries_needed(DType dtype, std::int64_t count) {
  if (dtype == DType::c64 || dtype == DType::c128) return 2 * static_cast<std::uint64_t>(count);
  if (bit_width(dtype) < 8 && dtype != DType::string && !is_six_bits(dtype)) return byte_size(dtype, count);
  return static_cast<std::uint64_t>(count);
}

/// The values that an int32_data entry may have.
std::pair<std::int32_t, std::int32_t> entry_range(DType dtype) {
  switch (dtype) {
    case DType::i32: return {std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max()};
    case DType::i16: return {-0x8000, 0x7fff};
    case DType::i8: return {-0x80, 0x7f};
    case DType::boolean: return {0, 1};
    case DType::u16:
    case DType::f16:
    case DType::bf16: return {0, 0xffff};
    case DType::f6e2m3:
    case DType::f6e3m2: return {0, 0x3f};
    default: return {0, 0xff};
  }
}

template <class T, class Entries>
void copy_out(const Entries& entries, std::byte* to) {
  for (int i = 0; i < entries.size(); ++i) {
    const T value = static_cast<T>(entries.Get(i));
    std::memcpy(to + static_cast<std::size_t>(i) * sizeof(T), &value, sizeof(T));
  }
}

/// 6-bit codes as a bit stream, least significant bits first.
void put_six_bits(std::span<std::byte> to, std::int64_t i, std::uint32_t code) {
  const std::int64_t bit = 6 * i;
  for (int b = 0; b < 6; ++b) {
    if ((code >> b & 1U) != 0) to[static_cast<std::size_t>((bit + b) / 8)] |= std::byte{1} << ((bit + b) % 8);
  }
}

std::uint32_t get_six_bits(std::span<const std::byte> from, std::int64_t i) {
  std::uint32_t code = 0;
  for (int b = 0; b < 6; ++b) {
    const std::int64_t bit = 6 * i + b;
    code |= (std::to_integer<std::uint32_t>(from[static_cast<std::size_t>(bit / 8)]) >> (bit % 8) & 1U) << b;
  }
  return code;
}

void copy_int32s(const TensorProto& p, DType dtype, std::span<std::byte> to, const std::string& where) {
  const auto [low, high] = entry_range(dtype);
  for (const std::int32_t v : p.int32_data()) {
    if (v < low || v > high) {
      refuse(where, "holds " + std::to_string(v) + ", which is no " + std::string(name_of(dtype)));
    }
  }
  if (is_six_bits(dtype)) {
    for (int i = 0; i < p.int32_data_size(); ++i) put_six_bits(to, i, static_cast<std::uint32_t>(p.int32_data(i)));
  } else if (bit_width(dtype) == 32) {
    copy_out<std::int32_t>(p.int32_data(), to.data());
  } else if (bit_width(dtype) == 16) {
    copy_out<std::uint16_t>(p.int32_data(), to.data());
  } else {
    copy_out<std::uint8_t>(p.int32_data(), to.data());
  }
}

Tensor take_typed(TensorProto& p, DType dtype, Shape shape, const std::string& where) {
  if (dtype == DType::string) {
    std::vector<std::string> texts(static_cast<std::size_t>(p.string_data_size()));
    for (std::size_t i = 0; i < texts.size(); ++i) texts[i] = std::move(*p.mutable_string_data(static_cast<int>(i)));
    return Tensor::strings(std::move(shape), std::move(texts));
  }
  Tensor tensor(dtype, std::move(shape));
  const std::span<std::byte> to = tensor.write_bytes();
  switch (field_of(dtype)) {
    case Field::floats: copy_out<float>(p.float_data(), to.data()); break;
    case Field::doubles: copy_out<double>(p.double_data(), to.data()); break;
    case Field::int64s: copy_out<std::int64_t>(p.int64_data(), to.data()); break;
    case Field::uint64s:
      if (dtype == DType::u64) {
        copy_out<std::uint64_t>(p.uint64_data(), to.data());
      } else {
        for (const std::uint64_t v : p.uint64_data()) {
          if (v > 0xffffffffU) refuse(where, "holds " + std::to_string(v) + ", which is no u32");
        }
        copy_out<std::uint32_t>(p.uint64_data(), to.data());
      }
      break;
    default: copy_int32s(p, dtype, to, where);
  }
  return tensor;
}

void check_bools(std::span<const std::byte> bytes, const std::string& where) {
  for (const std::byte b : bytes) {
    if (b > std::byte{1}) refuse(where, "holds a byte that is neither true nor false");
  }
}

Shape read_dims(const TensorProto& p, const std::string& where) {
  Shape shape(p.dims().begin(), p.dims().end());
  for (const std::int64_t d : shape) {
    if (d < 0) refuse(where, "has the negative extent " + std::to_string(d));
  }
  return shape;
}

/// Elements whose bytes an std::size_t can count; the file must hold them all, so no limit of ours is needed.
std::int64_t checked_count(const Shape& shape, const std::string& where) {
  std::int64_t n = 1;
  bool zero = false;
  for (const std::int64_t d : shape) zero = zero || d == 0;
  if (zero) return 0;
  for (const std::int64_t d : shape) {
    if (n > (std::int64_t{1} << 56) / d) refuse(where, "has the shape " + to_string(shape) + ", too large to exist");
    n *= d;
  }
  return n;
}

void put_typed(const Tensor& tensor, TensorProto& p) {
  const std::byte* from = tensor.bytes().data();
  const std::size_t size = tensor.size_bytes();
  const auto each = [&](auto zero, auto* out) {
    using T = decltype(zero);
    out->Reserve(static_cast<int>(size / sizeof(T)));
    for (std::size_t i = 0; i < size / sizeof(T); ++i) {
      T value;
      std::memcpy(&value, from + i * sizeof(T), sizeof(T));
      out->Add(value);
    }
  };
  const DType dtype = tensor.dtype();
  switch (field_of(dtype)) {
    case Field::floats: each(float{}, p.mutable_float_data()); return;
    case Field::doubles: each(double{}, p.mutable_double_data()); return;
    case Field::int64s: each(std::int64_t{}, p.mutable_int64_data()); return;
    case Field::uint64s:
      if (dtype == DType::u64) {
        each(std::uint64_t{}, p.mutable_uint64_data());
      } else {
        each(std::uint32_t{}, p.mutable_uint64_data());
      }
      return;
    case Field::strings: return;
    case Field::int32s: break;
  }
  auto* out = p.mutable_int32_data();
  if (is_six_bits(dtype)) {
    for (std::int64_t i = 0; i < tensor.count(); ++i) {
      out->Add(static_cast<std::int32_t>(get_six_bits(tensor.bytes(), i)));
    }
    return;
  }
  switch (dtype) {
    case DType::i32: each(std::int32_t{}, out); break;
    case DType::i16: each(std::int16_t{}, out); break;
    case DType::i8: each(std::int8_t{}, out); break;
    case DType::u16:
    case DType::f16:
    case DType::bf16: each(std::uint16_t{}, out); break;
    default: each(std::uint8_t{}, out);
  }
}

}  // namespace

Tensor take_tensor(TensorProto& p, ExternalFiles& files, const std::string& where, TensorForm& form) {
  const auto dtype = dtype_of_onnx(p.data_type());
  if (!dtype) refuse(where, "has the element type " + std::to_string(p.data_type()) + ", which does not exist");
  Shape shape = read_dims(p, where);
  const std::int64_t count = checked_count(shape, where);
  const std::size_t size = byte_size(*dtype, count);
  const bool external = p.data_location() == TensorProto::EXTERNAL;
  const std::int64_t typed = typed_entries(p);
  const auto in_file = files.left_in_file(p);
  if ((typed > 0 ? 1 : 0) + (p.has_raw_data() && !p.raw_data().empty() ? 1 : 0) + (external ? 1 : 0) +
          (in_file ? 1 : 0) >
      1) {
    refuse(where, "stores its elements twice");
  }
  Tensor tensor;
  if (in_file) {
    tensor = Tensor(*dtype, std::move(shape), in_file);
    form.storage = Storage::raw;
  } else if (external) {
    if (*dtype == DType::string) refuse(where, "has strings as external data");
    const bool left_out = files.leaves_out(*dtype, shape);
    auto bytes = files.find(p, size, where);
    tensor = left_out ? absent(*dtype, shape) : Tensor(*dtype, std::move(shape), std::move(bytes));
    form.storage = Storage::raw;
    p.clear_external_data();
    p.clear_data_location();
  } else if (typed == 0 && !p.has_raw_data() && count > 0 && files.leaves_out(*dtype, shape)) {
    tensor = absent(*dtype, shape);
    form.storage = Storage::raw;
  } else if (p.has_raw_data() && typed == 0) {
    if (*dtype == DType::string) refuse(where, "has strings as raw bytes");
    if (p.raw_data().size() != size) {
      refuse(where, "holds " + std::to_string(p.raw_data().size()) + " bytes, " + described(*dtype, shape) + " takes " +
                        std::to_string(size));
    }
    auto bytes = std::shared_ptr<std::string>(p.release_raw_data());
    tensor = Tensor(*dtype, std::move(shape),
                    Buffer::view({reinterpret_cast<const std::byte*>(bytes->data()), bytes->size()}, bytes));
    form.storage = Storage::raw;
  } else {
    const std::uint64_t needed = entries_needed(*dtype, count);
    const int entries = entries_of(p, field_of(*dtype));
    if (typed != entries)
      refuse(where, "stores its elements in a field that is not for " + std::string(name_of(*dtype)));
    if (static_cast<std::uint64_t>(entries) != needed) {
      refuse(where, "holds " + std::to_string(entries) + " elements, " + described(*dtype, shape) + " takes " +
                        std::to_string(needed));
    }
    form.storage = typed > 0 ? Storage::typed : Storage::none;
    tensor = take_typed(p, *dtype, std::move(shape), where);
    // A length prefix without elements beside an empty raw_data is written as the latter.
    if (p.has_raw_data()) form.storage = Storage::raw;
  }
  if (*dtype == DType::boolean && !is_absent(tensor)) check_bools(tensor.bytes(), where);
  clear_elements(p);
  p.clear_dims();
  p.clear_data_type();
  return tensor;
}

void put_tensor(const Tensor& tensor, const TensorForm* form, const Elsewhere& elsewhere, TensorProto& p) {
  if (form != nullptr && !form->rest.empty()) p.ParseFromString(form->rest);
  for (const std::int64_t d : tensor.shape()) p.add_dims(d);
  p.set_data_type(onnx_of_dtype(tensor.dtype()));
  if (tensor.dtype() == DType::string) {
    for (const std::string& text : tensor.read_strings()) p.add_string_data(text);
    return;
  }
  const Storage storage = form == nullptr ? Storage::raw : form->storage;
  if (elsewhere && elsewhere(tensor, storage, p)) return;
  if (storage == Storage::typed) {
    put_typed(tensor, p);
  } else if (storage == Storage::raw || tensor.size_bytes() > 0) {
    p.set_raw_data(reinterpret_cast<const char*>(tensor.bytes().data()), tensor.size_bytes());
  }
}

}  // namespace qtool::onnx_file
