// SPDX-License-Identifier: Apache-2.0
// Passes that lie about what they change, and how the pipeline tells on them.
#include "passes/pipeline.h"

#include <functional>
#include <limits>

#include "formats/ir/quant.h"
#include "tests/documented.h"
#include "tests/passes/bench.h"

using namespace qtool;
using namespace qtool::test;

namespace {

class Fake final : public Pass {
 public:
  explicit Fake(std::function<void(Graph&, PassContext&)> f) : f_(std::move(f)) {}
  void run(Graph& graph, PassContext& ctx) override { f_(graph, ctx); }

 private:
  std::function<void(Graph&, PassContext&)> f_;
};

const char* const relu =
    "g (float[2, 3] x) => (float[2, 3] y) < float[3] k = {1.0, 2.0, 3.0} > { a = Add (x, k) y = Relu (a) }";

struct Ran {
  Graph graph;
  std::string error;
  Journal journal;
};

/// Runs `f` as a pass of `effect` on `text`.
std::unique_ptr<Ran> run(Effect effect, const std::function<void(Graph&, PassContext&)>& f,
                         const std::string& text = relu, std::shared_ptr<const Dataset> data = nullptr) {
  auto ran = std::make_unique<Ran>();
  const PassDef def{"fake", "", "", effect, 1, nullptr};
  Threads threads(1);
  Target target;
  Calibration calibration(std::move(data), threads, ran->journal);
  std::vector<BoundStep> steps;
  BoundStep step{&def, std::make_unique<Fake>(f), {}};
  step.step.place = {"r.yaml", 3, 5};
  steps.push_back(std::move(step));
  ran->graph = graph_of(text);
  try {
    run_steps(ran->graph, steps, Recipe{}, target, calibration, ran->journal, threads, {});
  } catch (const Error& e) {
    ran->error = e.what();
  }
  return ran;
}

Use& first_use(Graph& g) { return g[g.nodes()[0]].inputs[0]; }

Quant some_quant(float scale) {
  auto spec = std::make_shared<QuantSpec>();
  spec->format = &number::int8;
  spec->scale = Tensor::scalar(scale);
  return spec;
}

void scale_constant(Graph& g, float by) {
  for (float& v : g[*g.find_value("k")].data.write<float>()) v *= by;
}

}  // namespace

TEST_CASE("pipeline: an honest pass of every effect passes, and its step is recorded") {
  const auto idle = [](Graph&, PassContext&) {};
  for (const Effect e : {Effect::measure, Effect::equivalent, Effect::annotate, Effect::lossy}) {
    const auto ran = run(e, idle);
    CHECK(ran->error == "");
    REQUIRE(ran->journal.facts().size() == 2);
    const Json& fact = ran->journal.facts()[0];
    CHECK(fact.find("kind")->as_string() == "step");
    CHECK(fact.find("pass")->as_string() == "fake");
    CHECK(fact.find("changes")->as_object().empty());
    const Json& decided = ran->journal.facts()[1];
    CHECK(decided.find("kind")->as_string() == "decided");
    CHECK(decided.find("uses")->as_array().empty());
    CHECK(decided.find("constants")->as_array().empty());
  }
  const auto ran = run(Effect::annotate, [](Graph& g, PassContext&) { first_use(g).quant = some_quant(1); });
  CHECK(ran->error == "");
  CHECK(ran->journal.facts()[0].find("changes")->find("quants_changed")->as_integer() == 1);
  CHECK(ran->journal.facts()[1].find("uses")->as_array().size() == 1);
}

TEST_CASE("pipeline: a measure pass that decides or edits is named") {
  const auto decides = run(Effect::measure, [](Graph& g, PassContext&) { first_use(g).quant = some_quant(1); });
  CHECK(decides->error ==
        "r.yaml:3:5: fake: declared as measure, but the decision on input 0 of node \"\" (Add) was changed");
  check_documented(Code::internal, decides->error);
  const auto edits = run(Effect::measure, [](Graph& g, PassContext&) { scale_constant(g, 2); });
  CHECK(contains(edits->error, "constant \"k\" has other elements"));
}

