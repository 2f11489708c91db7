// SPDX-License-Identifier: Apache-2.0
// Bill: what a job would cost and give, told from headers before any work is done. The same code decides as in
// run_job(): the recipe's steps are planned (Pass::plan) and the emitter lowers the graph, on weights that are absent.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/job.h"
#include "cli/price.h"
#include "formats/base/memory.h"
#include "formats/file/headers.h"

namespace qtool {

/// A weight of the model, and what becomes of it.
struct BillTensor {
  std::string name, node;               // the first node that reads it
  Type type;                            // as the model has it
  std::string format;                   // "int4 in groups of 32"; empty: it stays as it is
  std::string decided_by;               // "assign_formats", a rule's place; where it stays float, empty
  std::string why_float;                // the reason; may be empty where nothing is to be said (biases)
  std::uint64_t before = 0, after = 0;  // bytes; codes, scales and zero points together
};

/// The bytes of the file: exact where least and most are equal.
struct BillBytes {
  std::uint64_t planned = 0, least = 0, most = 0;
};

struct Bill {
  std::filesystem::path output;
  std::uint64_t input_bytes = 0;
  BillBytes bytes;
  std::uint64_t disk_bytes = 0;  // free bytes that the folder of the output must have
  Price price;                   // time and memory without a ceiling
  std::optional<MemoryLimit> ceiling;
  std::uint64_t least_ceiling = 0;  // bytes; with less of it the job is refused
  std::vector<BillTensor> tensors;
  Latency latency;                        // of the result, by the target's rates
  std::array<double, 4> multiply_adds{};  // of one sample, by Precision; zeros where extents are not known
  std::vector<std::string> remarks;       // what the figures rest on, what is open
  Json report;                            // everything above and the journal, schema qtool.plan/1
};

/// Errors as of run_job(), but for those that need elements of weights or data. Data that are named tell the number of
/// samples and their shapes.
/// `samples`: of calibration data that are not named yet, for the price.
Bill plan_job(const JobRequest&, Journal&, const Headers& = {}, std::int64_t samples = 0);

/// The peak of the job's memory, under the ceiling where there is one.
std::uint64_t peak_bytes(const Bill&);

/// The bill for people.
std::string bill_text(const JobRequest&, const Bill&, const std::vector<Json>& facts);

}  // namespace qtool
