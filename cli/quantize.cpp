// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "cli/command.h"
#include "cli/job.h"
#include "cli/report.h"

namespace qtool {
namespace {

class Quantize final : public Command {
  std::string model_, recipe_, output_, calib_, eval_, target_, ratchet_, locked_;
  std::vector<std::string> set_;
  std::int64_t seed_ = 0;
  bool no_clobber_ = false;

 public:
  void arguments(Arguments& a) override {
    a.positional("MODEL", model_, "ONNX file to quantize");
    a.option("-r,--recipe", "RECIPE", recipe_, "shipped recipe by name, or a YAML file").required = true;
    a.option("-o,--output", "FILE", output_, "file to write (default: MODEL.RECIPE.onnx in the current folder)");
    a.option("--calib", "DATA", calib_, "calibration data: npz, npy, test_data_set folder, safetensors, images, jsonl");
    a.option("--eval", "DATA", eval_, "held-out data that the result is measured on");
    a.option("--target", "TARGET", target_, "runtime to quantize for (default: the recipe's)");
    a.option("--set", "STEP.KEY=VALUE", set_,
             "change one knob of the recipe; also data.KEY, eval.KEY, emit.KEY, gate.KEY; may be repeated");
    a.option("--ratchet", "REPORT", ratchet_, "--json report of the last model: nothing worse is published");
    a.option("--locked", "LOCK", locked_, "lock of an earlier run: other decisions than its are refused");
    a.number("--seed", seed_, 0, std::numeric_limits<std::int64_t>::max(), "seed of everything random (default: 0)");
    a.flag("--no-clobber", no_clobber_, "refuse to replace an existing file");
  }

  void run(Console& console) override {
    JobRequest request;
    request.model = model_;
    request.recipe = recipe_;
    request.output = output_;
    request.calib = calib_;
    request.eval = eval_;
    request.target = target_;
    request.set = set_;
    request.ratchet = ratchet_;
    request.locked = locked_;
    request.threads = console.threads();
    request.seed = static_cast<std::uint64_t>(seed_);
    request.no_clobber = no_clobber_;
    request.stop = console.stop();
    try {
      tell(console, request, run_job(request, console.journal()));
    } catch (const GateMissed& missed) {
      tell(console, request, missed.result);
      throw;
    }
  }

 private:
  static void tell(Console& console, const JobRequest& request, const JobResult& result) {
    console.summary(job_text(request, result, console.journal().facts()));
    console.result(result.report);
  }
};

}  // namespace

constinit const CommandDef command::quantize{
    "quantize",
    "quantize a model by a recipe and publish it when it passes the gate",
    "The written file is checked by an independent reader, run, and compared with the input model. On any failure the\n"
    "output path stays as it was.",
    "qtool quantize model.onnx --recipe int8_static --calib samples.npz --eval held_out.npz -o model.int8.onnx\n"
    "qtool quantize model.onnx --recipe int4_weights --set assign_formats.group=64\n"
    "qtool quantize model.onnx --recipe mine.yaml --set gate.top1_drop=0.005 --json report.json",
    true,
    false,
    make_command<Quantize>};

}  // namespace qtool
