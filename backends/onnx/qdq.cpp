// SPDX-License-Identifier: Apache-2.0
// Static decisions as QuantizeLinear/DequantizeLinear pairs, laid out so that ONNX Runtime fuses them: one Q per value
// and spec, int32 biases on the scale of their product, and barriers where the runtime would undo a decision.
#include <algorithm>
#include <array>
#include <cmath>

#include "backends/onnx/rules.h"
#include "formats/base/error.h"
#include "formats/ir/absent.h"

namespace qtool::onnx_form {
namespace {

constexpr float int32_highest = 2147483520.0F;  // the largest float below 2^31
constexpr float smallest_product = 0x1p-100F;   // of scales: far from numbers that lose digits or vanish

bool is_product(const Node& node) { return node.op == "Conv" || node.op == "Gemm" || node.op == "MatMul"; }

class StaticRule {
 public:
  StaticRule(Lowering& l, bool only_standard) : l_(l), only_standard_(only_standard) {}

  void run() {
    for (const NodeId n : l_.decided.nodes()) find_direct(n);
    for (const NodeId n : l_.decided.nodes()) lower_constants(n);
    for (const ValueId v : l_.decided.values()) {
      if (!l_.decided.is_constant(v)) lower_activation(v);
    }
    for (const NodeId n : l_.decided.nodes()) finish_direct(n);
    for (const NodeId n : l_.decided.nodes()) guard(n);
  }

 private:
  using Key = std::pair<ValueId, const QuantSpec*>;
  /// Codes with their parameters, as an operator of com.microsoft reads them.
  struct Stored {
    ValueId codes = ValueId::none;
    Parameters parameters;
  };

  // A MatMul with a float result is written as MatMulIntegerToFloat: what the runtime would make of the pairs, but
  // with its bias, and out of reach of the fusion of MatMul and Add (trap 3).
  void find_direct(NodeId n) {
    const Node& node = l_.decided[n];
    if (only_standard_ || node.op != "MatMul" || !node.domain.empty() || done(n, 0)) return;
    const Quant a = l_.quant(n, 0), b = l_.quant(n, 1);
    if (!is_static(a) || !is_static(b) || (a->format->lowest < 0 && !l_.target.unsigned_activations)) return;
    const auto all = l_.links.consumers(node.outputs[0]);
    if (std::any_of(all.begin(), all.end(), [&](const auto& c) { return use_at(l_.decided, c).quant != nullptr; }))
      return;
    direct_[n] = {};
  }

  void finish_direct(NodeId n) {
    const auto found = direct_.find(n);
    if (found == direct_.end()) return;
    const Stored &a = found->second[0], &b = found->second[1];
    ValueId result = l_.decided[n].outputs[0];
    std::vector<ValueId> inputs{
        a.codes, b.codes, a.parameters.scale, b.parameters.scale, a.parameters.zero_point, b.parameters.zero_point};
    if (const auto row = row_added_to(n)) {
      inputs.push_back(flat(row->operand));
      result = l_.decided[row->node].outputs[0];
      l_.out.erase(row->node);
    }
    Node& now = l_.out[n];
    now.op = "MatMulIntegerToFloat";
    now.domain = "com.microsoft";
    now.extras = nullptr;
    now.inputs.clear();
    for (const ValueId v : inputs) now.inputs.push_back({v, nullptr});
    now.outputs = {result};
    l_.use_contrib();
    l_.emitted(n, now.op);
  }

  // A Pad between values of one spec works on the codes: the runtime has the kernel, but does not fuse the pairs.
  bool pads_codes(NodeId n) const {
    const Node& node = l_.decided[n];
    if (node.op != "Pad" || !node.domain.empty() || !is_static(l_.quant(n, 0))) return false;
    const auto all = l_.links.consumers(node.outputs[0]);
    return !all.empty() && std::all_of(all.begin(), all.end(),
                                       [&](const auto& c) { return use_at(l_.decided, c).quant == l_.quant(n, 0); });
  }

