// SPDX-License-Identifier: Apache-2.0
#include "passes/changes.h"

#include <algorithm>
#include <cstring>

#include "formats/ir/quant.h"

namespace qtool {
namespace {

bool same(const Tensor& a, const Tensor& b) { return a.same_storage(b) || a.same_bytes(b); }

bool same(const Type& a, const Type& b) {
  return a.kind == b.kind && a.known_dtype == b.known_dtype && (!a.known_dtype || a.dtype == b.dtype) &&
         a.known_rank == b.known_rank && (!a.known_rank || a.shape == b.shape);
}

bool same_reference(const Graph& a, const Graph& b);

bool same(const std::shared_ptr<const Graph>& a, const std::shared_ptr<const Graph>& b) {
  return a == b || (a && b && same_reference(*a, *b));
}
bool same(std::int64_t a, std::int64_t b) { return a == b; }
bool same(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }
bool same(const std::string& a, const std::string& b) { return a == b; }
bool same(const AttrRef& a, const AttrRef& b) { return a.name == b.name; }
bool same(const OpaqueAttr&, const OpaqueAttr&) { return true; }
bool same(const Attr& a, const Attr& b);

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const T& x, const T& y) { return same(x, y); });
}

bool same(const Attr& a, const Attr& b) {
  if (a.name != b.name || a.value.index() != b.value.index() || a.extras != b.extras) return false;
  return std::visit([&](const auto& x) { return same(x, std::get<std::decay_t<decltype(x)>>(b.value)); }, a.value);
}

bool same_values(const std::vector<Use>& a, const std::vector<Use>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Use& x, const Use& y) { return x.value == y.value; });
}

bool same(const Node& a, const Node& b) {
  return a.name == b.name && a.op == b.op && a.domain == b.domain && a.overload == b.overload &&
         same<Attr>(a.attrs.all, b.attrs.all) && same_values(a.inputs, b.inputs) && a.outputs == b.outputs &&
         same_values(a.captured, b.captured) && a.extras == b.extras;
}

std::string words(const Node& node) { return "node \"" + node.name + "\" (" + node.op + ")"; }
std::string words(const Value& value) { return (value.data.empty() ? "value \"" : "constant \"") + value.name + "\""; }

void note(std::string& first, std::string text) {
  if (first.empty()) first = std::move(text);
}

bool same_captures(const Graph& a, const Graph& b) {
  return std::equal(a.captures.begin(), a.captures.end(), b.captures.begin(), b.captures.end(),
                    [](const Capture& x, const Capture& y) { return x.inner == y.inner && x.outer == y.outer; });
}

/// Bodies are compared whole: a decision inside a body is a change of the node that owns it.
bool same_reference(const Graph& a, const Graph& b) {
  const Changes c = changes_between(a, b);
  return !c.reference() && c.quants_changed == 0 && same_captures(a, b);
}

void compare_quants(const Node& a, const Node& b, Changes& c) {
  const auto compare = [&](const std::vector<Use>& x, const std::vector<Use>& y, const char* what) {
    for (std::size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (same_decision(x[i].quant, y[i].quant)) continue;
      ++c.quants_changed;
      note(c.first_quant, std::string("the decision on ") + what + " " + std::to_string(i) + " of " + words(a));
    }
  };
  compare(a.inputs, b.inputs, "input");
  compare(a.captured, b.captured, "captured value");
}

void compare_nodes(const Graph& before, const Graph& after, Changes& c) {
  for (std::size_t i = 0; i < std::max(before.node_slots(), after.node_slots()); ++i) {
    const auto id = static_cast<NodeId>(i);
    const bool was = before.alive(id), is = after.alive(id);
    if (was && !is) {
      ++c.nodes_removed;
      note(c.first, words(before[id]) + " was removed");
    } else if (!was && is) {
      ++c.nodes_added;
      note(c.first, words(after[id]) + " was added");
    } else if (was && is) {
      if (!same(before[id], after[id])) {
        ++c.nodes_changed;
        note(c.first, words(before[id]) + " was changed");
      }
      compare_quants(before[id], after[id], c);
    }
  }
}

void compare_values(const Graph& before, const Graph& after, Changes& c) {
  for (std::size_t i = 0; i < std::max(before.value_slots(), after.value_slots()); ++i) {
    const auto id = static_cast<ValueId>(i);
    const bool was = before.alive(id), is = after.alive(id);
    const bool had = was && !before[id].data.empty(), has = is && !after[id].data.empty();
    if (had && !has) {
      ++c.constants_removed;
      note(c.first, words(before[id]) + " was removed");
    } else if (!had && has) {
      ++c.constants_added;
      note(c.first, words(after[id]) + " was added");
    } else if (had && has && !same(before[id].data, after[id].data)) {
      ++c.constants_changed;
      note(c.first, words(before[id]) + " has other elements");
    }
    if (was && is && (before[id].name != after[id].name || !same(before[id].type, after[id].type))) {
      ++c.values_changed;
      note(c.first, words(before[id]) + " has another name or type");
    }
  }
}

}  // namespace

