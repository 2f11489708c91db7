// SPDX-License-Identifier: Apache-2.0
// Rehearsal: the whole job on the first blocks of the model, from reading to the comparison, in a folder that is
// removed afterwards. What breaks in a job of hours breaks here in seconds.
#pragma once

#include "cli/bill.h"
#include "cli/job.h"

namespace qtool {

struct Rehearsal {
  std::int64_t layers = 0, all_layers = 0;  // with weights: in the cut, in the model
  double seconds = 0;                       // the job on the cut
  std::uint64_t output_bytes = 0;           // of the cut
  bool whole = false;                       // the model has no waist, and was taken whole
  Bill bill;                                // of the whole job
  Json report;                              // schema qtool.rehearsal/1
};

/// Errors as of run_job(). Nothing is published. The gate is not judged: its limits are for the whole model.
Rehearsal rehearse_job(const JobRequest&, Journal&);

std::string rehearsal_text(const JobRequest&, const Rehearsal&);

}  // namespace qtool
