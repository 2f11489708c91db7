// SPDX-License-Identifier: Apache-2.0
// Steps that an interrupted run had done are not done again, and nothing afterwards can tell.
#include "passes/checkpoint.h"

#include "formats/ir/merkle.h"
#include "formats/ir/quant.h"
#include "tests/passes/bench.h"
#include "tests/support.h"

using namespace qtool;
using namespace qtool::test;

namespace {

/// Adds a constant, a decision and a fact; or stops.
class Count final : public Pass {
 public:
  Count(int& runs, bool stops) : runs_(runs), stops_(stops) {}
  void run(Graph& graph, PassContext& ctx) override {
    if (stops_) throw Error(Code::interrupted, "stop");
    ++runs_;
    Value v;
    v.name = graph.fresh_name("made");
    v.data = Tensor(DType::f32, {3000});
    v.data.write<float>()[0] = static_cast<float>(graph.value_slots());
    v.type.known_dtype = v.type.known_rank = true;
    v.type.shape = {3000};
    graph.add_value(v);
    auto spec = std::make_shared<QuantSpec>();
    spec->format = &number::int8;
    spec->scale = Tensor::scalar(static_cast<float>(graph.value_slots()));
    graph[graph.nodes().front()].inputs[0].quant = spec;
    ctx.journal.warn("count", "number " + std::to_string(graph.value_slots()));
  }

 private:
  int& runs_;
  bool stops_;
};

struct Ran {
  Graph graph;
  int runs = 0;
  bool stopped = false;
  std::vector<Json> facts;
};

constexpr int steps_in_all = 4;

/// Without their times.
Json timeless(const Json& fact) {
  Json rest = Json::object();
  for (const auto& [name, value] : fact.as_object()) {
    if (name != "seconds") rest.set(name, value);
  }
  return rest;
}

Ran run(const std::filesystem::path& work, int stop_at, const char* job = "job") {
  static const PassDef def{"count", "", "", Effect::lossy, 1, nullptr};
  Ran ran;
  Journal journal;
  Threads threads(1);
  Target target;
  Calibration calibration(nullptr, threads, journal);
  Kept kept({}, work, journal, std::chrono::hours(1));
  std::vector<BoundStep> steps;
  for (int i = 0; i < steps_in_all; ++i) {
    BoundStep step{&def, std::make_unique<Count>(ran.runs, i == stop_at), {}};
    step.step.id = "count_" + std::to_string(i);
    steps.push_back(std::move(step));
  }
  ran.graph = graph_of("g (float[2] x) => (float[2] y) { y = Relu (x) }");
  PipelineOptions options;
  options.keeping.kept = &kept;
  options.job = Hasher().text(job).finish();
  try {
    run_steps(ran.graph, steps, Recipe{}, target, calibration, journal, threads, options);
  } catch (const Error& e) {
    CHECK(e.code() == Code::interrupted);
    ran.stopped = true;
  }
  kept.flush();
  for (const Json& fact : journal.facts()) ran.facts.push_back(timeless(fact));
  return ran;
}

}  // namespace

TEST_CASE("checkpoint: a run goes on behind the last step that was done") {
  const ScratchFolder nowhere;
  const Ran whole = run({}, -1);
  CHECK(whole.runs == steps_in_all);
  for (int stop = 0; stop < steps_in_all; ++stop) {
    CAPTURE(stop);
    const ScratchFolder folder;
    const Ran first = run(folder / "work", stop);
    CHECK(first.stopped);
    CHECK(first.runs == stop);
    CHECK(run(folder / "work", -1, "another job").runs == steps_in_all);
    const Ran rest = run(folder / "work", -1);
    CHECK(rest.runs == steps_in_all - stop);
    CHECK(fingerprint(rest.graph, true) == fingerprint(whole.graph, true));
    CHECK(print_graph(rest.graph) == print_graph(whole.graph));
    CHECK(rest.graph.value_slots() == whole.graph.value_slots());
    CHECK(rest.facts == whole.facts);
  }
}

TEST_CASE("checkpoint: damaged ones are passed over") {
  const ScratchFolder folder;
  run(folder / "work", 2);
  for (const char* kind : {".tensor", ".graph"}) {
    for (const auto& entry : std::filesystem::directory_iterator(folder / "work")) {
      if (entry.path().extension() == kind) std::filesystem::resize_file(entry.path(), entry.file_size() - 1);
    }
    const Ran rest = run(folder / "work", -1);
    CHECK(rest.runs == steps_in_all);
    std::filesystem::remove_all(folder / "work");
    run(folder / "work", 2);
  }
}
