// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "formats/base/error.h"
#include "formats/file/opset.h"

namespace qtool::opset {
namespace {

std::string fresh(std::set<std::string>& names, const std::string& stem) {
  std::string candidate = stem;
  for (int i = 1; !names.insert(candidate).second; ++i) candidate = stem + "_" + std::to_string(i);
  return candidate;
}

/// The name that what is added for `node` starts with: its own, or that of its first output.
std::string stem_of(const Graph& graph, const Node& node) {
  if (!node.name.empty()) return node.name;
  for (const ValueId v : node.outputs) {
    if (v != ValueId::none) return graph[v].name;
  }
  return node.op;
}

NodeId producer_of(const Graph& graph, ValueId v) {
  for (const NodeId n : graph.nodes()) {
    const auto& outputs = graph[n].outputs;
    if (std::find(outputs.begin(), outputs.end(), v) != outputs.end()) return n;
  }
  return NodeId::none;
}

/// Element types that outputs have whatever the inputs are. None: that of an input.
std::optional<DType> fixed_output(const Node& node, std::size_t output) {
  static constexpr std::string_view longs[] = {"Shape", "Size", "NonZero", "ArgMax", "ArgMin", "NonMaxSuppression"};
  static constexpr std::string_view bools[] = {
      "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "And",
      "Or",    "Xor",     "RegexFullMatch"};
  if (std::find(std::begin(longs), std::end(longs), node.op) != std::end(longs)) return DType::i64;
  if (std::find(std::begin(bools), std::end(bools), node.op) != std::end(bools)) return DType::boolean;
  if (node.op == "TopK" && output == 1) return DType::i64;
  if (node.op == "ConstantOfShape") {
    const Tensor value = node.attrs.get("value", Tensor());
    return value.empty() ? DType::f32 : value.dtype();
  }
  return std::nullopt;
}

/// Operators whose output 0 has the type of their first input (or of the other, where that is the data).
std::optional<std::size_t> same_as_input(const Node& node, std::size_t output) {
  if (output != 0 && node.op != "Split") return std::nullopt;
  static constexpr std::string_view first[] = {"Abs",
                                               "Add",
                                               "AveragePool",
                                               "BatchNormalization",
                                               "Ceil",
                                               "Clip",
                                               "Concat",
                                               "Conv",
                                               "ConvTranspose",
                                               "Div",
                                               "Dropout",
                                               "Elu",
                                               "Erf",
                                               "Exp",
                                               "Expand",
                                               "Flatten",
                                               "Floor",
                                               "Gather",
                                               "GatherElements",
                                               "GatherND",
                                               "Gelu",
                                               "Gemm",
                                               "GlobalAveragePool",
                                               "GlobalMaxPool",
                                               "HardSigmoid",
                                               "HardSwish",
                                               "Hardmax",
                                               "Identity",
                                               "InstanceNormalization",
                                               "LRN",
                                               "LayerNormalization",
                                               "LeakyRelu",
                                               "Log",
                                               "LogSoftmax",
                                               "MatMul",
                                               "Max",
                                               "MaxPool",
                                               "Mean",
                                               "Min",
                                               "Mish",
                                               "Mod",
                                               "Mul",
                                               "Neg",
                                               "PRelu",
                                               "Pad",
                                               "Pow",
                                               "Reciprocal",
                                               "ReduceL1",
                                               "ReduceL2",
                                               "ReduceLogSum",
                                               "ReduceLogSumExp",
                                               "ReduceMax",
                                               "ReduceMean",
                                               "ReduceMin",
                                               "ReduceProd",
                                               "ReduceSum",
                                               "ReduceSumSquare",
                                               "Relu",
                                               "Reshape",
                                               "Resize",
                                               "Round",
                                               "Selu",
                                               "Sigmoid",
                                               "Sign",
                                               "Slice",
                                               "Softmax",
                                               "Softplus",
                                               "Softsign",
                                               "Split",
                                               "Sqrt",
                                               "Squeeze",
                                               "Sub",
                                               "Sum",
                                               "Tanh",
                                               "Tile",
                                               "TopK",
                                               "Transpose",
                                               "Unsqueeze",
                                               "Upsample"};
  if (std::find(std::begin(first), std::end(first), node.op) != std::end(first)) return 0;
  if (node.op == "Where") return 1;
  return std::nullopt;
}

}  // namespace

void Step::refuse(const std::string& why) const {
  throw Error(Code::input, "node \"" + node().name + "\" (" + node().op + ") " + why,
              "keep the operator set of the model, or export it again at the one that is wanted");
}

void Step::set_input(std::size_t i, ValueId v) const {
  Node& n = node();
  if (n.inputs.size() <= i) n.inputs.resize(i + 1);
  n.inputs[i] = {v, nullptr};
}

void Step::cut_inputs(std::size_t i) const {
  if (node().inputs.size() > i) node().inputs.resize(i);
}

ValueId Step::add_constant(std::string_view role, Tensor data) const {
  Value value;
  value.name = fresh(level_.names, stem_of(graph(), node()) + "/" + std::string(role));
  value.type.dtype = data.dtype();
  value.type.shape = data.shape();
  value.type.known_dtype = value.type.known_rank = true;
  value.data = std::move(data);
  return graph().add_value(std::move(value));
}

void Step::set_input(std::size_t i, std::string_view role, Tensor data) const {
  set_input(i, add_constant(role, std::move(data)));
}

ValueId Step::put_before(std::size_t i, std::string_view op, const std::vector<ValueId>& inputs,
                         std::vector<Attr> attrs) const {
  const std::string stem = stem_of(graph(), node()) + "/" + std::string(op);
  Value value;
  value.name = fresh(level_.names, stem);
  const ValueId made = graph().add_value(std::move(value));
  Node added;
  added.name = fresh(level_.names, stem + "_node");
  added.op = op;
  added.attrs.all = std::move(attrs);
  for (const ValueId v : inputs) added.inputs.push_back({v, nullptr});
  added.outputs = {made};
  graph().add_node(std::move(added));
  set_input(i, made);
  return made;
}

void Step::put_behind(std::string_view op, const std::vector<ValueId>& others, std::vector<Attr> attrs) const {
  const std::string stem = stem_of(graph(), node()) + "/" + std::string(op);
  Value value;
  value.name = fresh(level_.names, stem + "_input");
  const ValueId between = graph().add_value(std::move(value));
  Node added;
  added.name = fresh(level_.names, stem + "_node");
  added.op = op;
  added.attrs.all = std::move(attrs);
  added.inputs = {{between, nullptr}};
  for (const ValueId v : others) added.inputs.push_back({v, nullptr});
  added.outputs = {node().outputs[0]};
  node().outputs[0] = between;
  graph().add_node(std::move(added));
}

Tensor Step::constant(ValueId v) const {
  const Level* level = &level_;
  for (;;) {
    const Graph& g = level->graph;
    if (v == ValueId::none) return {};
    if (!g[v].data.empty()) {
      const bool overridable = std::find(g.inputs.begin(), g.inputs.end(), v) != g.inputs.end();
      return overridable ? Tensor() : g[v].data;
    }
    const auto capture =
        std::find_if(g.captures.begin(), g.captures.end(), [&](const Capture& c) { return c.inner == v; });
    if (capture != g.captures.end() && level->owner != nullptr) {
      v = level->owner->captured[capture->outer].value;
      level = level->outer;
      continue;
    }
    const NodeId n = producer_of(g, v);
    if (n == NodeId::none || g[n].op != "Constant" || !g[n].domain.empty()) return {};
    const Attr* value = g[n].attrs.find("value");
    if (value != nullptr && std::holds_alternative<Tensor>(value->value)) return std::get<Tensor>(value->value);
    if (const Attr* list = g[n].attrs.find("value_ints"))
      return int64_list(std::get<std::vector<std::int64_t>>(list->value));
    if (const Attr* one = g[n].attrs.find("value_int")) return Tensor::scalar(std::get<std::int64_t>(one->value));
    return {};
  }
}

Tensor Step::need_constant(std::size_t i, const char* what) const {
  Tensor data = constant(input(i));
  if (data.empty()) refuse(std::string("has ") + what + " that are computed, where the other version wants them fixed");
  return data;
}

std::optional<std::int64_t> Step::rank(ValueId v) const {
  if (v == ValueId::none) return std::nullopt;
  const Value& value = graph()[v];
  if (!value.data.empty()) return value.data.rank();
  if (value.type.known_rank) return static_cast<std::int64_t>(value.type.shape.size());
  return std::nullopt;
}

std::optional<DType> Step::dtype(ValueId v) const {
  const Graph& g = graph();
  for (int hops = 0; hops < 1000 && v != ValueId::none; ++hops) {
    const Value& value = g[v];
    if (!value.data.empty()) return value.data.dtype();
    if (value.type.known_dtype && value.type.kind == TypeKind::tensor) return value.type.dtype;
    const NodeId n = producer_of(g, v);
    if (n == NodeId::none || !g[n].domain.empty()) return std::nullopt;
    const Node& from = g[n];
    const auto output =
        static_cast<std::size_t>(std::find(from.outputs.begin(), from.outputs.end(), v) - from.outputs.begin());
    if (const auto fixed = fixed_output(from, output)) return fixed;
    if (from.op == "Constant") {
      const Tensor data = constant(v);
      return data.empty() ? std::nullopt : std::optional(data.dtype());
    }
    const auto source = same_as_input(from, output);
    if (!source || *source >= from.inputs.size()) return std::nullopt;
    v = from.inputs[*source].value;
    // A weight beside the data says the same without a walk.
    for (const Use& use : from.inputs) {
      const bool twin = from.op == "Conv" || from.op == "Gemm" || from.op == "MatMul" || from.op == "Add" ||
                        from.op == "Mul" || from.op == "ConvTranspose";
      if (twin && use.value != ValueId::none && !g[use.value].data.empty()) v = use.value;
    }
  }
  return std::nullopt;
}

DType Step::need_dtype(std::size_t i) const {
  const auto found = dtype(input(i));
  if (!found) refuse("reads \"" + graph()[input(i)].name + "\", whose element type is not known");
  return *found;
}

bool Step::used(ValueId v) const {
  if (v == ValueId::none) return false;
  const Graph& g = graph();
  const auto is_it = [&](const Use& use) { return use.value == v; };
  for (const NodeId n : g.nodes()) {
    if (std::any_of(g[n].inputs.begin(), g[n].inputs.end(), is_it)) return true;
    if (std::any_of(g[n].captured.begin(), g[n].captured.end(), is_it)) return true;
  }
  return std::any_of(g.outputs.begin(), g.outputs.end(), is_it);
}

}  // namespace qtool::opset
