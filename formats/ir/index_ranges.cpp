// SPDX-License-Identifier: Apache-2.0
// Parts of a tensor along an axis, cut out and put back.
#include <algorithm>

#include "formats/base/error.h"
#include "formats/ir/quant.h"

namespace qtool {
namespace {

/// Runs of consecutive bytes: `rows` of them, `stride` apart in the whole tensor, `bytes` long from `offset` on.
struct Rows {
  std::size_t rows = 1, stride = 0, bytes = 0, offset = 0;

  Rows(const Tensor& x, int axis, std::int64_t begin, std::int64_t end) {
    const Shape& shape = x.shape();
    const auto a = static_cast<std::size_t>(axis);
    QTOOL_ENSURE(axis >= 0 && a < shape.size() && begin >= 0 && begin <= end && end <= shape[a], "a part of a tensor");
    QTOOL_ENSURE(bit_width(x.dtype()) % 8 == 0, "parts are whole bytes");
    std::size_t inner = static_cast<std::size_t>(bit_width(x.dtype())) / 8;
    for (std::size_t i = 0; i < a; ++i) rows *= static_cast<std::size_t>(shape[i]);
    for (std::size_t i = a + 1; i < shape.size(); ++i) inner *= static_cast<std::size_t>(shape[i]);
    stride = inner * static_cast<std::size_t>(shape[a]);
    bytes = inner * static_cast<std::size_t>(end - begin);
    offset = inner * static_cast<std::size_t>(begin);
  }
};

std::ptrdiff_t at(std::size_t i) { return static_cast<std::ptrdiff_t>(i); }

}  // namespace

Tensor part_of(const Tensor& x, int axis, std::int64_t begin, std::int64_t end) {
  const Rows r(x, axis, begin, end);
  Shape shape = x.shape();
  shape[static_cast<std::size_t>(axis)] = end - begin;
  Tensor part = Tensor::unset(x.dtype(), shape);
  const auto from = x.bytes();
  const auto to = part.write_bytes();
  for (std::size_t i = 0; i < r.rows; ++i) {
    std::copy_n(from.begin() + at(r.offset + i * r.stride), r.bytes, to.begin() + at(i * r.bytes));
  }
  return part;
}

void put_part(Tensor& x, int axis, std::int64_t begin, const Tensor& part) {
  QTOOL_ENSURE(part.dtype() == x.dtype() && part.rank() == x.rank(), "a part is of the type of the whole");
  const Rows r(x, axis, begin, begin + part.shape()[static_cast<std::size_t>(axis)]);
  QTOOL_ENSURE(part.size_bytes() == r.rows * r.bytes, "a part fits where it goes");
  const auto from = part.bytes();
  const auto to = x.write_bytes();
  for (std::size_t i = 0; i < r.rows; ++i) {
    std::copy_n(from.begin() + at(i * r.bytes), r.bytes, to.begin() + at(r.offset + i * r.stride));
  }
}

Tensor outside_ranges(const Tensor& x, const QuantSpec& spec) {
  if (spec.ranges.empty()) return x;
  Tensor rest = x;
  for (const IndexRange& r : spec.ranges) {
    Shape shape = x.shape();
    shape[static_cast<std::size_t>(spec.range_axis)] = r.end - r.begin;
    put_part(rest, spec.range_axis, r.begin, Tensor(x.dtype(), shape));
  }
  return rest;
}

}  // namespace qtool
