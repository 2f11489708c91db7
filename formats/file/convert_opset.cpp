// SPDX-License-Identifier: Apache-2.0
// Operator sets up and down, one version boundary at a time. At each boundary a node whose operator changed there is
// rewritten by its rule, then held against the signature of the version that it has now: attributes, numbers of
// inputs and outputs, element types as far as they are known. What does not fit is refused by name.
#include <algorithm>
#include <charconv>

#include "formats/base/error.h"
#include "formats/file/bodies.h"
#include "formats/file/opset.h"
#include "formats/file/reader.h"

namespace qtool {
namespace opset {
namespace {

constexpr std::int64_t first_version = 7, last_version = 28;

/// True when the attribute says what leaving it out says under `fact`.
bool is_default(const Attr& attr, const AttributeFact& fact) {
  const auto number = [&](auto zero) {
    std::from_chars(fact.text.data(), fact.text.data() + fact.text.size(), zero);
    return zero;
  };
  if (fact.kind == 'i') {
    const auto* v = std::get_if<std::int64_t>(&attr.value);
    return v != nullptr && *v == number(std::int64_t{0});
  }
  if (fact.kind == 'f') {
    const auto* v = std::get_if<float>(&attr.value);
    return v != nullptr && *v == static_cast<float>(number(0.0));
  }
  if (fact.kind == 's') {
    const auto* v = std::get_if<std::string>(&attr.value);
    return v != nullptr && *v == fact.text;
  }
  return false;
}

const AttributeFact* find(const std::vector<AttributeFact>& facts, std::string_view name) {
  for (const AttributeFact& fact : facts) {
    if (fact.name == name) return &fact;
  }
  return nullptr;
}

void hold_attributes(const Step& step, const Signature& from, const Signature& to) {
  const auto known = attributes_of(from), allowed = attributes_of(to);
  std::vector<std::string> dropped;
  for (const Attr& attr : step.node().attrs.all) {
    if (find(allowed, attr.name) != nullptr) continue;
    const AttributeFact* fact = find(known, attr.name);
    if (fact == nullptr) continue;  // foreign to both: what it was, it stays
    if (!is_default(attr, *fact)) {
      step.refuse("has the attribute \"" + attr.name + "\", which version " + std::to_string(to.since) + " lacks");
    }
    dropped.push_back(attr.name);
  }
  for (const std::string& name : dropped) step.node().attrs.erase(name);
  for (const AttributeFact& fact : allowed) {
    if (fact.required && !step.node().attrs.has(fact.name)) {
      step.refuse("lacks the attribute \"" + std::string(fact.name) + "\", which version " + std::to_string(to.since) +
                  " wants");
    }
  }
}

template <class List, class IsNone>
std::int64_t present(const List& list, IsNone is_none) {
  auto n = static_cast<std::int64_t>(list.size());
  while (n > 0 && is_none(list[static_cast<std::size_t>(n) - 1])) --n;
  return n;
}

/// The element type that an attribute gives to output 0, for the operators that have one.
std::optional<DType> stated_output(const Node& node) {
  for (const char* name : {"to", "dtype", "output_dtype", "output_datatype"}) {
    const Attr* attr = node.attrs.find(name);
    const auto* number = attr == nullptr ? nullptr : std::get_if<std::int64_t>(&attr->value);
    if (number != nullptr && *number > 0 && *number < 64) {
      return dtype_of_onnx(static_cast<std::int32_t>(*number));
    }
  }
  if (node.op == "Constant" || node.op == "ConstantOfShape") {
    const Attr* attr = node.attrs.find("value");
    const auto* value = attr == nullptr ? nullptr : std::get_if<Tensor>(&attr->value);
    if (value != nullptr) return value->dtype();
  }
  return std::nullopt;
}

void hold_types(const Step& step, const Signature& to) {
  const Node& node = step.node();
  const auto hold = [&](std::optional<DType> dtype, std::string_view masks, std::size_t i, const char* verb) {
    if (dtype && (types_of(masks, i) & type_bit(*dtype)) == 0) {
      step.refuse(std::string(verb) + " " + std::string(name_of(*dtype)) + ", which version " +
                  std::to_string(to.since) + " does not");
    }
  };
  const auto declared = [&](ValueId v) -> std::optional<DType> {
    if (v == ValueId::none) return std::nullopt;
    const Value& value = step.graph()[v];
    if (!value.data.empty()) return value.data.dtype();
    if (value.type.known_dtype && value.type.kind == TypeKind::tensor) return value.type.dtype;
    return std::nullopt;
  };
  for (std::size_t i = 0; i < node.inputs.size(); ++i) hold(declared(node.inputs[i].value), to.inputs, i, "reads");
  for (std::size_t i = 0; i < node.outputs.size(); ++i) hold(declared(node.outputs[i]), to.outputs, i, "gives");
  hold(stated_output(node), to.outputs, 0, "gives");
}

void hold(const Step& step, const Signature& from, const Signature& to) {
  hold_attributes(step, from, to);
  Node& node = step.node();
  const std::int64_t inputs = present(node.inputs, [](const Use& u) { return u.value == ValueId::none; });
  const std::int64_t outputs = present(node.outputs, [](ValueId v) { return v == ValueId::none; });
  if (inputs < to.least_inputs || inputs > to.most_inputs) {
    step.refuse("has " + std::to_string(inputs) + " inputs, which version " + std::to_string(to.since) +
                " does not take");
  }
  if (outputs > to.most_outputs) {
    step.refuse("has " + std::to_string(outputs) + " outputs, which version " + std::to_string(to.since) +
                " does not give");
  }
  if (static_cast<std::int64_t>(node.inputs.size()) > to.most_inputs)
    node.inputs.resize(static_cast<std::size_t>(inputs));
  if (static_cast<std::int64_t>(node.outputs.size()) > to.most_outputs) {
    node.outputs.resize(static_cast<std::size_t>(outputs));
  }
  hold_types(step, to);
}

class Conversion {
 public:
  explicit Conversion(Graph& graph) { collect(graph); }
  /// Crosses the boundary between version - 1 and version.
  void cross(const Level& level, std::int64_t version, bool up);

