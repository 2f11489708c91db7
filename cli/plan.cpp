// SPDX-License-Identifier: Apache-2.0
#include "cli/bill.h"
#include "cli/command.h"
#include "cli/job_arguments.h"

namespace qtool {
namespace {

class Plan final : public Command {
  JobArguments job_;
  std::int64_t samples_ = 0;

 public:
  void arguments(Arguments& a) override {
    job_.declare(a);
    a.number("--samples", samples_, 0, 1'000'000'000, "calibration samples to price where no data are named");
  }

  void run(Console& console) override {
    const JobRequest request = job_.request(console);
    const Bill bill = plan_job(request, console.journal(), {}, samples_);
    console.summary(bill_text(request, bill, console.journal().facts()));
    console.result(bill.report);
  }
};

}  // namespace

constinit const CommandDef command::plan{
    "plan",
    "tell what a recipe would make of a model, and what that takes, before any work is done",
    "Reads headers, small constants and the shapes of data alone. The same code decides as in quantize, so that "
    "formats\n"
    "and the bytes of the output are exact where they do not depend on data.",
    "qtool plan model.onnx --recipe int4_weights\n"
    "qtool plan model.onnx --recipe int8_static --calib samples.npz --json plan.json",
    false,
    false,
    make_command<Plan>};

}  // namespace qtool
