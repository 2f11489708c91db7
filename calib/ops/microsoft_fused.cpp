// SPDX-License-Identifier: Apache-2.0
// Operators of com.microsoft that are one of ai.onnx with another signature, or with an activation behind it.
#include <cmath>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/delegate.h"
#include "calib/ops/operand.h"
#include "calib/ops/rows.h"
#include "formats/number/number.h"

namespace qtool::op {
namespace {

constexpr std::string_view microsoft = "com.microsoft";

/// infer of another operator, as of `opset` of ai.onnx.
void infer_as(InferContext& c, const OpDef& def, std::int64_t opset) {
  InferContext inner{c.node, opset, c.inputs, c.constants, c.outputs, c.infer_body};
  def.infer(inner);
}

template <const OpDef& def, std::int64_t opset>
void same(const OpContext& c) {
  c.out(0, run_op(c, def, {c.inputs.begin(), c.inputs.end()}, c.attrs(), opset)[0]);
}
template <const OpDef& def, std::int64_t opset>
void same_infer(InferContext& c) {
  infer_as(c, def, opset);
}

// ---- ExpandDims(x, axis), Pad(data, pads, value), Range(start, limit, delta)

void expand_dims(const OpContext& c) {
  const std::int64_t axis = one_integer(c.in(1), "axis");
  c.out(0, run_op(c, op::Unsqueeze, {c.in(0), Tensor::of<std::int64_t>({1}, {axis})}, {}, 13)[0]);
}

void expand_dims_infer(InferContext& c) {
  if (!c.in(0).known_dtype) return;
  c.out(0, c.in(0).dtype);
  if (!c.constant(1) || !c.in(0).known_rank) return;
  Shape shape = c.in(0).shape;
  const std::int64_t axis = axis_in(one_integer(c.constant(1), "axis"), static_cast<std::int64_t>(shape.size()) + 1);
  shape.insert(shape.begin() + axis, 1);
  c.out(0, c.in(0).dtype, shape);
}

void pad(const OpContext& c) {
  const Tensor pads = c.in(1).reshaped({c.in(1).count()});  // may come as one row
  c.out(0, run_op(c, op::Pad, {c.in(0), pads, c.in(2)}, c.attrs(), 13)[0]);
}

void range(const OpContext& c) {
  Tensor delta = c.in(2);
  if (delta.empty()) delta = run_op(c, op::CastLike, {Tensor::scalar<std::int64_t>(1), c.in(0)}, {}, 15)[0];
  const auto scalar = [](const Tensor& t) { return t.count() == 1 ? t.reshaped({}) : t; };
  c.out(0, run_op(c, op::Range, {scalar(c.in(0)), scalar(c.in(1)), scalar(delta)}, {}, 11)[0]);
}

void range_infer(InferContext& c) {
  if (c.in(0).known_dtype) c.out(0, c.in(0).dtype, {-1});
}

// ---- FusedConv(x, w, bias, sum) and FusedGemm(a, b, c) with an activation

Tensor activated(const OpContext& c, const Tensor& x, const std::string& name, const std::vector<float>& p) {
  const auto parameter = [&](std::size_t i, float otherwise) { return i < p.size() ? p[i] : otherwise; };
  Attrs attrs;
  if (name.empty()) return x;
  if (name == "Relu") return run_op(c, op::Relu, {x}, {}, 14)[0];
  if (name == "Tanh") return run_op(c, op::Tanh, {x}, {}, 13)[0];
  if (name == "Sigmoid") return run_op(c, op::Sigmoid, {x}, {}, 13)[0];
  if (name == "LeakyRelu") {
    attrs.set("alpha", parameter(0, 0.01F));
    return run_op(c, op::LeakyRelu, {x}, std::move(attrs), 16)[0];
  }
  if (name == "HardSigmoid") {
    attrs.set("alpha", parameter(0, 0.2F));
    attrs.set("beta", parameter(1, 0.5F));
    return run_op(c, op::HardSigmoid, {x}, std::move(attrs), 6)[0];
  }
  if (name == "Clip") {
    require(p.size() == 2, "the activation Clip needs two parameters");
    return run_op(c, op::Clip, {x, Tensor::scalar(p[0]), Tensor::scalar(p[1])}, {}, 13)[0];
  }
  refuse("the activation \"" + name + "\" is not known");
}

void fused_conv(const OpContext& c) {
  Tensor y = run_op(c, op::Conv, {c.in(0), c.in(1), c.in(2)}, c.attrs(), 11)[0];
  if (c.has(3)) y = run_op(c, op::Add, {y, c.in(3)}, {}, 14)[0];
  c.out(0, activated(c, y, c.attrs().get("activation", ""), c.attrs().get("activation_params", std::vector<float>{})));
}

void fused_gemm(const OpContext& c) {
  const Tensor y = run_op(c, op::Gemm, {c.in(0), c.in(1), c.in(2)}, c.attrs(), 13)[0];
  std::vector<float> parameters;
  for (const char* name : {"activation_alpha", "activation_beta", "activation_gamma"}) {
    if (c.attrs().has(name)) parameters.push_back(c.attrs().get(name, 0.0F));
  }
  c.out(0, activated(c, y, c.attrs().get("activation", ""), parameters));
}

// ---- CDist(a [m, n], b [k, n]): distances of all pairs of rows

void cdist(const OpContext& c) {
  const Tensor a = compute_float(c.in(0), "operand A"), b = compute_float(c.in(1), "operand B");
  require(a.rank() == 2 && b.rank() == 2 && a.shape()[1] == b.shape()[1] && a.dtype() == b.dtype(),
          "CDist of the shapes " + to_string(a.shape()) + " and " + to_string(b.shape()) + " is not defined");
  const std::string metric = c.attrs().get("metric", "sqeuclidean");
  require(metric == "euclidean" || metric == "sqeuclidean",
          "CDist with the metric \"" + metric + "\" is not supported");
  const std::int64_t m = a.shape()[0], k = b.shape()[0], n = a.shape()[1];
  Tensor y(a.dtype(), {m, k});
  for_float_type(a.dtype(), [&](auto type) {
    using T = decltype(type);
    const T *x = a.read<T>().data(), *z = b.read<T>().data();
    T* to = y.write<T>().data();
    for_rows(c.threads, m, k * n, [&](std::int64_t i) {
      std::vector<T> apart(at(n));
      for (std::int64_t j = 0; j < k; ++j) {
        for (std::int64_t d = 0; d < n; ++d) apart[at(d)] = x[i * n + d] - z[j * n + d];
        const double sum = row_sum(apart.data(), n, [](double v) { return v * v; });
        to[i * k + j] = static_cast<T>(metric == "euclidean" ? std::sqrt(sum) : sum);
      }
    });
  });
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

void cdist_infer(InferContext& c) {
  if (!c.in(0).known_dtype) return;
  const auto rows = [&](std::size_t i) {
    return c.in(i).known_rank && c.in(i).shape.size() == 2 ? c.in(i).shape[0] : std::int64_t{-1};
  };
  c.out(0, c.in(0).dtype, {rows(0), rows(1)});
}

// ---- Inverse of a stack of matrices, by elimination with pivots

void invert(double* m, double* inverse, std::int64_t n) {
  std::fill_n(inverse, n * n, 0.0);
  for (std::int64_t i = 0; i < n; ++i) inverse[i * n + i] = 1;
  for (std::int64_t column = 0; column < n; ++column) {
    std::int64_t pivot = column;
    for (std::int64_t r = column + 1; r < n; ++r) {
      if (std::abs(m[r * n + column]) > std::abs(m[pivot * n + column])) pivot = r;
    }
    std::swap_ranges(m + column * n, m + (column + 1) * n, m + pivot * n);
    if (pivot != column) std::swap_ranges(inverse + column * n, inverse + (column + 1) * n, inverse + pivot * n);
    const double scale = 1 / m[column * n + column];
    for (std::int64_t j = 0; j < n; ++j) {
      m[column * n + j] *= scale;
      inverse[column * n + j] *= scale;
    }
    for (std::int64_t r = 0; r < n; ++r) {
      const double factor = m[r * n + column];
      if (r == column || factor == 0) continue;
      for (std::int64_t j = 0; j < n; ++j) {
        m[r * n + j] -= factor * m[column * n + j];
        inverse[r * n + j] -= factor * inverse[column * n + j];
      }
    }
  }
}

void inverse(const OpContext& c) {
  const Tensor x = compute_float(c.in(0), "the input");
  const Shape& s = x.shape();
  require(s.size() >= 2 && s.back() == s[s.size() - 2], "the inverse of " + to_string(s) + " is not defined");
  const std::int64_t n = s.back();
  Tensor y(x.dtype(), s);
  for_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const auto from = x.read<T>();
    const auto to = y.write<T>();
    for_rows(c.threads, extent(s, 0, x.rank() - 2), n * n * n, [&](std::int64_t i) {
      const std::size_t first = at(i * n * n), size = at(n * n);
      std::vector<double> m(from.begin() + static_cast<std::ptrdiff_t>(first),
                            from.begin() + static_cast<std::ptrdiff_t>(first + size)),
          out(size);
      invert(m.data(), out.data(), n);
      for (std::size_t j = 0; j < size; ++j) to[first + j] = static_cast<T>(out[j]);
    });
  });
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

// ---- MatMulBnb4(a, codes, absmax): rows of B [n, k] as 4-bit codes of bitsandbytes, the first in the high bits

void matmul_bnb4(const OpContext& c) {
  const std::int64_t k = c.attrs().get("K", std::int64_t{0}), n = c.attrs().get("N", std::int64_t{0}),
                     block = c.attrs().get("block_size", std::int64_t{0});
  require(k > 0 && n > 0 && block > 0 && k < std::int64_t{1} << 31 && n < std::int64_t{1} << 31 &&
              c.attrs().get("transB", std::int64_t{1}) == 1,
          "MatMulBnb4 of " + std::to_string(k) + " x " + std::to_string(n) + " in blocks of " + std::to_string(block) +
              " is not supported");
  const Tensor scales = compute_float(c.in(2), "absmax");
  require(c.in(1).dtype() == DType::u8 && c.in(1).count() == (n * k + 1) / 2 &&
              scales.count() == (n * k + block - 1) / block,
          "the codes or the scales of MatMulBnb4 do not fit its weights");
  std::vector<float> values(16);
  std::vector<std::uint16_t> all(16);
  for (std::uint16_t i = 0; i < 16; ++i) all[i] = i;
  const bool normal = c.attrs().get("quant_type", std::int64_t{0}) == 1;
  (normal ? number::nf4 : number::fp4).decode(all, values);
  Tensor b(DType::f32, {n, k});
  const auto to = b.write<float>();
  const auto codes = c.in(1).read<std::uint8_t>();
  const auto absmax = scales.read<float>();
  for (std::size_t i = 0; i < to.size(); ++i) {
    const unsigned code = i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15U;
    to[i] = values[code] * absmax[i / at(block)];
  }
  Attrs transposed;
  transposed.set("transB", std::int64_t{1});
  const Tensor y = run_op(c, op::ms_FusedMatMul, {compute_float(c.in(0), "operand A"), b}, std::move(transposed), 1)[0];
  c.out(0, narrowed(y, c.in(0).dtype()));
}

void matmul_bnb4_infer(InferContext& c) {
  Type t = c.in(0);
  t.symbols.clear();
  if (t.known_rank && !t.shape.empty()) t.shape.back() = c.attrs().get("N", std::int64_t{-1});
  c.out(0, t);
}

// ---- QEmbedLayerNormalization(ids, segments, five tables, mask, five scales, five zero points)

void q_embed_layer_norm(const OpContext& c) {
  std::vector<Tensor> inputs{c.in(0), c.in(1)};
  for (std::size_t i = 2; i < 7; ++i) {
    Tensor table = c.in(i);
    if (table) {
      const Tensor scale = c.in(i + 6), zero = c.in(i + 11);
      table = run_op(c, op::DequantizeLinear,
                     {table, scale.reshaped({}), zero.empty() ? Tensor(table.dtype(), Shape{}) : zero.reshaped({})}, {},
                     13)[0];
    }
    inputs.push_back(std::move(table));
  }
  inputs.push_back(c.in(7));
  std::vector<Tensor> results = run_op(c, op::ms_EmbedLayerNormalization, inputs, c.attrs(), 1, 2);
  c.out(0, std::move(results[0]));
  c.out(1, std::move(results[1]));
}

void q_embed_infer(InferContext& c) {
  std::int64_t batch = -1, length = -1;
  if (c.in(0).known_rank && c.in(0).shape.size() == 2) {
    batch = c.in(0).shape[0];
    length = c.in(0).shape[1];
  }
  const bool table = c.in(2).known_rank && c.in(2).shape.size() == 2;
  c.out(0, DType::f32, {batch, length, table ? c.in(2).shape[1] : -1});
  c.out(1, DType::i32, {batch});
}

}  // namespace

constinit const OpDef ms_CDist{"CDist", microsoft, 1, cdist_infer, cdist, nullptr};
constinit const OpDef ms_ExpandDims{"ExpandDims", microsoft, 1, expand_dims_infer, expand_dims, nullptr};
constinit const OpDef ms_FusedConv{"FusedConv", microsoft, 1, same_infer<op::Conv, 11>, fused_conv, nullptr};
constinit const OpDef ms_FusedGemm{"FusedGemm", microsoft, 1, same_infer<op::Gemm, 13>, fused_gemm, nullptr};
constinit const OpDef ms_GatherND{"GatherND", microsoft, 1, same_infer<op::GatherND, 13>, same<op::GatherND, 13>,
                                  nullptr};
constinit const OpDef ms_GridSample{
    "GridSample", microsoft, 1, same_infer<op::GridSample, 16>, same<op::GridSample, 16>, nullptr};
constinit const OpDef ms_Inverse{"Inverse", microsoft, 1, infer_same, inverse, nullptr};
constinit const OpDef ms_MatMulBnb4{"MatMulBnb4", microsoft, 1, matmul_bnb4_infer, matmul_bnb4, nullptr};
constinit const OpDef ms_Pad{"Pad", microsoft, 1, same_infer<op::Pad, 13>, pad, nullptr};
constinit const OpDef ms_QEmbedLayerNormalization{"QEmbedLayerNormalization", microsoft, 1, q_embed_infer,
                                                  q_embed_layer_norm,         nullptr};
constinit const OpDef ms_Range{"Range", microsoft, 1, range_infer, range, nullptr};
constinit const OpDef ms_TransposeMatMul{"TransposeMatMul",           microsoft, 1, same_infer<op::ms_FusedMatMul, 1>,
                                         same<op::ms_FusedMatMul, 1>, nullptr};
constinit const OpDef ms_Trilu{"Trilu", microsoft, 1, same_infer<op::Trilu, 14>, same<op::Trilu, 14>, nullptr};

}  // namespace qtool::op
