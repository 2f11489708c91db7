// SPDX-License-Identifier: Apache-2.0
// Operators with block-quantized weights and float activations: MatMulNBits and GatherBlockQuantized of com.microsoft.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "calib/linalg.h"
#include "calib/op.h"
#include "calib/ops/operand.h"

namespace qtool::op {
namespace {

constexpr std::string_view microsoft = "com.microsoft";

/// The code at bit `position` of a packed sequence, low bits first; bits divides 8.
std::uint32_t code_at(const std::byte* packed, std::int64_t position, std::int64_t bits) {
  return (static_cast<std::uint32_t>(packed[position / 8]) >> (position % 8)) & ((1U << bits) - 1U);
}

bool packs_into_bytes(std::int64_t bits) { return bits == 2 || bits == 4 || bits == 8; }

// ---- MatMulNBits(A, B, scales, zero_points, g_idx, bias): A [..., K] times the transpose of the weight [N, K]

struct NBits {
  std::int64_t k, n, bits, block, blocks;  // blocks per row
  bool int8_activations;                   // accuracy_level 4
};

NBits nbits_of(const Attrs& attrs) {
  NBits p{};
  p.k = attrs.get("K", std::int64_t{0});
  p.n = attrs.get("N", std::int64_t{0});
  p.bits = attrs.get("bits", std::int64_t{4});
  p.block = attrs.get("block_size", std::int64_t{0});
  require(p.k > 0 && p.n > 0 && p.k < std::int64_t{1} << 31 && p.n < std::int64_t{1} << 31,
          "MatMulNBits has no K or N");
  require(packs_into_bytes(p.bits), "MatMulNBits with " + std::to_string(p.bits) + " bits is not supported");
  require(p.block >= 16 && p.block <= 65536 && (p.block & (p.block - 1)) == 0,
          "MatMulNBits has the block size " + std::to_string(p.block));
  p.blocks = (p.k + p.block - 1) / p.block;
  // ONNX Runtime has no such kernel for 2 bits in blocks of 16 and computes in float there.
  p.int8_activations = attrs.get("accuracy_level", std::int64_t{0}) == 4 && (p.bits != 2 || p.block >= 32);
  return p;
}

/// Scales and zero points of all blocks [n, blocks], zero points as float.
struct BlockParameters {
  Tensor scales, zeros;
};

BlockParameters block_parameters(const OpContext& c, const NBits& p) {
  BlockParameters out{to_f32(c.in(2)), Tensor(DType::f32, {p.n * p.blocks})};
  require(out.scales.count() == p.n * p.blocks, "MatMulNBits does not have one scale per block");
  const auto to = out.zeros.write<float>();
  const Tensor& z = c.in(3);
  if (z.empty()) {
    std::fill(to.begin(), to.end(), static_cast<float>(1 << (p.bits - 1)));
  } else if (z.dtype() == DType::u8) {
    const std::int64_t row = (p.blocks * p.bits + 7) / 8;  // bytes; rows are padded to bytes
    require(z.count() == p.n * row, "MatMulNBits has " + std::to_string(z.count()) + " bytes of zero points");
    for (std::int64_t i = 0; i < p.n * p.blocks; ++i) {
      to[at(i)] = static_cast<float>(code_at(z.bytes().data() + i / p.blocks * row, i % p.blocks * p.bits, p.bits));
    }
  } else {
    const Tensor as_float = compute_float(z, "the zero points");
    require(as_float.count() == p.n * p.blocks, "MatMulNBits does not have one zero point per block");
    std::copy(as_float.read<float>().begin(), as_float.read<float>().end(), to.begin());
  }
  return out;
}

/// Rounds each block of a row to int8 codes of its own scale, as the runtime's kernels for accuracy level 4 do.
void round_to_int8(float* row, std::int64_t k, std::int64_t block) {
  for (std::int64_t begin = 0; begin < k; begin += block) {
    const std::int64_t end = std::min(begin + block, k);
    float top = 0;
    for (std::int64_t i = begin; i < end; ++i) top = std::max(top, std::abs(row[i]));
    if (top == 0) continue;
    const float scale = top / 127.0F, inverse = 127.0F / top;
    for (std::int64_t i = begin; i < end; ++i) row[i] = std::nearbyint(row[i] * inverse) * scale;
  }
}

void matmul_nbits(const OpContext& c) {
  const NBits p = nbits_of(c.attrs());
  Tensor a = compute_float(c.in(0), "operand A");
  require(a.dtype() == DType::f32 && a.rank() >= 1 && a.shape().back() == p.k,
          "operand A of shape " + to_string(a.shape()) + " does not end in K = " + std::to_string(p.k));
  const std::int64_t blob = p.block * p.bits / 8;
  require(c.in(1).dtype() == DType::u8 && c.in(1).count() == p.n * p.blocks * blob,
          "the weight of MatMulNBits has the shape " + to_string(c.in(1).shape()));
  const BlockParameters blocks = block_parameters(c, p);
  std::vector<std::int64_t> group;
  if (c.has(4)) {
    group = to_int64s(c.in(4));
    require(static_cast<std::int64_t>(group.size()) >= p.k, "g_idx does not have one entry per input");
    for (const std::int64_t g : group) require(g >= 0 && g < p.blocks, "g_idx has the value " + std::to_string(g));
  }
  const std::int64_t m = a.count() / p.k;
  if (p.int8_activations) {
    float* rows = a.write<float>().data();
    c.threads.for_each(m, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) round_to_int8(rows + r * p.k, p.k, p.block);
    });
  }
  Shape shape = a.shape();
  shape.back() = p.n;
  Tensor y(DType::f32, shape);
  float* to = y.write<float>().data();
  const Tensor bias = c.has(5) ? compute_float(c.in(5), "the bias") : Tensor();
  require(!bias || bias.count() == p.n, "the bias does not have one entry per output");
  const std::byte* codes = c.in(1).bytes().data();
  const float *scale = blocks.scales.read<float>().data(), *zero = blocks.zeros.read<float>().data(),
              *x = a.read<float>().data();
  // A few rows of the weight at a time are dequantized and multiplied.
  const std::int64_t rows = std::clamp<std::int64_t>((1 << 17) / p.k, 8, 256);
  c.threads.for_each(p.n, rows, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> w(at((end - begin) * p.k));
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t i = 0; i < p.k; ++i) {
        const std::int64_t b = r * p.blocks + (group.empty() ? i / p.block : group[at(i)]);
        const std::byte* from = codes + (r * p.blocks + i / p.block) * blob;
        w[at((r - begin) * p.k + i)] =
            (static_cast<float>(code_at(from, i % p.block * p.bits, p.bits)) - zero[b]) * scale[b];
      }
      if (bias) {
        for (std::int64_t i = 0; i < m; ++i) to[i * p.n + r] = bias.read<float>()[at(r)];
      }
    }
    gemm(c.threads, false, true, m, end - begin, p.k, 1.0F, x, p.k, w.data(), p.k, bias ? 1.0F : 0.0F, to + begin, p.n);
  });
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

void matmul_nbits_infer(InferContext& c) {
  Type t = c.in(0);
  t.symbols.clear();
  if (t.known_rank && !t.shape.empty()) t.shape.back() = c.attrs().get("N", std::int64_t{-1});
  c.out(0, t);
}

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
constinit const OpDef ms_MatMulNBits{"MatMulNBits", microsoft, 1, matmul_nbits_infer, matmul_nbits, nullptr};

}  // namespace qtool::op
