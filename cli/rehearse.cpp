// SPDX-License-Identifier: Apache-2.0
#include "cli/rehearse.h"

#include <chrono>

#include "cli/job_parts.h"
#include "cli/temporary_folder.h"
#include "cli/text.h"
#include "formats/base/error.h"
#include "formats/file/reader.h"
#include "passes/first_blocks.h"

namespace qtool {
Rehearsal rehearse_job(const JobRequest& request, Journal& journal) {
  const auto start = std::chrono::steady_clock::now();
  Rehearsal done;
  Journal quiet;
  done.bill = plan_job(request, quiet);
  {
    JobSetup setup = set_up_job(request);
    require_data(request, setup);
  }
  const TemporaryFolder scratch("rehearsal");
  JobRequest part = request;
  part.model = scratch.path() / request.model.filename();
  part.output = scratch.path() / ("rehearsed." + request.model.stem().string() + ".onnx");
  part.rehearsal = true;
  part.ratchet.clear();
  part.cache.clear();
  part.locked.clear();
  {
    const Graph graph = read_model(request.model);
    const std::optional<Graph> cut = first_blocks(graph);
    done.whole = !cut;
    done.all_layers = weighted_nodes(graph);
    done.layers = cut ? weighted_nodes(*cut) : done.all_layers;
    write_onnx(cut ? *cut : graph, part.model, {.sync = Sync::later});
  }
  done.output_bytes = run_job(part, journal).output_bytes;
  done.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  Json report = Json::object();
  report.set("schema", "qtool.rehearsal/1").set("qtool", QTOOL_VERSION).set("command", "quantize");
  report.set("model", request.model.string()).set("layers", done.layers).set("all_layers", done.all_layers);
  report.set("seconds", done.seconds).set("plan", done.bill.report);
  done.report = std::move(report);
  return done;
}

std::string rehearsal_text(const JobRequest& request, const Rehearsal& done) {
  std::string text = request.model.string() + ": rehearsed on ";
  text += done.whole ? "the whole model, which has no waist to be cut at"
                     : "its first " + std::to_string(done.layers) + " of " + std::to_string(done.all_layers) +
                           " layers with weights";
  text += "\nread, all steps, emitter, independent check and comparison worked, in " + significant(done.seconds, 2) +
          " s; nothing was published\n";
  const Bill& bill = done.bill;
  return text + "the whole job: about " + significant(bill.price.seconds, 2) + " s, " + bytes_text(peak_bytes(bill)) +
         " of memory, " + bytes_text(bill.bytes.planned) + " on disk\n";
}

}  // namespace qtool