TEST_CASE("pipeline: an annotate pass that touches weights, attributes or nodes is named") {
  CHECK(contains(run(Effect::annotate, [](Graph& g, PassContext&) { scale_constant(g, 1.5F); })->error,
                 "declared as annotate"));
  CHECK(contains(run(Effect::annotate, [](Graph& g, PassContext&) { g[g.nodes()[1]].op = "Neg"; })->error,
                 "was changed"));
  CHECK(contains(run(Effect::annotate, [](Graph& g, PassContext&) { g[g.nodes()[1]].attrs.set("alpha", 1.0F); })->error,
                 "was changed"));
  CHECK(run(Effect::annotate, [](Graph& g, PassContext&) { scale_constant(g, 1); })->error == "");
}

TEST_CASE("pipeline: an equivalent pass that moves outputs is named, with output and distance") {
  const auto lies = run(Effect::equivalent, [](Graph& g, PassContext&) { scale_constant(g, 1.01F); });
  CHECK(contains(lies->error, "declared as equivalent, but output \"y\" moved by"));
  CHECK(run(Effect::equivalent, [](Graph& g, PassContext&) { scale_constant(g, 1.000001F); })->error == "");
  CHECK(run(Effect::lossy, [](Graph& g, PassContext&) { scale_constant(g, 3); })->error == "");
}

TEST_CASE("pipeline: a graph that no longer runs is a broken promise") {
  const auto ran = run(Effect::equivalent, [](Graph& g, PassContext&) { g[g.nodes()[1]].op = "NoSuchOperator"; });
  CHECK(contains(ran->error, "no longer runs"));
}

TEST_CASE("pipeline: the probe is the first calibration batch where there is one") {
  // Relu hides a change of sign from positive numbers; only the data can tell.
  const auto data = [](float value) {
    const Graph g = graph_of(relu);
    return std::make_shared<FixedData>(
        std::vector<Feeds>{{{g.inputs[0], Tensor::of<float>({2, 3}, std::vector<float>(6, value))}}});
  };
  const auto drop_relu = [](Graph& g, PassContext&) { g[g.nodes()[1]].op = "Abs"; };
  CHECK(run(Effect::equivalent, drop_relu, relu, data(5))->error == "");
  CHECK(contains(run(Effect::equivalent, drop_relu, relu, data(-50))->error, "declared as equivalent"));
}

TEST_CASE("pipeline: where nothing can be run, the journal says that the effect was not checked") {
  const auto ran = run(
      Effect::equivalent, [](Graph& g, PassContext&) { scale_constant(g, 2); },
      "g (float[2, 3] x) => (float[2, 3] y) < float[3] k = {1.0, 2.0, 3.0} > { y = test.Unknown (x, k) }");
  CHECK(ran->error == "");
  REQUIRE(ran->journal.facts().size() == 3);
  CHECK(contains(ran->journal.facts()[0].find("text")->as_string(), "not checked"));
}

TEST_CASE("pipeline: inputs and outputs keep names and types whatever the effect") {
  for (const Effect e : {Effect::equivalent, Effect::lossy}) {
    CHECK(contains(run(e, [](Graph& g, PassContext&) { g[g.inputs[0]].name = "z"; })->error, "graph input \"x\""));
    CHECK(contains(run(e,
                       [](Graph& g, PassContext&) {
                         g[g.outputs[0].value].type.shape = {3, 2};
                       })
                       ->error,
                   "graph output \"y\""));
    CHECK(contains(run(e, [](Graph& g, PassContext&) { g.outputs.push_back(g.outputs[0]); })->error,
                   "number of graph outputs"));
  }
}

TEST_CASE("pipeline: a graph that is not well-formed is a broken promise") {
  const auto broken = run(Effect::lossy, [](Graph& g, PassContext&) { g.erase(g.nodes()[0]); });
  CHECK(contains(broken->error, "not well-formed"));
  const auto infinite = run(Effect::annotate, [](Graph& g, PassContext&) {
    first_use(g).quant = some_quant(std::numeric_limits<float>::infinity());
  });
  CHECK(contains(infinite->error, "not well-formed"));
}

TEST_CASE("pipeline: an error inside a pass carries place and pass, and keeps its code and hint") {
  const PassDef def{"fake", "", "", Effect::lossy, 1, nullptr};
  Journal journal;
  Threads threads(1);
  Target target;
  Calibration calibration(nullptr, threads, journal);
  std::vector<BoundStep> steps;
  steps.push_back(
      {&def, std::make_unique<Fake>([](Graph&, PassContext&) { throw Error(Code::budget, "too big", "less"); }), {}});
  steps[0].step.place = {"w4.yaml", 12, 7};
  Graph g = graph_of(relu);
  try {
    run_steps(g, steps, Recipe{}, target, calibration, journal, threads, {});
    FAIL("nothing was thrown");
  } catch (const Error& e) {
    CHECK(std::string(e.what()) == "w4.yaml:12:7: fake: too big");
    check_documented(e.code(), e.what());
    CHECK(e.code() == Code::budget);
    CHECK(e.hint() == "less");
  }
}

