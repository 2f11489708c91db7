// SPDX-License-Identifier: Apache-2.0
// MatMulNBits of com.microsoft: a product with weights in blocks of codes. With accuracy_level 4 the runtime rounds
// activations to int8 per row and block and sums products of codes in int32; so do we, on the integer kernels.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "calib/linalg.h"
#include "calib/op.h"
#include "calib/ops/operand.h"
#include "calib/ops/packed_codes.h"
#include "formats/base/integer_product.h"
#include "formats/base/widest.h"

namespace qtool::op {
namespace {

/// MatMulNBits(A, B, scales, zero_points, g_idx, bias): A [..., K] times the transpose of the weight [N, K].
struct NBits {
  std::int64_t k, n, bits, block, blocks;  // blocks per row
  bool int8_activations;
};

NBits nbits_of(const OpContext& c) {
  NBits p{};
  p.k = c.attrs().get("K", std::int64_t{0});
  p.n = c.attrs().get("N", std::int64_t{0});
  p.bits = c.attrs().get("bits", std::int64_t{4});
  p.block = c.attrs().get("block_size", std::int64_t{0});
  require(p.k > 0 && p.n > 0 && p.k < std::int64_t{1} << 31 && p.n < std::int64_t{1} << 31,
          "MatMulNBits has no K or N");
  require(packs_into_bytes(p.bits), "MatMulNBits with " + std::to_string(p.bits) + " bits is not supported");
  require(p.block >= 16 && p.block <= 65536 && (p.block & (p.block - 1)) == 0,
          "MatMulNBits has the block size " + std::to_string(p.block));
  p.blocks = (p.k + p.block - 1) / p.block;
  // ONNX Runtime has no integer kernel for 2 bits in blocks of 16 or 256, for float zero points and for reordered
  // inputs, and computes in float there.
  const bool kernel =
      (p.bits != 2 || (p.block >= 32 && p.block <= 128)) && !c.has(4) && (!c.has(3) || c.in(3).dtype() == DType::u8);
  p.int8_activations = c.attrs().get("accuracy_level", std::int64_t{0}) == 4 && kernel;
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
    for (std::int64_t i = 0; i < p.n; ++i) {
      const std::byte* from = z.bytes().data() + i * row;
      for (std::int64_t q = 0; q < p.blocks; ++q) {
        to[at(i * p.blocks + q)] = static_cast<float>(code_at(from, q * p.bits, p.bits));
      }
    }
  } else {
    const Tensor as_float = compute_float(z, "the zero points");
    require(as_float.count() == p.n * p.blocks, "MatMulNBits does not have one zero point per block");
    std::copy(as_float.read<float>().begin(), as_float.read<float>().end(), to.begin());
  }
  return out;
}

/// Activations as int8 codes [m, k], each block of a row with its own scale [m, blocks].
struct Rounded {
  std::vector<std::int8_t> codes;
  std::vector<float> scales;
};

Rounded round_to_int8(Threads& threads, const NBits& p, const float* x, std::int64_t m) {
  Rounded out{std::vector<std::int8_t>(at(m * p.k)), std::vector<float>(at(m * p.blocks))};
  constexpr float round_bias = 12582912.0F;  // 1.5 * 2^23: rounds to nearest, ties to even
  threads.for_each(m, std::max<std::int64_t>(1, (1 << 15) / p.k), [&](std::int64_t begin, std::int64_t end) {
    with_widest_vectors([&]() QTOOL_INLINE {
      for (std::int64_t i = begin * p.blocks; i < end * p.blocks; ++i) {
        const std::int64_t first = i / p.blocks * p.k + i % p.blocks * p.block;
        const std::int64_t n = std::min(p.block, p.k - i % p.blocks * p.block);
        const float* from = x + first;
        std::int8_t* to = out.codes.data() + first;
        std::uint32_t bits = 0;  // of the largest magnitude: as integers, above all numbers lie infinity and NaN
        for (std::int64_t l = 0; l < n; ++l) bits = std::max(bits, std::bit_cast<std::uint32_t>(from[l]) & 0x7fffffffU);
        const float top = std::bit_cast<float>(bits);
        out.scales[at(i)] = std::isfinite(top) ? top / 127.0F : std::numeric_limits<float>::quiet_NaN();
        // Nothing finite may lie beyond the codes: what is no number, and what has no inverse, gets zeros.
        const float whole = 127.0F / top, inverse = std::isfinite(top) && std::isfinite(whole) ? whole : 0.0F;
        for (std::int64_t l = 0; l < n; ++l) {
          const float scaled = inverse == 0.0F ? 0.0F : from[l] * inverse;
          to[l] = static_cast<std::int8_t>(static_cast<std::int32_t>((scaled + round_bias) - round_bias));
        }
      }
    });
  });
  return out;
}

/// By the definition of BlockProduct: what the kernels are compared with.
void multiply_plainly(Threads& threads, const BlockProduct& p) {
  threads.for_each(p.n, 1, [&](std::int64_t j, std::int64_t) {
    std::vector<std::int32_t> w(at(p.k));
    for (std::int64_t l = 0; l < p.k; ++l) {
      const std::byte* block = p.b + (j * p.blocks() + l / p.block) * (p.block * p.bits / 8);
      w[at(l)] = static_cast<std::int32_t>(code_at(block, l % p.block * p.bits, p.bits));
    }
    for (std::int64_t i = 0; i < p.m; ++i) {
      float y = 0;
      for (std::int64_t q = 0; q < p.blocks(); ++q) {
        std::int32_t sum = 0, of_a = 0;
        for (std::int64_t l = q * p.block; l < std::min(p.k, (q + 1) * p.block); ++l) {
          sum += p.a[i * p.k + l] * w[at(l)];
          of_a += p.a[i * p.k + l];
        }
        const std::int64_t at_w = j * p.blocks() + q;
        y += (static_cast<float>(sum) - p.b_zeros[at_w] * static_cast<float>(of_a)) *
             (p.b_scales[at_w] * p.a_scales[i * p.blocks() + q]);
      }
      p.c[i * p.c_stride + j] = y;
    }
  });
}

void multiply_codes(const OpContext& c, const NBits& p, const BlockParameters& blocks, const Tensor& a, float* y) {
  BlockProduct product;
  product.m = a.count() / p.k;
  product.n = p.n;
  product.k = p.k;
  product.block = p.block;
  product.bits = p.bits;
  const Rounded rounded = round_to_int8(c.threads, p, a.read<float>().data(), product.m);
  product.a = rounded.codes.data();
  product.a_scales = rounded.scales.data();
  product.b = c.in(1).bytes().data();
  product.b_scales = blocks.scales.read<float>().data();
  product.b_zeros = blocks.zeros.read<float>().data();
  product.c = y;
  product.c_stride = p.n;
  if (c.threads.integers() != nullptr) return c.threads.integers()->multiply(c.threads, product);
  multiply_plainly(c.threads, product);
}

/// A few rows of the weight at a time are dequantized and multiplied.
void multiply_floats(const OpContext& c, const NBits& p, const BlockParameters& blocks, const Tensor& a, float* y) {
  std::vector<std::int64_t> group;
  if (c.has(4)) {
    group = to_int64s(c.in(4));
    require(static_cast<std::int64_t>(group.size()) >= p.k, "g_idx does not have one entry per input");
    for (const std::int64_t g : group) require(g >= 0 && g < p.blocks, "g_idx has the value " + std::to_string(g));
  }
  const std::int64_t blob = p.block * p.bits / 8;
  const std::byte* codes = c.in(1).bytes().data();
  const float *scale = blocks.scales.read<float>().data(), *zero = blocks.zeros.read<float>().data(),
              *x = a.read<float>().data();
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
    }
    gemm(c.threads, false, true, a.count() / p.k, end - begin, p.k, 1.0F, x, p.k, w.data(), p.k, 0.0F, y + begin, p.n);
  });
}

