// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/inputs.h"

#include <algorithm>

#include "formats/ir/quant.h"

namespace qtool::solve {

/// Of every batch, which tokens count, where the model is told by an attention_mask.
LayerInputs::LayerInputs(const Graph& graph, const PassContext& ctx, bool quantized, const Dataset& data,
                         std::int64_t batches)
    : graph_(graph), ctx_(ctx), quantized_(quantized) {
  const auto mask = graph_.find_value("attention_mask");
  if (!mask || std::find(graph_.inputs.begin(), graph_.inputs.end(), *mask) == graph_.inputs.end()) return;
  const std::int64_t all = batches > 0 ? std::min(batches, data.batches()) : data.batches();
  for (std::int64_t b = 0; b < all; ++b) {
    const Feeds feeds = data.feeds(b);
    const auto found = feeds.find(*mask);
    masks_.emplace_back();
    if (found == feeds.end() || found->second.rank() != 2) continue;
    const Tensor values = to_f32(found->second);
    for (const float v : values.read<float>()) masks_.back().push_back(v != 0 ? 1 : 0);
  }
}

std::vector<ValueId> LayerInputs::values_of(const Layer& layer) const {
  std::vector<ValueId> values;
  for (const std::size_t i : layer.reads()) {
    const ValueId v = graph_[layer.node()].inputs[i].value;
    if (i == 0 || !graph_.is_constant(v)) values.push_back(v);
  }
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return values;
}

std::string LayerInputs::sight(const Layer& layer) const {
  std::string all;
  for (const std::size_t i : layer.reads()) {
    const Use& use = graph_[layer.node()].inputs[i];
    all += std::to_string(index(use.value)) + " " + std::to_string(reinterpret_cast<std::uintptr_t>(use.quant.get())) +
           " ";
  }
  if (layer.reads_itself()) all += "of " + std::to_string(index(layer.node())) + " ";
  return all + layer.sight();
}

std::vector<Hessian> LayerInputs::empty_sums(const Layer& layer, GramFormat format) {
  return std::vector<Hessian>(static_cast<std::size_t>(layer.matrices()), Hessian(layer.columns(), format));
}

std::vector<Tensor> LayerInputs::inputs(const Layer& layer, const Values& value, bool quantized) const {
  const Node& node = graph_[layer.node()];
  std::vector<Tensor> all(node.inputs.size());
  for (const std::size_t i : layer.reads()) {
    const Use& use = node.inputs[i];
    const bool fixed = i != 0 && graph_.is_constant(use.value);
    all[i] = fixed ? graph_[use.value].data : value(use.value);
    const bool own = layer.reads_itself() && i == layer.place().input;
    if (quantized && use.quant && !own) all[i] = fake_quantize(to_f32(all[i]), *use.quant);
  }
  return all;
}

void LayerInputs::add(const Layer& layer, std::int64_t batch, const Values& value, std::vector<Hessian>& sums) const {
  const std::vector<Tensor> seen = inputs(layer, value, quantized_);
  const Rng rng = ctx_.rng.split("patches", std::to_string(batch));
  const auto one = [&](std::int64_t i) {
    layer.for_each_rows(seen, i, rng, ctx_.threads, [&](std::span<const float> rows) {
      std::vector<float> some;
      sums[static_cast<std::size_t>(i)].add(without_padding(batch, layer, rows, some), ctx_.threads);
    });
  };
  if (layer.matrices() == 1) return one(0);
  ctx_.threads.for_each(layer.matrices(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) one(i);
  });
}

/// Rows of tokens that only fill up a batch say nothing and are left out, where a row is a token (gptq.md 3.1).
std::span<const float> LayerInputs::without_padding(std::int64_t batch, const Layer& layer, std::span<const float> rows,
                                                    std::vector<float>& some) const {
  if (masks_.empty()) return rows;
  const std::vector<std::uint8_t>& mask = masks_.at(static_cast<std::size_t>(batch));
  const auto n = static_cast<std::size_t>(layer.columns());
  if (!layer.sees_tokens() || mask.size() * n != rows.size()) return rows;
  for (std::size_t r = 0; r < mask.size(); ++r) {
    if (mask[r] != 0)
      some.insert(some.end(), rows.begin() + static_cast<std::ptrdiff_t>(r * n),
                  rows.begin() + static_cast<std::ptrdiff_t>((r + 1) * n));
  }
  return some;
}

void LayerInputs::add_pairs(const Layer& layer, std::int64_t batch, const Values& floats, const Values& seen,
                            std::vector<CrossSum>& sums) const {
  const std::vector<Tensor> plain = inputs(layer, floats, false), through = inputs(layer, seen, true);
  const Rng rng = ctx_.rng.split("patches", std::to_string(batch));
  for (std::int64_t i = 0; i < layer.matrices(); ++i) {
    std::vector<std::vector<float>> wanted;
    layer.for_each_rows(plain, i, rng, ctx_.threads,
                        [&](std::span<const float> rows) { wanted.emplace_back(rows.begin(), rows.end()); });
    std::size_t next = 0;
    layer.for_each_rows(through, i, rng, ctx_.threads, [&](std::span<const float> rows) {
      std::vector<float> one, other;
      const auto first = without_padding(batch, layer, wanted[next++], one);
      sums[static_cast<std::size_t>(i)].add(first, without_padding(batch, layer, rows, other), ctx_.threads);
    });
  }
}

}  // namespace qtool::solve
