// SPDX-License-Identifier: Apache-2.0
// Equivalent passes leave the reference outputs in place on random small graphs. QTOOL_SEED repeats a failure.
#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "calib/executor.h"
#include "formats/base/error.h"
#include "formats/base/rng.h"
#include "formats/ir/text.h"
#include "formats/ir/verify.h"
#include "passes/probe.h"
#include "tests/property/fold.h"

using namespace qtool;

namespace {

/// Pictures of [1, c, h, w] through a random pile of what the folding passes look for, and of what stops them.
class RandomGraph {
 public:
  explicit RandomGraph(std::uint64_t seed) : rng_(seed, "random graph") {
    graph_ =
        parse_graph("<ir_version: 8, opset_import: [\"\" : 17]> g (float[1, 4, 6, 6] x) => (float y) { y = Relu (x) }");
    graph_.erase(graph_.nodes()[0]);
    const ValueId old = graph_.outputs[0].value;
    graph_.outputs.clear();
    graph_.erase(old);
    values_.push_back(graph_.inputs[0]);
    const std::uint64_t steps = 4 + draw(10);
    for (std::uint64_t i = 0; i < steps; ++i) step();
    // Every value without a reader, and now and then one in the middle, is an output.
    const Links links(graph_);
    for (const ValueId v : values_) {
      if (v != graph_.inputs[0] && (links.consumers(v).empty() || draw(8) == 0)) graph_.outputs.push_back({v, nullptr});
    }
  }
  Graph graph_;

 private:
  std::uint64_t draw(std::uint64_t n) { return rng_.bits(next_++) % n; }
  float number(float from, float to) { return from + (to - from) * static_cast<float>(rng_.uniform(next_++)); }

  Tensor numbers(const Shape& shape, float from, float to) {
    Tensor t(DType::f32, shape);
    for (float& v : t.write<float>()) v = number(from, to);
    return t;
  }
  ValueId constant(Tensor t) {
    Value value;
    value.name = "k" + std::to_string(graph_.value_slots());
    value.type.dtype = t.dtype();
    value.type.known_dtype = value.type.known_rank = true;
    value.type.shape = t.shape();
    value.data = std::move(t);
    return graph_.add_value(value);
  }
  ValueId node(const std::string& op, std::vector<ValueId> inputs, Attrs attrs = {}) {
    Value value;
    value.name = "v" + std::to_string(graph_.value_slots());
    value.type.dtype = DType::f32;
    value.type.known_dtype = true;
    const ValueId out = graph_.add_value(value);
    Node n;
    n.op = op;
    n.name = "n" + std::to_string(graph_.node_slots());
    for (const ValueId v : inputs) n.inputs.push_back({v, nullptr});
    n.outputs = {out};
    n.attrs = std::move(attrs);
    graph_.add_node(std::move(n));
    return out;
  }
  ValueId weight(const Shape& shape) {
    if (shared_ != ValueId::none && graph_[shared_].data.shape() == shape && draw(3) == 0) return shared_;
    ValueId w = constant(numbers(shape, -1, 1));
    if (draw(4) == 0) w = node("Identity", {w});
    if (draw(4) == 0) w = node("Neg", {w});
    if (draw(4) == 0) shared_ = graph_.is_constant(w) ? w : ValueId::none;
    return w;
  }

  /// All values are [1, 4, 6, 6], so that any of them may be read by any step.
  void step() {
    const ValueId x = values_[draw(3) == 0 ? draw(values_.size()) : values_.size() - 1];
    const Shape channel{1, 4, 1, 1};
    switch (draw(10)) {
      case 0:
      case 1: {
        Attrs attrs;
        const bool grouped = draw(2) == 0, padded = draw(2) == 0;
        if (grouped) attrs.set("group", std::int64_t{2});
        if (padded) attrs.set("pads", std::vector<std::int64_t>{1, 1, 1, 1});
        const std::int64_t k = padded ? 3 : 1;
        std::vector<ValueId> inputs{x, weight({4, grouped ? 2 : 4, k, k})};
        if (draw(2) == 0) inputs.push_back(constant(numbers({4}, -1, 1)));
        values_.push_back(node("Conv", inputs, attrs));
        break;
      }
      case 2: values_.push_back(node("ConvTranspose", {x, weight({4, 4, 1, 1})})); break;
      case 3:
      case 4: {
        Attrs attrs;
        attrs.set("epsilon", 1e-3F);
        values_.push_back(node("BatchNormalization",
                               {x, constant(numbers({4}, -2, 2)), constant(numbers({4}, -1, 1)),
                                constant(numbers({4}, -1, 1)), constant(numbers({4}, 0, 2))},
                               attrs));
        break;
      }
      case 5: values_.push_back(node(draw(2) == 0 ? "Mul" : "Add", {x, constant(numbers(channel, 0.5F, 2))})); break;
      case 6: values_.push_back(node(draw(2) == 0 ? "Div" : "Sub", {x, constant(numbers({}, 0.5F, 2))})); break;
      case 7: values_.push_back(node(draw(2) == 0 ? "Identity" : "Dropout", {x})); break;
      case 8: values_.push_back(node("MatMul", {x, weight({6, 6})})); break;
      default: values_.push_back(node("Reshape", {node("Relu", {x}), node("Shape", {x})}));
    }
  }

  Rng rng_;
  std::uint64_t next_ = 0;
  std::vector<ValueId> values_;
  ValueId shared_ = ValueId::none;
};

/// Runs both folding passes; the worst distance of any output, in shares of its range.
double worst_after_folding(const Graph& before) {
  Journal journal;
  Threads threads(1);
  Graph after = before;
  test::fold(after, journal, threads);
  const Rng rng(99);
  const auto feeds = synthetic_feeds(before, 6, 2, rng);
  REQUIRE(feeds);
  const auto x = Executor(before, Reading::reference, threads).run(*feeds);
  const auto y = Executor(after, Reading::reference, threads).run(*feeds);
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, relative_distance(x[i], y[i]));
  return worst;
}

}  // namespace

TEST_CASE("property: folding leaves the outputs of random graphs in place") {
  const char* fixed = std::getenv("QTOOL_SEED");
  const std::uint64_t first = fixed ? std::strtoull(fixed, nullptr, 10) : 1, count = fixed ? 1 : 150;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const RandomGraph random(seed);
    INFO("QTOOL_SEED=", seed, "\n", print_graph(random.graph_));
    verify(random.graph_);
    double worst = 1;
    CHECK_NOTHROW(worst = worst_after_folding(random.graph_));
    CHECK(worst < 1e-4);
  }
}
