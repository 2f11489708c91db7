// SPDX-License-Identifier: Apache-2.0
// The rows of a bill: what becomes of each float constant of the model.
#include "cli/bill_tensors.h"

#include <map>

#include "formats/ir/quant.h"
#include "recipes/reader/where.h"

namespace qtool {
namespace {

std::string format_of(const QuantSpec& spec) {
  if (spec.is_bias) return "int32";
  const std::string name(spec.format->name);
  switch (spec.grain.kind) {
    case Grain::Kind::tensor: return name + ", one scale";
    case Grain::Kind::axis: return name + ", a scale per channel";
    case Grain::Kind::groups: return name + ", groups of " + std::to_string(spec.grain.group);
    case Grain::Kind::blocks: return name + ", blocks";
  }
  return name;
}

/// Bytes of the constants of `lowered` by the constant of `decided` that they stand for: itself, or the one whose name
/// theirs was made of ("w_quantized", "w_scale_1").
std::map<ValueId, std::uint64_t> bytes_by_origin(const Graph& decided, const Graph& lowered) {
  std::map<std::string, ValueId, std::less<>> names;
  for (const ValueId v : decided.values()) names.emplace(decided[v].name, v);
  std::map<ValueId, std::uint64_t> bytes;
  for (const ValueId v : lowered.values()) {
    if (!lowered.is_constant(v)) continue;
    std::string_view stem = lowered[v].name;
    auto found = names.find(stem);
    while (found == names.end() && stem.rfind('_') != std::string_view::npos) {
      stem = stem.substr(0, stem.rfind('_'));
      found = names.find(stem);
    }
    if (found != names.end()) bytes[found->second] += lowered[v].data.size_bytes();
  }
  return bytes;
}

std::string member(const Json& fact, std::string_view name) {
  const Json* value = fact.find(name);
  return value && value->is_string() ? value->as_string() : std::string();
}

}  // namespace

std::vector<BillTensor> bill_tensors(const Graph& decided, const Graph& lowered, const Forecast& forecast,
                                     const std::string& decider, const std::vector<Json>& facts) {
  std::map<std::string, std::string, std::less<>> skipped;
  for (const Json& fact : facts) {
    if (member(fact, "kind") == "skip") skipped.emplace(member(fact, "node"), member(fact, "why"));
  }
  std::map<NodeId, std::string> rules;
  for (const ForecastRule& rule : forecast.rules) rules.emplace(rule.node, rule.place);
  const Links links(decided);
  const auto bytes = bytes_by_origin(decided, lowered);
  std::vector<BillTensor> rows;
  for (const ValueId v : decided.values()) {
    const Value& value = decided[v];
    if (!decided.is_constant(v) || !is_float(value.data.dtype())) continue;
    BillTensor row;
    row.name = value.name;
    row.type.dtype = value.data.dtype();
    row.type.shape = value.data.shape();
    row.type.known_dtype = row.type.known_rank = true;
    row.before = value.data.size_bytes();
    const auto after = bytes.find(v);
    row.after = after == bytes.end() ? 0 : after->second;
    for (const Links::Consumer& c : links.consumers(v)) {
      if (c.node == NodeId::none) continue;
      const std::string node(label_of(decided, c.node));
      if (row.node.empty()) row.node = node;
      const auto rule = rules.find(c.node);
      if (const Quant& quant = use_at(decided, c).quant) {
        row.format = format_of(*quant);
        row.decided_by = rule == rules.end() ? decider : "rule at " + rule->second;
        row.why_float.clear();
        break;
      }
      const auto why = skipped.find(node);
      if (why == skipped.end() || !row.why_float.empty()) continue;
      row.why_float = why->second;
      if (rule != rules.end()) row.why_float += " (rule at " + rule->second + ")";
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace qtool
