// SPDX-License-Identifier: Apache-2.0
#include "backends/onnx/lowering.h"

#include <algorithm>
#include <array>
#include <limits>

#include "formats/base/error.h"
#include "formats/ir/absent.h"

namespace qtool::onnx_form {
namespace {

// First IR version of a file with this ai.onnx opset (ONNX docs/Versioning.md, release table).
std::int64_t ir_of_opset(std::int64_t opset) {
  constexpr std::array<std::pair<std::int64_t, std::int64_t>, 12> first{{{10, 5},
                                                                         {11, 6},
                                                                         {12, 7},
                                                                         {15, 8},
                                                                         {19, 9},
                                                                         {21, 10},
                                                                         {23, 11},
                                                                         {24, 12},
                                                                         {25, 13},
                                                                         {27, 13},
                                                                         {28, 14},
                                                                         {29, 15}}};
  std::int64_t ir = 4;  // 3 lists every initializer among the inputs
  for (const auto& [version, needs] : first) {
    if (opset >= version) ir = needs;
  }
  return ir;
}

// First IR version that knows an element type (onnx.in.proto).
std::int64_t ir_of_type(DType dtype) {
  switch (dtype) {
    case DType::bf16: return 4;
    case DType::f8e4m3fn:
    case DType::f8e4m3fnuz:
    case DType::f8e5m2:
    case DType::f8e5m2fnuz: return 9;
    case DType::i4:
    case DType::u4: return 10;
    case DType::f4e2m1: return 11;
    case DType::f8e8m0: return 12;
    case DType::i2:
    case DType::u2: return 13;
    case DType::f6e2m3:
    case DType::f6e3m2: return 14;
    default: return 3;
  }
}

bool annotated(const Graph& graph) {
  const auto any = [](const std::vector<Use>& uses) {
    return std::any_of(uses.begin(), uses.end(), [](const Use& use) { return use.quant != nullptr; });
  };
  bool found = any(graph.outputs);
  for (const NodeId n : graph.nodes()) {
    found = found || any(graph[n].inputs) || any(graph[n].captured);
    for_each_body(graph[n], [&](const Graph& body) { found = found || annotated(body); });
  }
  return found;
}

}  // namespace

Lowering::Lowering(Graph graph, const Target& target_, Journal& journal_)
    : decided(std::move(graph)), links(decided), out(decided), target(target_), journal(journal_) {
  collect_names(decided, names_);
}

std::string Lowering::fresh(std::string_view stem) {
  std::string candidate(stem);
  for (int i = 1; !names_.insert(candidate).second; ++i) candidate = std::string(stem) + "_" + std::to_string(i);
  return candidate;
}

ValueId Lowering::constant(std::string_view stem, Tensor data) {
  Value v;
  v.name = fresh(stem);
  v.type.dtype = data.dtype();
  v.type.known_dtype = v.type.known_rank = true;
  v.type.shape = data.shape();
  v.data = std::move(data);
  return out.add_value(std::move(v));
}

ValueId Lowering::value(std::string_view stem, const Type& like, DType dtype) {
  Value v;
  v.name = fresh(stem);
  v.type = like;
  v.type.dtype = dtype;
  v.type.known_dtype = true;
  return out.add_value(std::move(v));
}

NodeId Lowering::node(std::string_view op, std::string_view domain, const std::vector<ValueId>& inputs,
                      std::vector<ValueId> outputs, Attrs attrs) {
  Node n;
  n.op = op;
  n.domain = domain;
  n.name = fresh(out[outputs.front()].name + "_" + std::string(op));
  for (const ValueId v : inputs) n.inputs.push_back({v, nullptr});
  n.outputs = std::move(outputs);
  n.attrs = std::move(attrs);
  return out.add_node(std::move(n));
}

void Lowering::use_contrib() {
  if (out.opset("com.microsoft") != 0) return;
  ModelInfo model = out.model ? *out.model : ModelInfo{};
  model.opsets["com.microsoft"] = 1;
  out.model = std::make_shared<const ModelInfo>(std::move(model));
}

Quant Lowering::quant(NodeId n, std::size_t position) const {
  const auto& inputs = decided[n].inputs;
  return position < inputs.size() ? inputs[position].quant : nullptr;
}

ValueId Lowering::input(NodeId n, std::size_t position) const {
  const auto& inputs = decided[n].inputs;
  return position < inputs.size() ? inputs[position].value : ValueId::none;
}

ValueId Lowering::third_operand(NodeId n) const {
  const bool ignored = decided[n].op == "Gemm" && decided[n].attrs.get("beta", 1.0F) == 0;
  return ignored ? ValueId::none : input(n, 2);
}

std::optional<Links::Consumer> Lowering::only_consumer(ValueId v) const {
  const auto all = links.consumers(v);
  if (all.size() != 1 || all[0].node == NodeId::none || all[0].input < 0) return std::nullopt;
  return all[0];
}

std::optional<Shape> Lowering::shape(ValueId v) const {
  if (v == ValueId::none) return std::nullopt;
  const Value& value = decided[v];
  if (!value.data.empty()) return value.data.shape();
  if (!value.type.known_rank) return std::nullopt;
  return value.type.shape;
}

void Lowering::emitted(NodeId n, std::string_view kernel) {
  Json fact = Json::object();
  fact.set("node", label_of(decided, n));
  fact.set("op", decided[n].op);
  fact.set("kernel", std::string(kernel));
  journal.fact("emit", std::move(fact));
}

void Lowering::costs(NodeId n, std::string_view why) {
  Json fact = Json::object();
  fact.set("node", label_of(decided, n));
  fact.set("op", decided[n].op);
  fact.set("why", std::string(why));
  journal.fact("slower", std::move(fact));
}

Graph Lowering::finish() {
  const Links now(out);
  for (const ValueId v : decided.values()) {
    // A constant, or a node's result, that had uses and has neither uses nor producer any more lives on as codes.
    const bool made = links.producer(v) != NodeId::none;
    if (!out.alive(v) || (!decided.is_constant(v) && !made)) continue;
    if (links.consumers(v).empty() || !now.consumers(v).empty() || now.producer(v) != NodeId::none) continue;
    std::erase(out.inputs, v);
    out.erase(v);
  }
  ModelInfo model = out.model ? *out.model : ModelInfo{};
  // A newer IR than the target loads is not needed for its own sake, only for types and opset.
  std::int64_t ir = std::max(std::min(model.ir_version, target.max_ir), ir_of_opset(out.opset()));
  for (const ValueId v : out.values()) {
    if (out.is_constant(v)) ir = std::max(ir, ir_of_type(out[v].data.dtype()));
  }
  if (model.ir_version < 4 && ir >= 4) {
    // Initializers listed among the inputs could be overridden by the caller, which keeps the runtime from folding
    // them.
    std::erase_if(out.inputs, [&](ValueId v) { return out.is_constant(v); });
  }
  model.ir_version = ir;
  out.model = std::make_shared<const ModelInfo>(std::move(model));
  QTOOL_ENSURE(!annotated(out), "lowering leaves no annotation behind");
  return std::move(out);
}

QuantSpec resolved(const QuantSpec& spec, const Tensor& data) {
  QuantSpec full = with_scales(spec, data);
  if (full.codes.empty()) full.codes = nearest_codes(data, full);
  if (full.scale_format == &number::e8m0 && !is_absent(full.scale)) {
    // Runtimes may flush subnormals to zero: what has the smallest power as its scale is nothing but zeros, or nearly.
    for (float& s : full.scale.write<float>()) s = std::max(s, std::numeric_limits<float>::min());
  }
  if (full.second_scale.empty() && full.scale_mean.empty()) return full;
  full.scale = Tensor::of<float>(full.scale.shape(), std::span<const float>(effective_scales(full)));
  full.second_scale = full.scale_mean = Tensor();
  full.second_group = 0;
  return full;
}

DType storage_type(const NumberFormat& format) {
  if (format.onnx) return *format.onnx;
  QTOOL_ENSURE(format.is_integer && format.bits <= 8, "codes without an ONNX type of their own are small integers");
  if (format.bits > 4) return code_type(format);
  return format.lowest < 0 ? DType::i4 : DType::u4;
}

Tensor stored_codes(const QuantSpec& spec) {
  if (spec.format->onnx) return pack_codes(spec.codes, spec);
  if (spec.format->bits > 4) return spec.codes;
  QuantSpec wider = spec;
  wider.format = spec.format->lowest < 0 ? &number::int4 : &number::uint4;
  return pack_codes(spec.codes, wider);
}

Tensor stored_zero_point(const QuantSpec& spec, DType dtype) {
  Tensor zero(dtype, spec.scale.shape());
  if (spec.zero_point.empty() || dtype == DType::i32) return zero;
  Tensor wide(DType::f32, spec.scale.shape());
  const auto from = spec.zero_point.read<std::int32_t>();
  const auto to = wide.write<float>();
  for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<float>(from[from.size() == 1 ? 0 : i]);
  return from_f32(wide, dtype);
}

bool is_static(const Quant& quant) {
  return quant != nullptr && !quant->dynamic && quant->grain.kind != Grain::Kind::groups &&
         quant->grain.kind != Grain::Kind::blocks;
}

}  // namespace qtool::onnx_form