  void pad_codes(NodeId n, ValueId codes, const Parameters& p) {
    Node& pad = l_.out[n];
    pad.inputs[0] = {codes, nullptr};
    if (pad.attrs.get("mode", "constant") != "constant") return;
    pad.inputs.resize(std::max<std::size_t>(pad.inputs.size(), 3), Use{});
    pad.inputs[2] = {p.zero_point, nullptr};
  }

  struct Row {
    NodeId node = NodeId::none;
    std::size_t position = 0;
    ValueId operand = ValueId::none;
  };

  // An Add of one constant number per column, that alone reads what n computes.
  std::optional<Row> row_added_to(NodeId n) const {
    const auto add = l_.only_consumer(l_.decided[n].outputs[0]);
    if (!add || l_.decided[add->node].op != "Add" || use_at(l_.decided, *add).quant) return std::nullopt;
    const std::size_t other = add->input == 0 ? 1 : 0;
    const ValueId operand = l_.input(add->node, other);
    const auto w = l_.shape(l_.input(n, 1));
    if (operand == ValueId::none || !l_.decided.is_constant(operand) || l_.quant(add->node, other)) return std::nullopt;
    if (!w || w->size() != 2 || !l_.decided.is_constant(l_.input(n, 1))) return std::nullopt;
    const Tensor& data = l_.decided[operand].data;
    const bool row = data.dtype() == DType::f32 && data.rank() >= 1 && data.rank() <= 2 &&
                     data.shape().back() == w->back() && data.count() == w->back();
    return row ? std::optional<Row>({add->node, other, operand}) : std::nullopt;
  }

  // A constant row as a tensor of one dimension.
  ValueId flat(ValueId row) {
    const Value& value = l_.decided[row];
    return value.data.rank() == 1 ? row : l_.constant(value.name + "_row", value.data.reshaped({value.data.count()}));
  }

  // Weights, biases and constant operands of one node. Every use gets a DequantizeLinear of its own; the codes are
  // shared by uses with one spec.
  void lower_constants(NodeId n) {
    const Node& node = l_.decided[n];
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      const Use& use = node.inputs[i];
      if (!is_static(use.quant) || !l_.decided.is_constant(use.value) || done(n, i)) continue;
      if (direct_.contains(n)) {
        direct_[n][i] = stored_weight(n, i);
        continue;
      }
      const ValueId read = use.quant->is_bias ? bias(n, i, l_.decided[use.value]) : weight(n, i);
      l_.out[n].inputs[i] = {read, nullptr};
    }
    if (direct_.contains(n)) return;
    if (is_product(node) && is_static(l_.quant(n, 0)) && is_static(l_.quant(n, 1))) {
      if (node.op == "MatMul") lower_bias_behind(n);
      if (node.op == "Gemm" && node.inputs.size() > 2 && l_.third_operand(n) == ValueId::none) {
        l_.out[n].inputs.resize(2);  // multiplied by 0: the fused kernel adds it as it is
        l_.out[n].attrs.erase("beta");
      }
      const Ability* row = l_.target.find(node, Role::product);
      l_.emitted(n, row != nullptr && !row->kernel.empty() ? row->kernel : std::string_view(node.op));
    }
  }

  // Lowered by another rule already: the use in `out` is no longer the one decided on.
  bool done(NodeId n, std::size_t i) const {
    return !l_.out.alive(n) || i >= l_.out[n].inputs.size() || l_.out[n].inputs[i].quant == nullptr;
  }

  // The spec of a weight with its codes; a channel whose scale is too small to carry its bias as int32 gets a larger
  // one (onnx-quantized.md section 3, as the runtime's own tool does).
  const QuantSpec& codes_of(NodeId n, std::size_t i) {
    const Use& use = l_.decided[n].inputs[i];
    const Key key{use.value, use.quant.get()};
    if (const auto found = codes_.find(key); found != codes_.end()) return found->second;
    QuantSpec spec = resolved(*use.quant, l_.decided[use.value].data);
    if (i == 1) enlarge_for_bias(n, spec, l_.decided[use.value].data);
    if (!is_product(l_.decided[n]) || i == 0) spec = as_written(spec);
    return codes_.emplace(key, std::move(spec)).first->second;
  }

