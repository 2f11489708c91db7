// SPDX-License-Identifier: Apache-2.0
// Sparse initializers: dense while the graph lives, since operators know dense data only; written back sparse as
// long as no element outside the stored indices was touched.
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <cstring>

#include "formats/base/error.h"
#include "formats/file/onnx_internal.h"

namespace qtool::onnx_file {
namespace {

// A sparse tensor may grow this much, so that a few bytes of a hostile file cannot claim the machine's memory.
constexpr std::uint64_t free_dense_bytes = std::uint64_t{16} << 20;
constexpr std::uint64_t growth_limit = 128;

[[noreturn]] void refuse(const std::string& where, const std::string& why) {
  throw Error(Code::input, where + " " + why);
}

/// The flat positions of the stored elements. Requires: indices of the right shape.
std::vector<std::int64_t> positions(const Tensor& indices, const Shape& dims) {
  const auto raw = indices.read<std::int64_t>();
  if (indices.rank() == 1) return {raw.begin(), raw.end()};
  std::vector<std::int64_t> flat;
  for (std::size_t i = 0; i < raw.size(); i += dims.size()) {
    std::int64_t at = 0;
    for (std::size_t axis = 0; axis < dims.size(); ++axis) {
      const std::int64_t index = raw[i + axis];
      if (index < 0 || index >= dims[axis]) return {-1};
      at = at * dims[axis] + index;
    }
    flat.push_back(at);
  }
  return flat;
}

std::string rest_of(const onnx::TensorProto& p) { return p.SerializeAsString(); }

}  // namespace

Tensor take_sparse(onnx::SparseTensorProto& p, ExternalFiles& files, const std::string& where, SparseForm& form) {
  const Shape dims(p.dims().begin(), p.dims().end());
  const std::uint64_t stored = p.values().ByteSizeLong() + p.indices().ByteSizeLong();
  const Tensor values = take_tensor(*p.mutable_values(), files, where + ": values", form.values_form);
  form.indices = take_tensor(*p.mutable_indices(), files, where + ": indices", form.indices_form);
  p.mutable_values()->clear_name();
  form.values_form.rest = rest_of(p.values());
  form.indices_form.rest = rest_of(p.indices());
  if (values.rank() != 1 || values.dtype() == DType::string || bit_width(values.dtype()) < 8) {
    refuse(where, "has values that are not a list of numbers of whole bytes");
  }
  const std::int64_t n = values.count();
  const auto rank = static_cast<std::int64_t>(dims.size());
  if (form.indices.dtype() != DType::i64 ||
      (form.indices.shape() != Shape{n} && form.indices.shape() != Shape{n, rank})) {
    refuse(where, "has indices that do not fit its " + std::to_string(n) + " values");
  }
  std::int64_t count = 1;
  for (const std::int64_t d : dims) {
    if (d <= 0 || count > (std::int64_t{1} << 48) / d)
      refuse(where, "has the shape " + to_string(dims) + ", which cannot be");
    count *= d;
  }
  const std::uint64_t size = byte_size(values.dtype(), count);
  if (size > std::max(free_dense_bytes, growth_limit * stored)) {
    refuse(where, "stores " + std::to_string(stored) + " bytes for a dense size of " + std::to_string(size) +
                      ", more than " + std::to_string(growth_limit) + " times as much");
  }
  Tensor dense(values.dtype(), dims);
  const std::span<std::byte> to = dense.write_bytes();
  const std::size_t width = static_cast<std::size_t>(bit_width(values.dtype())) / 8;
  std::int64_t last = -1;
  std::size_t i = 0;
  for (const std::int64_t at : positions(form.indices, dims)) {
    if (at <= last || at >= count) refuse(where, "has indices that do not rise within its shape");
    std::memcpy(to.data() + static_cast<std::size_t>(at) * width, values.bytes().data() + i++ * width, width);
    last = at;
  }
  p.clear_values();
  p.clear_indices();
  p.clear_dims();
  form.rest = p.SerializeAsString();
  return dense;
}

bool put_sparse(const Tensor& dense, const SparseForm& form, const std::string& name, onnx::SparseTensorProto& p) {
  const std::int64_t n = form.indices.shape().front();
  const auto rank = dense.rank();
  if (dense.dtype() == DType::string || bit_width(dense.dtype()) < 8) return false;
  if (form.indices.shape() != Shape{n} && form.indices.shape() != Shape{n, rank}) return false;
  const std::size_t width = static_cast<std::size_t>(bit_width(dense.dtype())) / 8;
  const auto flat = positions(form.indices, dense.shape());
  const auto bytes = dense.bytes();
  Tensor values(dense.dtype(), {n});
  const auto to = values.write_bytes();
  std::size_t next = 0;  // first byte not yet seen
  std::size_t i = 0;
  const auto all_zero = [&](std::size_t from, std::size_t end) {
    return std::all_of(bytes.begin() + static_cast<std::ptrdiff_t>(from),
                       bytes.begin() + static_cast<std::ptrdiff_t>(end), [](std::byte b) { return b == std::byte{0}; });
  };
  for (const std::int64_t position : flat) {
    if (position < 0 || position >= dense.count()) return false;
    const std::size_t at = static_cast<std::size_t>(position) * width;
    if (!all_zero(next, at)) return false;
    std::memcpy(to.data() + i++ * width, bytes.data() + at, width);
    next = at + width;
  }
  if (!all_zero(next, bytes.size())) return false;
  p.ParseFromString(form.rest);
  put_tensor(values, &form.values_form, {}, *p.mutable_values());
  p.mutable_values()->set_name(name);
  put_tensor(form.indices, &form.indices_form, {}, *p.mutable_indices());
  for (const std::int64_t d : dense.shape()) p.add_dims(d);
  return true;
}

}  // namespace qtool::onnx_file
