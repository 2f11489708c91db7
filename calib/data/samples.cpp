// SPDX-License-Identifier: Apache-2.0
#include "calib/data/samples.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "formats/base/error.h"

namespace qtool {
namespace {

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

Type type_of(const Tensor& t, Shape shape) {
  Type type;
  type.dtype = t.dtype();
  type.known_dtype = type.known_rank = true;
  type.shape = std::move(shape);
  return type;
}

/// Lowest and highest value of an integer type; booleans are 0 and 1.
bool limits_of(DType t, std::int64_t& low, std::uint64_t& high) {
  if (t == DType::boolean) {
    low = 0;
    high = 1;
    return true;
  }
  if (!is_integer(t)) return false;
  const bool is_signed = t == DType::i8 || t == DType::i16 || t == DType::i32 || t == DType::i64;
  const int bits = bit_width(t);
  low = is_signed ? std::numeric_limits<std::int64_t>::min() >> (64 - bits) : 0;
  high = std::numeric_limits<std::uint64_t>::max() >> (64 - bits + (is_signed ? 1 : 0));
  return true;
}

template <class To>
void store(std::span<const std::int64_t> in, Tensor& t) {
  std::transform(in.begin(), in.end(), t.write<To>().begin(), [](std::int64_t v) { return static_cast<To>(v); });
}

Tensor integers_as(const Tensor& t, DType wanted, const std::string& name) {
  std::int64_t low = 0;
  std::uint64_t high = 0;
  limits_of(wanted, low, high);
  const std::vector<std::int64_t> values = to_int64s(t);
  for (const std::int64_t v : values) {
    if (v < low || (v > 0 && static_cast<std::uint64_t>(v) > high)) {
      throw Error(Code::calibration, "the data for \"" + name + "\" hold " + std::to_string(v) +
                                         ", which the input's type " + std::string(name_of(wanted)) + " cannot");
    }
  }
  Tensor out(wanted, t.shape());
  switch (wanted) {
    case DType::boolean:
      std::transform(values.begin(), values.end(), out.write_bytes().begin(),
                     [](std::int64_t v) { return static_cast<std::byte>(v); });
      break;
    case DType::i8: store<std::int8_t>(values, out); break;
    case DType::u8: store<std::uint8_t>(values, out); break;
    case DType::i16: store<std::int16_t>(values, out); break;
    case DType::u16: store<std::uint16_t>(values, out); break;
    case DType::i32: store<std::int32_t>(values, out); break;
    case DType::u32: store<std::uint32_t>(values, out); break;
    case DType::i64: store<std::int64_t>(values, out); break;
    case DType::u64: store<std::uint64_t>(values, out); break;
    default: break;
  }
  return out;
}

}  // namespace

Tensor as_input(const Tensor& t, DType wanted, const std::string& name) {
  const DType given = t.dtype();
  if (given == wanted) return t;
  std::int64_t low = 0;
  std::uint64_t high = 0;
  if (limits_of(given, low, high) && limits_of(wanted, low, high)) return integers_as(t, wanted, name);
  const bool to_half = wanted == DType::f16 || wanted == DType::bf16;
  const bool from_half = given == DType::f16 || given == DType::bf16;
  if (is_float(given) && wanted == DType::f32) {
    Tensor out = to_f32(t);
    if (given == DType::f64) {
      const auto exact = t.read<double>();
      const auto rounded = out.read<float>();
      for (std::size_t i = 0; i < exact.size(); ++i) {
        if (std::isfinite(exact[i]) && !std::isfinite(rounded[i])) {
          throw Error(Code::calibration, "the data for \"" + name + "\" hold numbers beyond float32");
        }
      }
    }
    return out;
  }
  if (is_float(given) && to_half) return from_f32(to_f32(t), wanted);
  if ((given == DType::f32 || from_half) && wanted == DType::f64) return from_f32(to_f32(t), wanted);
  std::string hint = "store the array as " + std::string(name_of(wanted));
  if (is_float(wanted)) hint += ", preprocessed as in training: an array of bytes is seldom what a float input wants";
  throw Error(Code::calibration,
              "the data for \"" + name + "\" are " + std::string(name_of(given)) + ", the model's input is " +
                  std::string(name_of(wanted)),
              hint);
}

namespace {

Digest digest_of(const Tensor& t) {
  Hasher hasher;
  hasher.number(t.rank());
  for (const std::int64_t d : t.shape()) hasher.number(d);
  return hasher.bytes(t.bytes()).finish();
}

}  // namespace

std::vector<Digest> Samples::digests(std::int64_t begin, std::int64_t end, Threads& threads) const {
  std::vector<Digest> digests(index(end - begin));
  threads.for_each(end - begin, 1, [&](std::int64_t i, std::int64_t) {
    Hasher hasher;
    for (const std::string& name : names()) {
      hasher.text(name).number(type(name).dtype).digest(digest_of(sample(name, begin + i)));
    }
    digests[index(i)] = hasher.finish();
  });
  return digests;
}

ArraySamples::ArraySamples(std::vector<Array> arrays, Tensor labels, std::int64_t sequence, const std::string& source)
    : arrays_(std::move(arrays)), labels_(std::move(labels)), sequence_(sequence) {
  const Array* first = nullptr;
  for (const Array& a : arrays_) {
    if (a.fixed) continue;
    const std::int64_t n = a.data.shape().front();
    if (first == nullptr) {
      first = &a;
      count_ = n;
    } else if (n != count_) {
      throw Error(Code::calibration,
                  source + ": \"" + first->name + "\" has " + std::to_string(count_) + " samples, \"" + a.name +
                      "\" has " + std::to_string(n),
                  "the first axis of every array counts samples");
    }
  }
  if (first == nullptr && !arrays_.empty()) count_ = 1;
  if (!labels_.empty() && (labels_.rank() < 1 || labels_.shape().front() != count_)) {
    throw Error(Code::calibration, source + ": the labels have the shape " + to_string(labels_.shape()) + " for " +
                                       std::to_string(count_) + " samples");
  }
}

const ArraySamples::Array& ArraySamples::find(const std::string& name) const {
  const auto it = std::find_if(arrays_.begin(), arrays_.end(), [&](const Array& a) { return a.name == name; });
  QTOOL_ENSURE(it != arrays_.end(), "only known arrays are asked for");
  return *it;
}

std::vector<std::string> ArraySamples::names() const {
  std::vector<std::string> out;
  for (const Array& a : arrays_) out.push_back(a.name);
  return out;
}

Type ArraySamples::type(const std::string& name) const {
  const Array& a = find(name);
  return type_of(a.data, Shape(a.data.shape().begin() + (a.fixed ? 0 : 1), a.data.shape().end()));
}

namespace {

/// Entry i along the first axis, seen in place.
Tensor entry(const Tensor& t, std::int64_t i) {
  const Shape shape(t.shape().begin() + 1, t.shape().end());
  const std::size_t size = byte_size(t.dtype(), element_count(shape));
  auto owner = std::make_shared<const Tensor>(t);
  const auto bytes = owner->bytes().subspan(index(i) * size, size);
  return Tensor(t.dtype(), shape, Buffer::view(bytes, std::move(owner)));
}

}  // namespace

Tensor ArraySamples::sample(const std::string& name, std::int64_t i) const {
  const Array& a = find(name);
  return a.fixed ? a.data : entry(a.data, i);
}

Tensor ArraySamples::label(std::int64_t i) const { return labels_.empty() ? Tensor{} : entry(labels_, i); }

std::vector<std::string> ListSamples::names() const {
  std::vector<std::string> out;
  if (!rows_.empty()) {
    for (const auto& [name, data] : rows_.front()) out.push_back(name);
  }
  return out;
}

Type ListSamples::type(const std::string& name) const {
  const Tensor& first = rows_.front().at(name);
  Type type = type_of(first, first.shape());
  for (const Row& row : rows_) {
    const Shape& s = row.at(name).shape();
    if (s.size() != type.shape.size()) {
      throw Error(Code::calibration, "the samples of \"" + name + "\" differ in rank");
    }
    for (std::size_t a = 0; a < s.size(); ++a) {
      if (s[a] != type.shape[a]) type.shape[a] = -1;
    }
  }
  return type;
}

Tensor ListSamples::sample(const std::string& name, std::int64_t i) const { return rows_[index(i)].at(name); }

}  // namespace qtool