  void enlarge_for_bias(NodeId n, QuantSpec& spec, const Tensor& data) {
    const Quant bias_spec = l_.quant(n, 2), x_spec = l_.quant(n, 0);
    const ValueId bias_value = l_.input(n, 2);
    if (!bias_spec || !bias_spec->is_bias || !is_static(x_spec) || !l_.decided.is_constant(bias_value)) return;
    const Tensor bias_data = to_f32(l_.decided[bias_value].data);
    if (is_absent(bias_data) || is_absent(spec.codes)) return;  // planned: no scale is known, nor needed
    const auto b = bias_data.read<float>();
    const float x_scale = x_spec->scale.read<float>()[0];
    std::vector<float> scales(spec.scale.read<float>().begin(), spec.scale.read<float>().end());
    bool any = false;
    for (std::size_t c = 0; c < b.size(); ++c) {
      float& scale = scales[scales.size() == 1 ? 0 : c];
      const float needed = std::max(std::abs(b[c]) / int32_highest, smallest_product);
      if (x_scale * scale >= needed) continue;
      scale = needed / x_scale * 1.0001F;  // a little more, for the rounding of the product
      any = true;
    }
    if (!any) return;
    spec.scale = Tensor::of<float>(spec.scale.shape(), std::span<const float>(scales));
    spec.codes = Tensor();
    spec.codes = nearest_codes(data, spec);
    l_.costs(n, "a weight scale was enlarged so that the bias fits into int32");
  }

  Parameters parameters(std::string_view stem, const QuantSpec& spec, DType dtype) {
    Parameters p;
    p.scale = l_.constant(std::string(stem) + "_scale", spec.scale);
    p.zero_point = l_.constant(std::string(stem) + "_zero_point", stored_zero_point(spec, dtype));
    return p;
  }

  static Attrs axis_of(const QuantSpec& spec) {
    Attrs attrs;
    if (spec.grain.kind == Grain::Kind::axis) attrs.set("axis", std::int64_t{spec.grain.axis});
    return attrs;
  }

  ValueId dequantize_node(std::string_view stem, const Type& like, ValueId codes, Parameters p, Attrs attrs) {
    const ValueId read = l_.value(std::string(stem) + "_dequantized", like, DType::f32);
    l_.node("DequantizeLinear", "", {codes, p.scale, p.zero_point}, {read}, std::move(attrs));
    return read;
  }

  Stored stored_weight(NodeId n, std::size_t i) {
    const Use& use = l_.decided[n].inputs[i];
    const Value& value = l_.decided[use.value];
    const QuantSpec& spec = codes_of(n, i);
    const Key key{use.value, use.quant.get()};
    if (const auto found = stored_.find(key); found != stored_.end()) return found->second;
    const Tensor packed = stored_codes(spec);
    const Parameters p = parameters(value.name, spec, packed.dtype());
    return stored_.emplace(key, Stored{l_.constant(value.name + "_quantized", packed), p}).first->second;
  }

  ValueId weight(NodeId n, std::size_t i) {
    const Stored stored = stored_weight(n, i);
    const Value& value = l_.decided[l_.decided[n].inputs[i].value];
    return dequantize_node(value.name, value.type, stored.codes, stored.parameters, axis_of(codes_of(n, i)));
  }

  // Constant `value` as int32 codes on the scale of the product that node n computes from its inputs 0 and 1.
  ValueId bias(NodeId n, std::size_t weight_at, const Value& value) {
    const Quant x = l_.quant(n, 0);
    QTOOL_ENSURE(is_static(x) && !x->scale.empty() && l_.quant(n, 1), "a bias follows a calibrated input and a weight");
    const QuantSpec& w = codes_of(n, weight_at >= 2 ? 1 : weight_at);
    QuantSpec spec;
    spec.format = &number::int16;  // is_bias: the codes are int32
    spec.is_bias = true;
    const float x_scale = x->scale.read<float>()[0];
    spec.scale = Tensor(DType::f32, w.scale.shape());
    const auto scales = spec.scale.write<float>();
    for (std::size_t c = 0; c < scales.size(); ++c) scales[c] = x_scale * w.scale.read<float>()[c];
    const Tensor data = to_f32(value.data);
    const bool per_channel = spec.scale.rank() == 1;
    if (per_channel) spec.grain = {Grain::Kind::axis, static_cast<int>(data.rank()) - 1, 0, 0};
    const Tensor codes = quantize(data, spec);
    const Parameters p = parameters(value.name, spec, DType::i32);
    return dequantize_node(value.name, value.type, l_.constant(value.name + "_quantized", codes), p, axis_of(spec));
  }

