// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/output_pairs.h"

#include <numeric>

#include "calib/executor.h"
#include "calib/side_by_side.h"

namespace qtool::solve {
namespace {

/// A node by itself, with the constants that it reads.
struct Alone {
  Graph graph;
  ValueId input = ValueId::none, output = ValueId::none;

  Alone(const Graph& from, NodeId id) {
    graph.model = from.model;
    Node node = from[id];
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      ValueId& v = node.inputs[i].value;
      if (v != ValueId::none) v = graph.add_value(from[v]);
      if (i == 0) input = v;
    }
    output = node.outputs[0] = graph.add_value(from[node.outputs[0]]);
    graph.add_node(std::move(node));
  }
};

std::vector<double> own_bias(const Graph& graph, const Product& p) {
  if (!p.takes_bias) return std::vector<double>(static_cast<std::size_t>(p.out_channels()));
  return *bias_of(graph, p);
}

}  // namespace

PairSums output_pairs(const Graph& graph, const Stages& quantized, const Graph& floats, const Stages& reference,
                      const Product& p, Threads& threads) {
  const Alone mine(graph, p.node), theirs(floats, p.node);
  const Executor as_decided(mine.graph, Reading::quantized, threads),
      in_float(theirs.graph, Reading::reference, threads);
  const std::vector<double> mine_bias = own_bias(graph, p), their_bias = own_bias(floats, p);
  const ValueId x = graph[p.node].inputs[0].value;
  const auto channels = static_cast<std::size_t>(p.out_channels());
  PairSums sums;
  for (auto* s : {&sums.q, &sums.f, &sums.qq, &sums.qf, &sums.ff}) s->resize(channels);
  const auto add = [&](std::span<const float> q, std::span<const float> f, std::size_t inner) {
    const std::size_t stride = channels * inner, outer = q.size() / stride;
    threads.for_each(static_cast<std::int64_t>(channels), 8, [&](std::int64_t from, std::int64_t to) {
      for (std::size_t o = 0; o < outer; ++o) {
        for (auto c = static_cast<std::size_t>(from); c < static_cast<std::size_t>(to); ++c) {
          const std::size_t first = o * stride + c * inner;
          for (std::size_t i = first; i < first + inner; ++i) {
            const double a = static_cast<double>(q[i]) - mine_bias[c], b = static_cast<double>(f[i]) - their_bias[c];
            sums.q[c] += a, sums.f[c] += b;
            sums.qq[c] += a * a, sums.qf[c] += a * b, sums.ff[c] += b * b;
          }
        }
      }
    });
    sums.count += static_cast<std::int64_t>(q.size() / channels);
  };
  const double bytes = 4.0 * static_cast<double>(quantized.value(0, x).size_bytes());
  side_by_side(threads, quantized.batches(), bytes, [&](std::int64_t batch, Turn& turn) {
    const Tensor q = to_f32(as_decided.run({{mine.input, quantized.value(batch, x)}}, {&mine.output, 1})[0]);
    const Tensor f = to_f32(in_float.run({{theirs.input, reference.value(batch, x)}}, {&theirs.output, 1})[0]);
    turn.in_order([&] {
      const Shape& shape = q.shape();
      const std::size_t axis = p.spatial ? 1 : shape.size() - 1;
      const bool fits = shape == f.shape() && axis < shape.size() && shape[axis] == p.out_channels();
      if (!fits || q.count() == 0) return;
      const std::int64_t inner = std::accumulate(shape.begin() + static_cast<std::ptrdiff_t>(axis) + 1, shape.end(),
                                                 std::int64_t{1}, std::multiplies<>());
      add(q.read<float>(), f.read<float>(), static_cast<std::size_t>(inner));
    });
  });
  return sums;
}

}  // namespace qtool::solve