 private:
  void collect(const Graph& graph);
  void cross(const Step& step, std::int64_t version, bool up);
  std::set<std::string> names_;

 public:
  std::set<std::string>& names() { return names_; }
};

void Conversion::collect(const Graph& graph) {
  for (const ValueId v : graph.values()) names_.insert(graph[v].name);
  for (const NodeId n : graph.nodes()) {
    names_.insert(graph[n].name);
    for_each_body(graph[n], [&](const Graph& body) { collect(body); });
  }
}

void Conversion::cross(const Step& step, std::int64_t version, bool up) {
  constexpr std::int64_t last_experimental = 9;
  const Experimental* experimental = find_experimental(step.node().op);
  if (experimental && up && version - 1 <= last_experimental) experimental->rewrite(step);
  const std::string op = step.node().op;
  if (!known_operator(op)) step.refuse("is no operator of ai.onnx that qtool knows");
  const Signature* from = find_signature(op, up ? version - 1 : version);
  if (from == nullptr) step.refuse("does not exist in operator set " + std::to_string(up ? version - 1 : version));
  const Signature* to = find_signature(op, up ? version : version - 1);
  if (from == to) return;  // nothing changed here
  for (const auto& rules : {signature_rules(), meaning_rules()}) {
    for (const Rule& rule : rules) {
      if (rule.op != op || rule.version != version) continue;
      if (up ? rule.up != nullptr : rule.down != nullptr) (up ? rule.up : rule.down)(step);
    }
  }
  if (step.node().op != op) {  // renamed: the signature of its new name holds
    to = find_signature(step.node().op, up ? version : version - 1);
    from = to;
  }
  if (to == nullptr || to->deprecated) {
    step.refuse("does not exist in operator set " + std::to_string(up ? version : version - 1));
  }
  hold(step, *from, *to);
}

void Conversion::cross(const Level& level, std::int64_t version, bool up) {
  for (const NodeId n : level.graph.nodes()) {
    if (level.graph[n].domain.empty()) cross(Step(level, n), version, up);
    // Bodies see their node as it is now; constants that rules add to a body stay in it.
    const std::vector<Use> captured = level.graph[n].captured;
    Node owner;
    owner.captured = captured;
    Node& node = level.graph[n];
    edit_bodies(node, [&](Graph& body) {
      const Level inner{body, names_, &level, &owner};
      cross(inner, version, up);
    });
  }
}

/// The IR version that introduced what an operator set may use (onnx, docs/Versioning.md).
std::int64_t least_ir(std::int64_t version) {
  constexpr std::pair<std::int64_t, std::int64_t> releases[] = {
      {28, 14}, {25, 13}, {24, 12}, {23, 11}, {21, 10}, {19, 9}, {15, 8}, {12, 7}, {11, 6}, {10, 5}, {9, 4}};
  for (const auto& [opset, ir] : releases) {
    if (version >= opset) return ir;
  }
  return 3;
}

}  // namespace
}  // namespace opset

void convert_opset(Graph& graph, std::int64_t version) {
  using namespace opset;
  if (version < first_version || version > last_version) {
    throw Error(Code::input, "operator set " + std::to_string(version) + " is not known, " +
                                 std::to_string(first_version) + " to " + std::to_string(last_version) + " are");
  }
  const std::int64_t now = graph.opset();
  if (now == version) return;
  if (now == 0) throw Error(Code::input, "the model imports no standard operator set that could be converted");
  if (!graph.model->functions.empty()) {
    throw Error(Code::input, "the model has local functions, which have operator sets of their own",
                "inline the functions first");
  }
  Graph result = graph;
  Conversion conversion(result);
  const Level top{result, conversion.names(), nullptr, nullptr};
  for (std::int64_t v = now; v < version; ++v) conversion.cross(top, v + 1, true);
  for (std::int64_t v = now; v > version; --v) conversion.cross(top, v, false);
  auto model = std::make_shared<ModelInfo>(*graph.model);
  model->opsets[""] = version;
  model->ir_version = std::max(model->ir_version, least_ir(version));
  set_model(result, model);
  graph = std::move(result);
}

}  // namespace qtool