  // MatMul and Add: the runtime makes a Gemm of them before it looks for pairs, and a Gemm with a float bias and no Q
  // behind stays float (trap 3; with static extents also in more than two dimensions). An int32 bias keeps it whole;
  // an operand that is no bias is kept apart by a barrier.
  void lower_bias_behind(NodeId n) {
    if (!l_.target.rewrites_float_layers) return;
    const auto add = l_.only_consumer(l_.decided[n].outputs[0]);
    if (!add || l_.decided[add->node].op != "Add" || use_at(l_.decided, *add).quant) return;
    const auto shape = l_.shape(l_.input(n, 0));
    const bool plane = !shape || shape->size() == 2;
    const bool known = shape && std::none_of(shape->begin(), shape->end(), [](std::int64_t d) { return d < 0; });
    if (!plane && !known) return;
    if (const auto row = row_added_to(n)) {
      Value one = l_.decided[row->operand];
      one.data = one.data.reshaped({one.data.count()});
      one.type.shape = one.data.shape();
      l_.out[row->node].inputs[row->position] = {bias(n, 1, one), nullptr};
    } else if (plane) {
      barrier(n, add->node, static_cast<std::size_t>(add->input));
    }
  }

  // A copy that the runtime's optimizer does not see through: Max of one operand.
  void barrier(NodeId producer, NodeId consumer, std::size_t position) {
    const ValueId from = l_.out[consumer].inputs[position].value;
    const ValueId copy = l_.value(l_.out[from].name + "_barrier", l_.out[from].type, DType::f32);
    l_.node("Max", "", {from}, {copy});
    l_.out[consumer].inputs[position] = {copy, nullptr};
    l_.costs(producer, "a copy of its values keeps the runtime from rewriting the layer");
  }

  void lower_activation(ValueId v) {
    std::vector<Quant> specs;  // in order of first use
    for (const Links::Consumer& c : l_.links.consumers(v)) {
      const Quant& q = use_at(l_.decided, c).quant;
      const bool open = c.node == NodeId::none || c.input < 0 || !done(c.node, static_cast<std::size_t>(c.input));
      if (is_static(q) && open && std::find(specs.begin(), specs.end(), q) == specs.end()) specs.push_back(q);
    }
    for (const Quant& spec : specs) lower_activation(v, spec);
  }

  Parameters shared_parameters(const Quant& spec, const std::string& stem, DType dtype) {
    const auto found = parameters_.find(spec.get());
    if (found != parameters_.end()) return found->second;
    return parameters_.emplace(spec.get(), parameters(stem, as_written(*spec), dtype)).first->second;
  }

  // int8 operands that are no weights, as uint8: every code and the zero point 128 higher.
  QuantSpec as_written(const QuantSpec& spec) const {
    if (!l_.target.unsigned_activations || spec.format != &number::int8) return spec;
    QuantSpec written = spec;
    written.format = &number::uint8;
    if (written.zero_point.empty()) written.zero_point = Tensor(DType::i32, spec.scale.shape());
    for (std::int32_t& z : written.zero_point.write<std::int32_t>()) z += 128;
    written.codes = Tensor();
    if (!spec.codes.empty()) written.codes = quantize(dequantize(spec.codes, spec), written);
    return written;
  }

