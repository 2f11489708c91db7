// SPDX-License-Identifier: Apache-2.0
#include "calib/known_outputs.h"

#include <cstring>
#include <utility>

#include "formats/base/error.h"

namespace qtool {
namespace {

constexpr std::int64_t most_bytes = std::int64_t{64} << 20;
constexpr std::size_t most_axes = 64;

void write_tensor(ByteWriter& out, const Tensor& t) {
  out.number(t.dtype()).numbers<std::int64_t>(t.shape()).numbers<std::byte>(t.bytes());
}

Tensor read_tensor(ByteReader& in) {
  const auto dtype = in.choice(DType::f4e2m1);
  const std::vector<std::int64_t> extents = in.numbers<std::int64_t>();
  const std::span<const std::byte> bytes = in.bytes(in.size());
  if (dtype == DType::string || extents.size() > most_axes) ByteReader::fail();
  std::int64_t count = 1;
  for (const std::int64_t n : extents) {
    if (n < 0 || n > most_bytes || count * n > 8 * most_bytes) ByteReader::fail();
    count *= n;
  }
  if (byte_size(dtype, count) != bytes.size()) ByteReader::fail();
  Tensor t = Tensor::unset(dtype, Shape(extents.begin(), extents.end()));
  if (!bytes.empty()) std::memcpy(t.write_bytes().data(), bytes.data(), bytes.size());
  return t;
}

}  // namespace

KnownOutputs::KnownOutputs(OutputsKept where, std::span<const ValueId> values, std::int64_t batches)
    : where_(std::move(where)), batches_(batches) {
  if (!where_.kept || !where_.kept->cache()) return;
  for (const ValueId v : values) written_[v];
  found_ = where_.kept->find(OutputsKept::kind, where_.key(), where_.about,
                             [&](ByteReader& in, const Store::Entry&) { read(in); });
  wanted_ = !found_;
}

void KnownOutputs::read(ByteReader& in) {
  values_.clear();
  if (in.number<std::int64_t>() != batches_) ByteReader::fail();
  for (const auto& [v, unused] : written_) {
    std::vector<Tensor>& all = values_[v];
    for (std::int64_t i = 0; i < batches_; ++i) all.push_back(read_tensor(in));
  }
}

const Tensor& KnownOutputs::of(ValueId v, std::int64_t batch) const {
  return values_.at(v)[static_cast<std::size_t>(batch)];
}

void KnownOutputs::add(ValueId v, const Tensor& value) {
  if (!wanted_ || size_ > most_bytes || value.dtype() == DType::string) return;
  Written& own = written_.at(v);
  const std::size_t before = own.bytes.written().size();
  write_tensor(own.bytes, value);
  ++own.batches;
  size_ += static_cast<std::int64_t>(own.bytes.written().size() - before);
}

void KnownOutputs::keep() const {
  if (!wanted_ || size_ > most_bytes) return;
  for (const auto& [v, own] : written_) {
    if (own.batches != batches_) return;
  }
  where_.kept->keep(OutputsKept::kind, where_.key(), where_.about, [&](ByteWriter& out, const Store&) {
    out.number(batches_);
    for (const auto& [v, own] : written_) out.bytes(own.bytes.written());
  });
}

}  // namespace qtool
