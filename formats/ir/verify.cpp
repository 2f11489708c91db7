// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/verify.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "formats/base/error.h"
#include "formats/ir/quant.h"

namespace qtool {
namespace {

std::string node_text(const Node& node) { return "node \"" + node.name + "\" (" + node.op + ")"; }

bool all_known(const Shape& shape) {
  return std::all_of(shape.begin(), shape.end(), [](std::int64_t d) { return d >= 0; });
}

[[noreturn]] void refuse(const std::string& what) { throw Error(Code::input, what); }

class Verifier {
 public:
  /// `captured`: names of the outer values that the node which owns this graph captures; null: it has no owner.
  void check(const Graph& graph, const std::vector<std::string>* captured);

 private:
  void check_names(const Graph& graph, const std::vector<std::string>* captured);
  void check_provided(const Graph& graph);
  void check_constants(const Graph& graph);
  void check_quant(const Graph& graph, const Use& use, const std::string& where);
  void check_ranges(const Graph& graph, const Use& use, const std::string& here);
};

void Verifier::check_names(const Graph& graph, const std::vector<std::string>* captured) {
  std::set<ValueId> inner;
  std::set<std::string> outer;
  for (const Capture& c : graph.captures) {
    if (captured == nullptr || c.outer >= captured->size()) {
      refuse("graph \"" + graph.name + "\" captures a value that its node lacks");
    }
    inner.insert(c.inner);
    outer.insert((*captured)[c.outer]);
  }
  std::set<std::string> names;
  for (const ValueId v : graph.values()) {
    if (inner.contains(v)) continue;
    if (graph[v].name.empty()) refuse("a value of graph \"" + graph.name + "\" has no name");
    if (!names.insert(graph[v].name).second) {
      refuse("two values of graph \"" + graph.name + "\" have the name \"" + graph[v].name + "\"");
    }
    if (outer.contains(graph[v].name)) {
      refuse("value \"" + graph[v].name + "\" of graph \"" + graph.name +
             "\" hides the outer value that the graph captures");
    }
  }
}

void Verifier::check_provided(const Graph& graph) {
  enum : std::uint8_t { nothing, constant, input, capture, node };
  std::vector<std::uint8_t> provided(graph.value_slots(), nothing);
  const auto live = [&](ValueId v, const std::string& where) {
    if (!graph.alive(v)) refuse(where + " refers to a value that was removed");
  };
  for (const ValueId v : graph.values()) {
    if (graph.is_constant(v)) provided[static_cast<std::size_t>(v)] = constant;
  }
  std::set<ValueId> listed;
  for (const ValueId v : graph.inputs) {
    live(v, "an input of graph \"" + graph.name + "\"");
    if (!listed.insert(v).second) refuse("input \"" + graph[v].name + "\" is listed twice");
    provided[static_cast<std::size_t>(v)] = input;
  }
  const auto provide = [&](ValueId v, std::uint8_t by, const std::string& where) {
    live(v, where);
    auto& slot = provided[static_cast<std::size_t>(v)];
    if (slot == constant) refuse(where + " produces the constant \"" + graph[v].name + "\"");
    if (slot != nothing) refuse(where + " produces \"" + graph[v].name + "\", which is provided already");
    slot = by;
  };
  for (const Capture& c : graph.captures) provide(c.inner, capture, "a capture of graph \"" + graph.name + "\"");
  for (const NodeId n : graph.nodes()) {
    for (const ValueId v : graph[n].outputs) {
      if (v != ValueId::none) provide(v, node, node_text(graph[n]));
    }
  }
  const auto used = [&](const Use& use, const std::string& where) {
    if (use.value == ValueId::none) return;
    live(use.value, where);
    if (provided[static_cast<std::size_t>(use.value)] == nothing) {
      refuse(where + " reads \"" + graph[use.value].name + "\", which nothing provides");
    }
    if (use.quant) check_quant(graph, use, where);
  };
  for (const NodeId n : graph.nodes()) {
    for (const Use& use : graph[n].inputs) used(use, node_text(graph[n]));
    for (const Use& use : graph[n].captured) {
      if (use.value == ValueId::none) refuse(node_text(graph[n]) + " captures no value");
      used(use, node_text(graph[n]));
    }
  }
  for (const Use& use : graph.outputs) {
    if (use.value == ValueId::none) refuse("an output of graph \"" + graph.name + "\" is no value");
    used(use, "an output of graph \"" + graph.name + "\"");
  }
}

void Verifier::check_constants(const Graph& graph) {
  for (const ValueId v : graph.values()) {
    const Value& value = graph[v];
    if (value.data.empty()) continue;
    const Type& type = value.type;
    if (type.known_dtype && type.dtype != value.data.dtype()) {
      refuse("constant \"" + value.name + "\" holds " + std::string(name_of(value.data.dtype())) + " and is declared " +
             std::string(name_of(type.dtype)));
    }
    if (!type.known_rank) continue;
    bool fits = type.shape.size() == value.data.shape().size();
    for (std::size_t i = 0; fits && i < type.shape.size(); ++i) {
      fits = type.shape[i] < 0 || type.shape[i] == value.data.shape()[i];
    }
    if (!fits) {
      refuse("constant \"" + value.name + "\" has the shape " + to_string(value.data.shape()) + " and is declared " +
             to_string(type.shape));
    }
  }
}

void Verifier::check_ranges(const Graph& graph, const Use& use, const std::string& here) {
  const QuantSpec& spec = *use.quant;
  if (spec.ranges.empty()) return;
  const Value& value = graph[use.value];
  const Shape& x = value.data.empty() ? value.type.shape : value.data.shape();
  if (spec.range_axis < 0 || spec.range_axis >= static_cast<int>(x.size())) {
    refuse(here + " has index ranges along an axis that the value lacks");
  }
  const std::int64_t extent = x[static_cast<std::size_t>(spec.range_axis)];
  std::int64_t last = 0;
  for (const IndexRange& r : spec.ranges) {
    if (r.begin < last || r.end <= r.begin || (extent >= 0 && r.end > extent)) {
      refuse(here + " has index ranges that are not ascending parts of the axis");
    }
    if (r.quant && (r.quant->format == nullptr || !r.quant->ranges.empty())) {
      refuse(here + " has an index range without a number format or with ranges of its own");
    }
    last = r.end;
  }
}

void Verifier::check_quant(const Graph& graph, const Use& use, const std::string& where) {
  const QuantSpec& spec = *use.quant;
  const Value& value = graph[use.value];
  const std::string here = where + ": the quantization of \"" + value.name + "\"";
  if (spec.format == nullptr) refuse(here + " has no number format");
  if (!spec.scale.empty()) {
    if (spec.scale.dtype() != DType::f32) refuse(here + " has scales that are not f32");
    const std::int64_t second = spec.second_scale.count(), shared = spec.second_group, n = spec.scale.count();
    const bool levels = shared > 0 ? second == (n + shared - 1) / shared : second == 1 || second == n;
    if (!spec.second_scale.empty() && (!levels || spec.second_scale.dtype() != DType::f32)) {
      refuse(here + " has second scales that do not fit its scales");
    }
    if (!spec.scale_mean.empty() && (spec.scale_mean.dtype() != DType::f32 || spec.scale_mean.count() != 1)) {
      refuse(here + " has a mean of scales that is not one f32");
    }
    for (const float s : effective_scales(spec)) {
      if (!std::isfinite(s) || !(spec.alternative != nullptr ? s != 0 : s > 0)) {
        refuse(here + " has a scale that is not positive and finite");
      }
    }
    const Shape& x = value.data.empty() ? value.type.shape : value.data.shape();
    const bool known = !value.data.empty() || (value.type.known_rank && all_known(x));
    const bool axis_fits = spec.grain.kind == Grain::Kind::tensor || spec.grain.kind == Grain::Kind::blocks ||
                           (spec.grain.axis >= 0 && spec.grain.axis < static_cast<int>(x.size()));
    if (known && !axis_fits) refuse(here + " has an axis that the value lacks");
    if (known && spec.scale.shape() != scale_shape(spec.grain, x)) {
      refuse(here + " has scales of shape " + to_string(spec.scale.shape()) + ", the value needs " +
             to_string(scale_shape(spec.grain, x)));
    }
  }
  if (!spec.zero_point.empty() && spec.zero_point.shape() != spec.scale.shape()) {
    refuse(here + " has zero points that do not fit its scales");
  }
  check_ranges(graph, use, here);
  if (!spec.codes.empty() && !value.data.empty() && spec.codes.shape() != value.data.shape()) {
    refuse(here + " has codes of another shape than the value");
  }
}

void Verifier::check(const Graph& graph, const std::vector<std::string>* captured) {
  check_names(graph, captured);
  check_provided(graph);
  check_constants(graph);
  (void)graph.order();
  std::vector<std::string> names(graph.value_slots());
  for (const ValueId v : graph.values()) names[static_cast<std::size_t>(v)] = graph[v].name;
  for (const Capture& c : graph.captures) names[static_cast<std::size_t>(c.inner)] = (*captured)[c.outer];
  for (const NodeId n : graph.nodes()) {
    std::vector<std::string> outer;
    for (const Use& use : graph[n].captured) outer.push_back(names[static_cast<std::size_t>(use.value)]);
    for_each_body(graph[n], [&](const Graph& body) { check(body, &outer); });
  }
}

using Callee = std::tuple<std::string_view, std::string_view, std::string_view>;

void collect_calls(const Graph& graph, const std::map<Callee, std::size_t>& functions, std::set<std::size_t>& calls) {
  for (const NodeId n : graph.nodes()) {
    const Node& node = graph[n];
    const auto found = functions.find({node.domain, node.op, node.overload});
    if (found != functions.end()) calls.insert(found->second);
    for_each_body(node, [&](const Graph& body) { collect_calls(body, functions, calls); });
  }
}

/// Kahn's order of the call graph: what is left over calls itself.
void check_calls(const std::vector<Function>& functions) {
  std::map<Callee, std::size_t> numbers;
  for (std::size_t i = 0; i < functions.size(); ++i) {
    const Function& f = functions[i];
    if (!numbers.emplace(Callee{f.domain, f.name, f.overload}, i).second) {
      refuse("the local function \"" + f.name + "\" is defined twice");
    }
  }
  std::vector<std::vector<std::size_t>> callers(functions.size());
  std::vector<std::size_t> open(functions.size()), ready;
  for (std::size_t i = 0; i < functions.size(); ++i) {
    std::set<std::size_t> calls;
    if (functions[i].body) collect_calls(*functions[i].body, numbers, calls);
    for (const std::size_t callee : calls) callers[callee].push_back(i);
    open[i] = calls.size();
    if (calls.empty()) ready.push_back(i);
  }
  for (std::size_t i = 0; i < ready.size(); ++i) {
    for (const std::size_t caller : callers[ready[i]]) {
      if (--open[caller] == 0) ready.push_back(caller);
    }
  }
  if (ready.size() == functions.size()) return;
  const auto cyclic = std::find_if(open.begin(), open.end(), [](std::size_t n) { return n > 0; });
  refuse("the local function \"" + functions[static_cast<std::size_t>(cyclic - open.begin())].name +
         "\" calls itself, directly or through others");
}

}  // namespace

void verify(const Graph& graph) {
  Verifier().check(graph, nullptr);
  if (graph.model == nullptr) return;
  check_calls(graph.model->functions);
  for (const Function& function : graph.model->functions) {
    if (function.body) Verifier().check(*function.body, nullptr);
  }
}

}  // namespace qtool