  void lower_activation(ValueId v, const Quant& spec) {
    const Value value = l_.decided[v];
    if (spec->scale.empty()) {
      throw Error(Code::usage, "no step chose a range for the activation \"" + value.name + "\"",
                  "add `calibrate_ranges` after `assign_formats` in the recipe");
    }
    const DType dtype = storage_type(*as_written(*spec).format);
    const Parameters p = shared_parameters(spec, value.name, dtype);
    const ValueId codes = l_.value(value.name + "_quantized", value.type, dtype);
    if (const NodeId from = l_.links.producer(v); from != NodeId::none && pads_codes(from)) {
      l_.out[from].outputs[0] = codes;
    } else {
      l_.node("QuantizeLinear", "", {v, p.scale, p.zero_point}, {codes}, axis_of(*spec));
    }
    ValueId read = ValueId::none;  // written when somebody needs it
    for (const Links::Consumer& c : l_.links.consumers(v)) {
      if (use_at(l_.decided, c).quant != spec) continue;
      if (c.node != NodeId::none && c.input >= 0) {
        const auto position = static_cast<std::size_t>(c.input);
        if (done(c.node, position)) continue;
        if (const auto found = direct_.find(c.node); found != direct_.end()) {
          found->second[position] = {codes, p};
          continue;
        }
        if (pads_codes(c.node)) {
          pad_codes(c.node, codes, p);
          continue;
        }
        if (l_.decided[c.node].op == "Shape" || l_.decided[c.node].op == "Size") {
          l_.out[c.node].inputs[position] = {codes, nullptr};  // as good as the values
          continue;
        }
      }
      if (read == ValueId::none) {
        read = l_.value(value.name + "_dequantized", value.type, value.type.dtype);
        l_.node("DequantizeLinear", "", {codes, p.scale, p.zero_point}, {read}, axis_of(*spec));
      }
      use_at(l_.out, c) = {read, nullptr};
      if (c.node == NodeId::none) keep_output_name(v, read);
    }
  }

  // A graph output keeps its name: the dequantized value takes it over.
  void keep_output_name(ValueId v, ValueId read) {
    Value& before = l_.out[v];
    Value& now = l_.out[read];
    if (before.name != l_.decided[v].name) return;  // two outputs of one value
    const bool is_input = std::find(l_.out.inputs.begin(), l_.out.inputs.end(), v) != l_.out.inputs.end();
    if (is_input) return;
    const std::string fresh = l_.fresh(before.name + "_unquantized");
    now.name = before.name;
    now.extras = std::move(before.extras);
    before.extras = nullptr;
    before.name = fresh;
  }

  // The runtime quantizes Conv, ConvTranspose and Gemm (also one that it makes of MatMul and Add) between DQ and Q by
  // itself, per tensor, although their weights are float (trap 2). Here that means: this layer was to stay float.
  void guard(NodeId n) {
    if (!l_.target.rewrites_float_layers || !l_.out.alive(n)) return;
    const Node& node = l_.decided[n];
    const bool gemm_to_be = node.op == "MatMul" && [&] {
      const auto add = l_.only_consumer(node.outputs[0]);
      return add && l_.decided[add->node].op == "Add";
    }();
    if (node.op != "Conv" && node.op != "ConvTranspose" && node.op != "Gemm" && !gemm_to_be) return;
    if (l_.quant(n, 1) || !is_static(l_.quant(n, 0)) || l_.decided[n].op != l_.out[n].op) return;
    ValueId end = node.outputs[0];
    while (!quantized_behind(end)) {
      const auto next = l_.only_consumer(end);
      if (!next || !absorbs(l_.decided[next->node].op)) return;
      end = l_.decided[next->node].outputs[0];
    }
    barrier(n, n, 0);
  }

  static bool absorbs(std::string_view op) { return op == "Relu" || op == "Clip" || op == "Add"; }

  bool quantized_behind(ValueId v) const {
    const auto all = l_.links.consumers(v);
    return std::any_of(all.begin(), all.end(), [&](const auto& c) { return is_static(use_at(l_.decided, c).quant); });
  }

  Lowering& l_;
  const bool only_standard_;
  std::map<NodeId, std::array<Stored, 2>> direct_;  // operands of MatMulIntegerToFloat
  std::map<Key, QuantSpec> codes_;
  std::map<Key, Stored> stored_;
  std::map<const QuantSpec*, Parameters> parameters_;
};

}  // namespace

void lower_static(Lowering& l, bool only_standard) { StaticRule(l, only_standard).run(); }

}  // namespace qtool::onnx_form
