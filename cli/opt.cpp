// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>

#include "backends/backend.h"
#include "backends/cpu/cpu.h"
#include "cli/command.h"
#include "cli/data_options.h"
#include "cli/job.h"
#include "cli/staging.h"
#include "formats/base/error.h"
#include "formats/file/reader.h"
#include "formats/ir/text.h"
#include "passes/pipeline.h"

namespace qtool {
namespace {

class Opt final : public Command {
  std::string model_, output_, calib_, target_;
  std::vector<std::string> passes_, set_;
  std::int64_t seed_ = 0;
  bool no_clobber_ = false;

 public:
  void arguments(Arguments& a) override {
    a.positional("MODEL", model_, "ONNX file");
    a.option("--pass", "PASS", passes_, "pass to run; may be repeated, order counts (default: none, a plain copy)");
    a.option("-o,--output", "FILE", output_, "file to write; - prints the graph as text").required = true;
    a.option("--set", "PASS.KEY=VALUE", set_, "change one knob; may be repeated");
    a.option("--calib", "DATA", calib_, "data for passes that measure");
    a.option("--target", "TARGET", target_, "target for passes that ask what it carries (default: the first)");
    a.number("--seed", seed_, 0, std::numeric_limits<std::int64_t>::max(), "seed of everything random (default: 0)");
    a.flag("--no-clobber", no_clobber_, "refuse to replace an existing file");
  }

  void run(Console& console) override {
    const Recipe recipe = recipe_of();
    std::vector<BoundStep> steps = bind_steps(recipe);
    const BackendDef& backend = backend_named(target_.empty() ? std::string(backends().front()->name) : target_);
    if (output_ != "-") check_output(model_, output_, no_clobber_);
    Graph graph = read_model(model_);
    run_on(graph, recipe, steps, backend.target(), console);
    if (output_ == "-") return console.print(print_graph(graph));
    if (has_decisions(graph)) {
      console.warn(
          "the passes decided how values are quantized, which a plain ONNX file cannot hold; `qtool quantize` "
          "writes decisions, -o - prints them");
    }
    Staging staging(output_);
    write_onnx(graph, staging.file(), {.sync = Sync::later});
    staging.publish(no_clobber_);
  }

 private:
  Recipe recipe_of() const {
    Recipe recipe;
    recipe.name = "opt";
    for (const std::string& pass : passes_) {
      Step step;
      step.pass = step.id = pass;
      const auto same =
          std::count_if(recipe.steps.begin(), recipe.steps.end(), [&](const Step& s) { return s.pass == pass; });
      if (same > 0) step.id += "_" + std::to_string(same + 1);
      recipe.steps.push_back(std::move(step));
    }
    for (const std::string& assignment : set_) set_knob(recipe, assignment);
    return recipe;
  }

  void run_on(Graph& graph, const Recipe& recipe, std::vector<BoundStep>& steps, const Target& target,
              Console& console) const {
    if (steps.empty()) return;
    Threads threads(console.threads(), &best_integer_kernels(), console.stop());
    std::shared_ptr<const Dataset> data;
    if (!calib_.empty()) data = open_dataset(graph, data_from(calib_));
    Calibration calibration(data, threads, console.journal());
    run_steps(graph, steps, recipe, target, calibration, console.journal(), threads,
              {static_cast<std::uint64_t>(seed_), console.stop()});
  }

  static bool has_decisions(const Graph& graph) {
    for (const NodeId id : graph.nodes()) {
      for (const Use& use : graph[id].inputs) {
        if (use.quant) return true;
      }
    }
    return std::any_of(graph.outputs.begin(), graph.outputs.end(), [](const Use& use) { return use.quant != nullptr; });
  }
};

}  // namespace

constinit const CommandDef command::opt{
    "opt",
    "run single passes on a model; without one, copy it",
    "",
    "qtool opt model.onnx --pass fold_constants --pass fold_batch_norm -o folded.onnx\n"
    "qtool opt model.onnx --pass fold_constants -o - | less",
    true,
    false,
    make_command<Opt>};

}  // namespace qtool
