// SPDX-License-Identifier: Apache-2.0
#include "cli/job_arguments.h"

#include <limits>

#include "formats/base/memory.h"

namespace qtool {

void JobArguments::declare(Arguments& a) {
  a.positional("MODEL", model_, "ONNX file to quantize");
  a.option("-r,--recipe", "RECIPE", recipe_, "shipped recipe by name, or a YAML file").required = true;
  a.option("-o,--output", "FILE", output_, "file to write (default: MODEL.RECIPE.onnx in the current folder)");
  a.option("--calib", "DATA", calib_, "calibration data: npz, npy, test_data_set folder, safetensors, images, jsonl");
  a.option("--eval", "DATA", eval_, "held-out data that the result is measured on");
  a.option("--target", "TARGET", target_, "runtime to quantize for (default: the recipe's)");
  a.option("--set", "STEP.KEY=VALUE", set_,
           "change one knob of the recipe; also data.KEY, eval.KEY, emit.KEY, gate.KEY; may be repeated");
  a.option("--max-ram", "SIZE", max_ram_,
           "memory to keep to, like 2G; what is above it lies in files beside the output (default: the container's)");
  a.number("--seed", seed_, 0, std::numeric_limits<std::int64_t>::max(), "seed of everything random (default: 0)");
}

JobRequest JobArguments::request(const Console& console) const {
  JobRequest request;
  request.model = model_;
  request.recipe = recipe_;
  request.output = output_;
  request.calib = calib_;
  request.eval = eval_;
  request.target = target_;
  request.set = set_;
  request.threads = console.threads();
  if (!max_ram_.empty()) request.max_ram = parse_size(max_ram_, "--max-ram");
  request.seed = static_cast<std::uint64_t>(seed_);
  request.stop = console.stop();
  return request;
}

}  // namespace qtool