void matmul_nbits(const OpContext& c) {
  const NBits p = nbits_of(c);
  const Tensor a = compute_float(c.in(0), "operand A");
  require(a.dtype() == DType::f32 && a.rank() >= 1 && a.shape().back() == p.k,
          "operand A of shape " + to_string(a.shape()) + " does not end in K = " + std::to_string(p.k));
  require(c.in(1).dtype() == DType::u8 && c.in(1).count() == p.n * p.blocks * (p.block * p.bits / 8),
          "the weight of MatMulNBits has the shape " + to_string(c.in(1).shape()));
  const BlockParameters blocks = block_parameters(c, p);
  const Tensor bias = c.has(5) ? compute_float(c.in(5), "the bias") : Tensor();
  require(!bias || bias.count() == p.n, "the bias does not have one entry per output");
  Shape shape = a.shape();
  shape.back() = p.n;
  Tensor y = Tensor::unset(DType::f32, shape);
  const auto to = y.write<float>();
  (p.int8_activations ? multiply_codes : multiply_floats)(c, p, blocks, a, to.data());
  if (bias) {
    const auto b = bias.read<float>();
    for (std::size_t i = 0; i < to.size(); i += b.size()) {
      for (std::size_t j = 0; j < b.size(); ++j) to[i + j] += b[j];
    }
  }
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

void infer(InferContext& c) {
  Type t = c.in(0);
  t.symbols.clear();
  if (t.known_rank && !t.shape.empty()) t.shape.back() = c.attrs().get("N", std::int64_t{-1});
  c.out(0, t);
}

}  // namespace

constinit const OpDef ms_MatMulNBits{"MatMulNBits", "com.microsoft", 1, infer, matmul_nbits, nullptr};

}  // namespace qtool::op
