// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"
#include "cli/job.h"
#include "cli/job_arguments.h"
#include "cli/rehearse.h"
#include "cli/report.h"
#include "formats/base/processor.h"

namespace qtool {
namespace {

class Quantize final : public Command {
  JobArguments job_;
  std::string ratchet_, locked_, cache_;
  bool no_clobber_ = false, rehearse_ = false, restart_ = false, portable_ = false;

 public:
  void arguments(Arguments& a) override {
    job_.declare(a);
    a.option("--ratchet", "REPORT", ratchet_, "--json report of the last model: nothing worse is published");
    a.option("--locked", "LOCK", locked_, "lock of an earlier run: other decisions than its are refused");
    a.flag("--rehearse", rehearse_, "only try the job on the first blocks of the model; nothing is published");
    a.option("--cache-dir", "DIR", cache_, "folder of results that runs share: what is known is not computed again");
    a.flag("--restart", restart_, "drop what an interrupted run left, and begin anew");
    a.flag("--portable", portable_, "compute floats so that every x86 processor gives the same bytes; slower");
    a.flag("--no-clobber", no_clobber_, "refuse to replace an existing file");
  }

  void begin() override {
    if (portable_) use_portable_floats();
  }

  void run(Console& console) override {
    JobRequest request = job_.request(console);
    request.ratchet = ratchet_;
    request.locked = locked_;
    request.no_clobber = no_clobber_;
    request.cache = cache_;
    request.restart = restart_;
    if (rehearse_) {
      const Rehearsal done = rehearse_job(request, console.journal());
      console.summary(rehearsal_text(request, done));
      return console.result(done.report);
    }
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
    "output path stays as it was. An interrupted run leaves what it had done in OUTPUT.resume, where the same command\n"
    "goes on.",
    "qtool quantize model.onnx --recipe int8_static --calib samples.npz --eval held_out.npz -o model.int8.onnx\n"
    "qtool quantize model.onnx --recipe int4_weights --set assign_formats.group=64\n"
    "qtool quantize model.onnx --recipe mine.yaml --set gate.top1_drop=0.005 --json report.json",
    true,
    false,
    make_command<Quantize>};

}  // namespace qtool