std::optional<std::vector<ValueId>> folded_between(const Graph& before, const Graph& after) {
  const Changes c = changes_between(before, after);
  if (c.nodes_added + c.nodes_changed + c.constants_changed > 0 || c.interface_changed) return std::nullopt;
  std::vector<ValueId> folded;
  for (const ValueId v : after.values()) {
    if (!after.is_constant(v)) continue;
    if (!before.alive(v)) return std::nullopt;
    if (!before.is_constant(v)) folded.push_back(v);
  }
  return folded;
}

bool same_attribute(const Attr& a, const Attr& b) { return same(a, b); }

bool same_decision(const Quant& a, const Quant& b) {
  if (a == b) return true;
  if (!a || !b) return false;
  const auto all = tensors_of(*a), others = tensors_of(*b);
  return a->format == b->format && a->scale_format == b->scale_format && a->alternative == b->alternative &&
         a->grain == b->grain && a->rule == b->rule && a->second_group == b->second_group &&
         a->symmetric == b->symmetric && a->narrow == b->narrow && a->dynamic == b->dynamic &&
         a->is_bias == b->is_bias && a->range_axis == b->range_axis &&
         std::equal(all.begin(), all.end(), others.begin(),
                    [](const Tensor* x, const Tensor* y) { return same(*x, *y); }) &&
         std::equal(a->ranges.begin(), a->ranges.end(), b->ranges.begin(), b->ranges.end(),
                    [](const IndexRange& x, const IndexRange& y) {
                      return x.begin == y.begin && x.end == y.end && same_decision(x.quant, y.quant);
                    });
}

Changes changes_between(const Graph& before, const Graph& after) {
  Changes c;
  compare_nodes(before, after, c);
  compare_values(before, after, c);
  c.interface_changed = before.inputs != after.inputs || !same_values(before.outputs, after.outputs);
  if (c.interface_changed) note(c.first, "the list of graph inputs or outputs was changed");
  if (before.model != after.model) note(c.first, "the model's header (opsets, functions, metadata) was changed");
  for (std::size_t i = 0; i < std::min(before.outputs.size(), after.outputs.size()); ++i) {
    if (same_decision(before.outputs[i].quant, after.outputs[i].quant)) continue;
    ++c.quants_changed;
    note(c.first_quant, "the decision on graph output " + std::to_string(i));
  }
  return c;
}

Json Changes::json() const {
  Json j = Json::object();
  const auto put = [&](const char* name, std::int64_t n) {
    if (n != 0) j.set(name, n);
  };
  put("nodes_added", nodes_added);
  put("nodes_removed", nodes_removed);
  put("nodes_changed", nodes_changed);
  put("constants_added", constants_added);
  put("constants_removed", constants_removed);
  put("constants_changed", constants_changed);
  put("values_changed", values_changed);
  put("quants_changed", quants_changed);
  return j;
}

std::string interface_difference(const Graph& before, const Graph& after) {
  const auto differs = [&](ValueId a, ValueId b) {
    return a != b || before[a].name != after[b].name || !same(before[a].type, after[b].type);
  };
  std::vector<ValueId> inputs_before, inputs_after;
  std::copy_if(before.inputs.begin(), before.inputs.end(), std::back_inserter(inputs_before),
               [&](ValueId v) { return !before.is_constant(v); });
  std::copy_if(after.inputs.begin(), after.inputs.end(), std::back_inserter(inputs_after),
               [&](ValueId v) { return !after.is_constant(v); });
  if (inputs_before.size() != inputs_after.size()) return "the number of graph inputs";
  for (std::size_t i = 0; i < inputs_before.size(); ++i) {
    if (differs(inputs_before[i], inputs_after[i])) {
      return "name, type or place of graph input \"" + before[inputs_before[i]].name + "\"";
    }
  }
  if (before.outputs.size() != after.outputs.size()) return "the number of graph outputs";
  for (std::size_t i = 0; i < before.outputs.size(); ++i) {
    const Value& a = before[before.outputs[i].value];
    const Value& b = after[after.outputs[i].value];
    if (a.name != b.name || !same(a.type, b.type)) return "name, type or place of graph output \"" + a.name + "\"";
  }
  return {};
}

}  // namespace qtool
