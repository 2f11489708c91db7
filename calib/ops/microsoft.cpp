// SPDX-License-Identifier: Apache-2.0
// Fused float operators of com.microsoft, by the operators that they were fused from.
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/delegate.h"
#include "calib/ops/operand.h"

namespace qtool::op {
namespace {

constexpr std::string_view microsoft = "com.microsoft";

Attrs with(const char* name, decltype(Attr::value) value) {
  Attrs a;
  a.set(name, std::move(value));
  return a;
}

// ---- Gelu(x), BiasGelu(x, bias), FastGelu(x, bias), QuickGelu(x)

Tensor plus(const OpContext& c, const Tensor& x, const Tensor& y) {
  return y.empty() ? x : run_op(c, op::Add, {x, y}, {}, 14)[0];
}

void gelu(const OpContext& c) { c.out(0, run_op(c, op::Gelu, {plus(c, c.in(0), c.in(1))}, {}, 20)[0]); }

void fast_gelu(const OpContext& c) {
  c.out(0, run_op(c, op::Gelu, {plus(c, c.in(0), c.in(1))}, with("approximate", std::string("tanh")), 20)[0]);
}

void quick_gelu(const OpContext& c) {
  c.out(0, run_op(c, op::Swish, {c.in(0)}, with("alpha", c.attrs().get("alpha", 1.702F)), 24)[0]);
}

// ---- layer normalizations

void simplified_layer_norm(const OpContext& c) {
  Attrs attrs = with("epsilon", c.attrs().get("epsilon", 1e-5F));
  attrs.set("axis", c.attrs().get("axis", std::int64_t{-1}));
  c.out(0, run_op(c, op::RMSNormalization, {c.in(0), c.in(1)}, std::move(attrs), 23)[0]);
}

void simplified_layer_norm_backward(BackwardContext& c) { op::RMSNormalization.backward(c); }

/// (input, skip, gamma, beta, bias): normalizes input + skip + bias; outputs 0 and 3 (the sum). Without beta in the
/// simplified form, which does not take the mean away.
template <bool simplified>
void skip_layer_norm(const OpContext& c) {
  const std::size_t bias = simplified ? 3 : 4;
  const Tensor sum = plus(c, plus(c, c.in(0), c.in(1)), c.in(bias));
  Attrs attrs = with("epsilon", c.attrs().get("epsilon", 1e-12F));
  attrs.set("axis", std::int64_t{-1});
  if constexpr (simplified) {
    c.out(0, run_op(c, op::RMSNormalization, {sum, c.in(2)}, std::move(attrs), 23)[0]);
  } else {
    std::vector<Tensor> y = run_op(c, op::LayerNormalization, {sum, c.in(2), c.in(3)}, std::move(attrs), 17, 3);
    for (std::size_t i = 0; i < 3; ++i) c.out(i, y[i]);
  }
  c.out(3, sum);
}

void skip_infer(InferContext& c) {
  c.out(0, c.in(0));
  c.out(3, c.in(0));
}

// ---- EmbedLayerNormalization(input_ids, segment_ids, word, position, segment, gamma, beta, mask, position_ids)

/// Adds row ids[i] of `table` to row i of `sum` [rows, width].
void add_rows(std::span<float> sum, const Tensor& table, const std::vector<std::int64_t>& ids, const char* what) {
  const Tensor t = compute_float(table, what);
  require(t.rank() == 2, std::string(what) + " has the shape " + to_string(t.shape()) + " where two axes are needed");
  const std::int64_t width = t.shape()[1];
  require(static_cast<std::int64_t>(sum.size()) == static_cast<std::int64_t>(ids.size()) * width,
          std::string(what) + " has another width");
  const auto from = t.read<float>();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    require(ids[i] >= 0 && ids[i] < t.shape()[0], std::string(what) + " has no row " + std::to_string(ids[i]));
    for (std::int64_t j = 0; j < width; ++j) {
      sum[i * at(width) + at(j)] += from[at(ids[i] * width + j)];
    }
  }
}

void embed_layer_norm(const OpContext& c) {
  require(c.in(0).rank() == 2 && c.in(2).rank() == 2, "EmbedLayerNormalization needs ids [batch, length]");
  const std::int64_t batch = c.in(0).shape()[0], length = c.in(0).shape()[1], width = c.in(2).shape()[1];
  Tensor sum(DType::f32, {batch, length, width});
  const auto to = sum.write<float>();
  add_rows(to, c.in(2), to_int64s(c.in(0)), "the word embedding");
  std::vector<std::int64_t> positions;
  if (c.has(8)) positions = to_int64s(c.in(8));
  if (static_cast<std::int64_t>(positions.size()) != batch * length) {  // absent, or one row for the whole batch
    require(positions.empty() || static_cast<std::int64_t>(positions.size()) == length,
            "position_ids do not fit the ids");
    const std::vector<std::int64_t> row = positions;
    positions.clear();
    for (std::int64_t i = 0; i < batch * length; ++i)
      positions.push_back(row.empty() ? i % length : row[at(i % length)]);
  }
  add_rows(to, c.in(3), positions, "the position embedding");
  if (c.has(1) && c.has(4)) add_rows(to, c.in(4), to_int64s(c.in(1)), "the segment embedding");
  Attrs attrs = with("epsilon", c.attrs().get("epsilon", 1e-12F));
  attrs.set("axis", std::int64_t{-1});
  const DType stored = c.in(2).dtype();
  const Tensor gamma = compute_float(c.in(5), "gamma"), beta = compute_float(c.in(6), "beta");
  c.out(0, narrowed(run_op(c, op::LayerNormalization, {sum, gamma, beta}, std::move(attrs), 17)[0], stored));
  Tensor lengths(DType::i32, {batch});
  if (c.has(7)) {
    const std::vector<std::int64_t> mask = to_int64s(c.in(7));
    require(static_cast<std::int64_t>(mask.size()) == batch * length, "the mask does not fit the ids");
    for (std::int64_t i = 0; i < batch * length; ++i) lengths.write<std::int32_t>()[at(i / length)] += mask[at(i)] == 1;
  }
  c.out(1, std::move(lengths));
  c.out(2, narrowed(std::move(sum), stored));
}

void embed_infer(InferContext& c) {
  if (!c.in(2).known_dtype) return;
  std::int64_t batch = -1, length = -1, width = -1;
  if (c.in(0).known_rank && c.in(0).shape.size() == 2) {
    batch = c.in(0).shape[0];
    length = c.in(0).shape[1];
  }
  if (c.in(2).known_rank && c.in(2).shape.size() == 2) width = c.in(2).shape[1];
  c.out(0, c.in(2).dtype, {batch, length, width});
  c.out(1, DType::i32, {batch});
  c.out(2, c.in(2).dtype, {batch, length, width});
}

}  // namespace

constinit const OpDef SimplifiedLayerNormalization{
    "SimplifiedLayerNormalization", "", 1, infer_same, simplified_layer_norm, simplified_layer_norm_backward};
constinit const OpDef ms_BiasGelu{"BiasGelu", microsoft, 1, infer_same, gelu, nullptr};
constinit const OpDef ms_EmbedLayerNormalization{"EmbedLayerNormalization", microsoft, 1, embed_infer,
                                                 embed_layer_norm,          nullptr};
constinit const OpDef ms_FastGelu{"FastGelu", microsoft, 1, infer_same, fast_gelu, nullptr};
constinit const OpDef ms_Gelu{"Gelu", microsoft, 1, infer_same, gelu, nullptr};
constinit const OpDef ms_QuickGelu{"QuickGelu", microsoft, 1, infer_same, quick_gelu, nullptr};
constinit const OpDef ms_SkipLayerNormalization{"SkipLayerNormalization", microsoft, 1, skip_infer,
                                                skip_layer_norm<false>,   nullptr};
constinit const OpDef ms_SkipSimplifiedLayerNormalization{
    "SkipSimplifiedLayerNormalization", microsoft, 1, skip_infer, skip_layer_norm<true>, nullptr};

}  // namespace qtool::op
