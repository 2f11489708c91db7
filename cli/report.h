// SPDX-License-Identifier: Apache-2.0
// What is told at the end: as JSON for programs and as tables for people, from the comparison and the journal alone.
#pragma once

#include <string>
#include <vector>

#include "cli/gate.h"
#include "cli/job.h"
#include "recipes/reader/recipe.h"

namespace qtool {

/// The whole report of a job.
Json job_report(const JobRequest&, const Recipe&, const JobResult&, const std::vector<GateLimit>& gate,
                const std::vector<GateLimit>& ratchet, const std::vector<Json>& facts);

/// "changes", "emitted", "skips", "slower" and "warnings" out of the facts.
void add_decisions(Json& report, const std::vector<Json>& facts);
/// Null without nodes.
Json latency_json(const Latency&);

/// Per output: SQNR, cosine, largest error, and for class scores agreement, KL and accuracy.
std::string comparison_text(const Comparison&);
/// The layers with the lowest SQNR, under `title`; empty when none were compared or all are equal.
std::string worst_layers_text(const Comparison&, const std::string& title);
/// What runs on which kernel, what stays float and why, each reason with its count. Facts as the journal has them.
std::string decisions_text(const std::vector<Json>& facts);

/// The summary of `qtool quantize`.
std::string job_text(const JobRequest&, const JobResult&, const std::vector<Json>& facts);

}  // namespace qtool