TEST_CASE("pipeline: wishes of rules are checked before there is a model") {
  const std::string head = "version: 1\nsteps: [assign_formats]\nrules:\n  - where: {op: Conv}\n    ";
  CHECK_NOTHROW(bind_steps(parse_recipe(head + "keep: float\n    weights: int4\n", "r.yaml")));
  const auto bound = [&](const char* wish) { bind_steps(parse_recipe(head + wish, "r.yaml")); };
  CHECK(message_of(Code::usage, [&] { bound("kep: float\n"); }) ==
        "r.yaml:5:5: unknown key \"kep\" in rule; did you mean \"keep\"?");
  CHECK(contains(message_of(Code::usage, [&] { bound("keep: int8\n"); }), "must be one of float"));
}

TEST_CASE("pipeline: a stop is heard between steps") {
  const PassDef def{"fake", "", "", Effect::lossy, 1, nullptr};
  Journal journal;
  Threads threads(1);
  Target target;
  Calibration calibration(nullptr, threads, journal);
  std::stop_source stop;
  int runs = 0;
  std::vector<BoundStep> steps;
  for (int i = 0; i < 2; ++i) {
    steps.push_back({&def, std::make_unique<Fake>([&](Graph&, PassContext&) { ++runs, stop.request_stop(); }), {}});
  }
  Graph g = graph_of(relu);
  PipelineOptions options;
  options.stop = stop.get_token();
  const std::string message = message_of(
      Code::interrupted, [&] { run_steps(g, steps, Recipe{}, target, calibration, journal, threads, options); });
  CHECK(contains(message, "interrupted"));
  CHECK(runs == 1);
}

TEST_CASE("pipeline: where selects nodes, and a pattern without match is a usage error") {
  PassBench bench;
  const Graph g = graph_of(relu);
  CHECK(
      contains(message_of(Code::usage, [&] { bench.run("fold_constants", g, {}, "no_such_node*"); }), "no_such_node"));
}

TEST_CASE("pipeline: unknown passes and knobs are usage errors with the nearest name") {
  Recipe recipe;
  recipe.steps.push_back({"fold_constant", "a", {}, std::nullopt, {"r.yaml", 2, 3}});
  try {
    bind_steps(recipe);
    FAIL("nothing was thrown");
  } catch (const Error& e) {
    CHECK(e.code() == Code::usage);
    CHECK(contains(e.what(), "r.yaml:2:3: there is no pass \"fold_constant\""));
    CHECK(contains(e.hint(), "fold_constants"));
  }
  recipe.steps[0].pass = "fold_constants";
  Setting knob;
  knob.value = std::string("true");
  recipe.steps[0].knobs.emplace_back("freeze_input", knob);
  CHECK(contains(message_of(Code::usage, [&] { bind_steps(recipe); }), "freeze_input"));
}

TEST_CASE("pipeline: every pass in the list has a name, a summary and a maker") {
  CHECK(passes().size() >= 4);
  for (const PassDef* def : passes()) {
    CHECK(find_pass(def->name) == def);
    CHECK(!def->summary.empty());
    CHECK(def->make() != nullptr);
  }
  CHECK(find_pass("no such pass") == nullptr);
}

TEST_CASE("pipeline: data on which the model never ran are the data's fault, not that of a pass") {
  const std::string text = "g (float[N] x) => (float[3] y) < float[3] k = {1.0, 2.0, 3.0} > { y = Add (x, k) }";
  const Graph g = graph_of(text);
  auto data = std::make_shared<FixedData>(std::vector<Feeds>{{{g.inputs[0], Tensor(DType::f32, {2})}}});
  const auto ran = run(
      Effect::equivalent,
      [](Graph& graph, PassContext&) {
        for (const ValueId v : graph.values()) {
          if (graph.is_constant(v)) graph[v].data.write<float>()[0] = 5;
        }
      },
      text, data);
  CHECK(ran->error.find("the model does not run on the calibration data") != std::string::npos);
  CHECK(ran->error.find("bug") == std::string::npos);
}
