// SPDX-License-Identifier: Apache-2.0
// Help for tests of passes: one pass run by the pipeline, so that its declared effect is checked along the way.
#pragma once

#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "calib/data.h"
#include "calib/observe.h"
#include "formats/base/error.h"
#include "formats/ir/text.h"
#include "passes/pipeline.h"

namespace qtool::test {

/// Batches given one by one.
class FixedData final : public Dataset {
 public:
  explicit FixedData(std::vector<Feeds> batches) : batches_(std::move(batches)) {}
  std::int64_t batches() const override { return static_cast<std::int64_t>(batches_.size()); }
  std::int64_t samples() const override { return batches(); }
  Feeds feeds(std::int64_t i) const override { return batches_[static_cast<std::size_t>(i)]; }
  std::string digest(Threads&) const override { return "fixed"; }

 private:
  std::vector<Feeds> batches_;
};

using Knobs = std::vector<std::pair<std::string, std::string>>;

/// A pass as a recipe would run it, with a journal to look at.
class PassBench {
 public:
  explicit PassBench(std::shared_ptr<const Dataset> data = nullptr, int thread_count = 1)
      : threads(thread_count), calibration(std::move(data), threads, journal) {}

  Graph run(const std::string& pass, Graph graph, const Knobs& knobs = {}, const std::string& only = {}) {
    Recipe recipe;
    Step step;
    step.pass = step.id = pass;
    for (const auto& [name, value] : knobs) {
      Setting setting;
      setting.value = value;
      step.knobs.push_back({name, setting});
    }
    if (!only.empty()) {
      step.where = Where{};
      step.where->name = {only};
    }
    recipe.steps.push_back(step);
    auto steps = bind_steps(recipe);
    run_steps(graph, steps, recipe, target, calibration, journal, threads, {});
    return graph;
  }

  /// The reasons of all skips, joined.
  std::string skips() const {
    std::string all;
    for (const Json& fact : journal.facts()) {
      if (fact.find("kind")->as_string() == "skip") all += fact.find("why")->as_string() + "\n";
    }
    return all;
  }
  int count(const std::string& kind) const {
    int n = 0;
    for (const Json& fact : journal.facts()) n += fact.find("kind")->as_string() == kind ? 1 : 0;
    return n;
  }

  Journal journal;
  Threads threads;
  Target target;
  Calibration calibration;
};

/// `g` in ONNX text with the usual header.
inline Graph graph_of(const std::string& body, int opset = 17) {
  return parse_graph("<ir_version: 8, opset_import: [\"test\" : 1, \"\" : " + std::to_string(opset) + "]>\n" + body);
}

/// The same with every float32 value in half precision (which ONNX text cannot spell).
inline Graph in_half(Graph graph) {
  for (const ValueId v : graph.values()) {
    Value& value = graph[v];
    if (value.type.known_dtype && value.type.dtype == DType::f32) value.type.dtype = DType::f16;
    if (!value.data.empty() && value.data.dtype() == DType::f32) value.data = from_f32(value.data, DType::f16);
  }
  return graph;
}

/// Empty when both print alike; else the lines that differ.
inline std::string difference(const Graph& got, const std::string& expected, int opset = 17) {
  return diff_graphs(graph_of(expected, opset), got);
}

inline int count_op(const Graph& graph, std::string_view op) {
  int n = 0;
  for (const NodeId id : graph.nodes()) n += graph[id].op == op ? 1 : 0;
  return n;
}

inline std::vector<float> floats_of(const Graph& graph, const std::string& name) {
  const auto id = graph.find_value(name);
  REQUIRE(id);
  const Tensor t = to_f32(graph[*id].data);
  const auto v = t.read<float>();
  return {v.begin(), v.end()};
}

template <class F>
std::string message_of(Code code, const F& f) {
  try {
    f();
  } catch (const Error& e) {
    CHECK(e.code() == code);
    return e.what();
  }
  return "nothing was thrown";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace qtool::test
