// SPDX-License-Identifier: Apache-2.0
#include "cli/speed.h"

#include <algorithm>
#include <optional>

#include "calib/one_sample.h"
#include "cli/text.h"

namespace qtool {
namespace {

bool has_overridable_weights(const Graph& graph) {
  return std::any_of(graph.inputs.begin(), graph.inputs.end(), [&](ValueId v) { return graph.is_constant(v); });
}

constexpr double clearly = 1.02;  // estimates closer than this say nothing

}  // namespace

Latency tell_latency(const Graph& original, const Graph& decided, const Dataset* data, const Target& target,
                     Journal& journal) {
  const std::optional<Graph> sample = bound_to_one_sample(decided, data);
  if (!sample) return {};
  const Graph& bound = *sample;
  Latency latency = estimate_latency(bound, target, has_overridable_weights(original));
  for (const NodeLatency& n : latency.nodes) {
    if (n.as_decided <= n.in_float * clearly) continue;
    Json fact = Json::object();
    fact.set("node", label_of(bound, n.node)).set("op", bound[n.node].op);
    fact.set("float_us", n.in_float / 1e3).set("decided_us", n.as_decided / 1e3);
    fact.set("why", "the kernel of " + target.runtime + " for " + bound[n.node].op + " of this size is slower");
    journal.fact("slower", std::move(fact));
  }
  if (!latency.nodes.empty() && latency.as_decided > latency.in_float * clearly) {
    journal.warn("quantize", "on " + target.runtime + " " + target.version + " (" + target.instruction_set +
                                 ") the result will be slower than the float model: about " +
                                 fixed(latency.as_decided / 1e6, 3) + " ms instead of " +
                                 fixed(latency.in_float / 1e6, 3) +
                                 " ms on one thread; only_faster of assign_formats keeps such layers float");
  }
  return latency;
}

}  // namespace qtool
