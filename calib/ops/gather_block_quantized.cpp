// SPDX-License-Identifier: Apache-2.0
// GatherBlockQuantized of com.microsoft: rows of a block-quantized table.
#include <algorithm>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/operand.h"
#include "calib/ops/packed_codes.h"

namespace qtool::op {
namespace {

constexpr std::string_view microsoft = "com.microsoft";

// ---- GatherBlockQuantized(data, indices, scales, zero_points)

/// Where code, scale and zero point of an element of the table are.
struct Table {
  Shape shape;  // in elements, not bytes
  std::int64_t bits = 4;
  bool is_signed = false;                                   // int4: codes are two's complement
  std::int64_t axis = 0, block = 0, blocks = 0, inner = 0;  // of the scales
  float default_zero = 0;
};

Table table_of(const OpContext& c) {
  Table t;
  const Tensor& data = c.in(0);
  t.shape = data.shape();
  require(!t.shape.empty(), "GatherBlockQuantized needs a table with axes");
  t.block = c.attrs().get("block_size", std::int64_t{128});
  require(t.block >= 16 && t.block <= 1 << 24, "GatherBlockQuantized has the block size " + std::to_string(t.block));
  if (data.dtype() == DType::u8) {
    t.bits = c.attrs().get("bits", std::int64_t{4});
    require(packs_into_bytes(t.bits), "GatherBlockQuantized with " + std::to_string(t.bits) + " bits is not supported");
    t.shape.back() *= 8 / t.bits;
    t.default_zero = static_cast<float>(1 << (t.bits - 1));
  } else {
    require(data.dtype() == DType::i4 || data.dtype() == DType::u4,
            "GatherBlockQuantized of type " + std::string(name_of(data.dtype())) + " is not supported");
    t.is_signed = data.dtype() == DType::i4;
  }
  const auto rank = static_cast<std::int64_t>(t.shape.size());
  t.axis = axis_in(c.attrs().get("quantize_axis", std::int64_t{1}), rank);
  t.blocks = (t.shape[at(t.axis)] + t.block - 1) / t.block;
  t.inner = extent(t.shape, t.axis + 1, rank);
  Shape wanted = t.shape;
  wanted[at(t.axis)] = t.blocks;
  require(c.in(2).shape() == wanted,
          "the scales of shape " + to_string(c.in(2).shape()) + " do not fit a table of shape " + to_string(t.shape));
  return t;
}

/// One zero point per scale.
std::vector<float> zero_points_of(const OpContext& c, const Table& t) {
  const std::int64_t n = c.in(2).count(), width = c.in(2).shape().back();
  std::vector<float> out(at(n), t.default_zero);
  if (!c.has(3)) return out;
  const Tensor& z = c.in(3);
  if (z.dtype() != DType::u8) {
    require(z.count() == n, "GatherBlockQuantized does not have one zero point per scale");
    const Tensor values = to_f32(z);
    std::copy(values.read<float>().begin(), values.read<float>().end(), out.begin());
    return out;
  }
  const std::int64_t row = (width * t.bits + 7) / 8;
  require(width == 0 || z.count() == n / width * row,
          "GatherBlockQuantized has zero points of shape " + to_string(z.shape()));
  for (std::int64_t i = 0; i < n; ++i) {
    out[at(i)] = static_cast<float>(code_at(z.bytes().data() + i / width * row, i % width * t.bits, t.bits));
  }
  return out;
}

void gather_block_quantized(const OpContext& c) {
  const Table t = table_of(c);
  const auto rank = static_cast<std::int64_t>(t.shape.size());
  const std::int64_t axis = axis_in(c.attrs().get("gather_axis", std::int64_t{0}), rank);
  const std::int64_t outer = extent(t.shape, 0, axis), n = t.shape[at(axis)], inner = extent(t.shape, axis + 1, rank);
  const std::vector<std::int64_t> indices = to_int64s(c.in(1));
  Shape shape(t.shape.begin(), t.shape.begin() + axis);
  shape.insert(shape.end(), c.in(1).shape().begin(), c.in(1).shape().end());
  shape.insert(shape.end(), t.shape.begin() + axis + 1, t.shape.end());
  Tensor y(DType::f32, shape);
  float* to = y.write<float>().data();
  const Tensor scales = to_f32(c.in(2));
  const float* scale = scales.read<float>().data();
  const std::vector<float> zeros = zero_points_of(c, t);
  const std::byte* codes = c.in(0).bytes().data();
  const auto count = static_cast<std::int64_t>(indices.size());
  for (const std::int64_t i : indices)
    require(i >= -n && i < n, "GatherBlockQuantized has the index " + std::to_string(i));
  c.threads.for_each(outer * count, std::max<std::int64_t>(1, 8192 / std::max<std::int64_t>(inner, 1)),
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t row = begin; row < end; ++row) {
                         const std::int64_t index = indices[at(row % count)],
                                            start = (row / count * n + (index < 0 ? index + n : index)) * inner;
                         for (std::int64_t i = 0; i < inner; ++i) {
                           const std::int64_t f = start + i, q = f / t.inner % t.shape[at(t.axis)];
                           const std::int64_t s =
                               (f / t.inner / t.shape[at(t.axis)] * t.blocks + q / t.block) * t.inner + f % t.inner;
                           auto code = static_cast<std::int32_t>(code_at(codes, f * t.bits, t.bits));
                           if (t.is_signed && code >= 8) code -= 16;
                           to[row * inner + i] = (static_cast<float>(code) - zeros[at(s)]) * scale[s];
                         }
                       }
                     });
  c.out(0, from_f32(y, c.in(2).dtype()));
}

void gather_block_quantized_infer(InferContext& c) {
  if (!c.in(2).known_dtype) return;
  const Type &data = c.in(0), &indices = c.in(1);
  if (!data.known_rank || !indices.known_rank || !data.known_dtype || data.shape.empty())
    return c.out(0, c.in(2).dtype);
  Shape table = data.shape;
  if (data.dtype == DType::u8 && table.back() > 0)
    table.back() *= 8 / std::clamp<std::int64_t>(c.attrs().get("bits", std::int64_t{4}), 1, 8);
  const std::int64_t axis =
      axis_in(c.attrs().get("gather_axis", std::int64_t{0}), static_cast<std::int64_t>(table.size()));
  Shape shape(table.begin(), table.begin() + axis);
  shape.insert(shape.end(), indices.shape.begin(), indices.shape.end());
  shape.insert(shape.end(), table.begin() + axis + 1, table.end());
  c.out(0, c.in(2).dtype, shape);
}

}  // namespace

constinit const OpDef ms_GatherBlockQuantized{"GatherBlockQuantized", microsoft, 1, gather_block_quantized_infer,
                                              gather_block_quantized, nullptr};

}  // namespace qtool::op
