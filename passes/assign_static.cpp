// SPDX-License-Identifier: Apache-2.0
// Static 8-bit decisions. They are decisions on *values*: where a value becomes 8-bit, all its uses that count share
// one spec, and the emitter writes one quantizer. The rules are those of the runtime's fusion (onnx-quantized.md
// section 3), told by the target's table:
//
//   1. products        Conv, MatMul, Gemm that can be integer kernels
//   2. resident        values that lie in memory as codes: outputs of integer kernels that must have a quantizer
//                      behind (after a Relu or Clip that it makes redundant), and what moves and arithmetic on resident
//                      values make of them
//   3. useful          arithmetic stays only where a product behind it reads its codes: no islands, no coarse outputs
//   4. edges           other operands of integer kernels are quantized for these kernels alone; the quantizer is put
//                      before moves that only they read
//   5. groups          values that moves connect share scale and zero point, and inputs of a Concat where that is free
#include <algorithm>
#include <numeric>
#include <set>

#include "formats/base/error.h"
#include "passes/assign.h"

namespace qtool::assign {
namespace {

enum class Kind : std::uint8_t { none, product, arithmetic, move, absorbed };

std::size_t at(NodeId n) { return static_cast<std::size_t>(n); }
std::size_t at(ValueId v) { return static_cast<std::size_t>(v); }

bool is_clip_around_zero(const Plan& plan, const Node& node) {
  const auto bound = [&](std::size_t i, const char* attribute, float otherwise) -> std::optional<float> {
    if (i < node.inputs.size() && node.inputs[i].value != ValueId::none) {
      const Tensor* data = plan.fixed(node.inputs[i].value);
      if (data == nullptr || data->dtype() != DType::f32 || data->count() != 1) return std::nullopt;
      return data->read<float>()[0];
    }
    return node.attrs.get(attribute, otherwise);
  };
  const auto low = bound(1, "min", -1.0F), high = bound(2, "max", 1.0F);
  return low && high && *low <= 0 && *high > 0;
}

/// Padding that codes can express: with zeros, or with what is there already.
bool pads_with_zeros(const Plan& plan, const Node& pad) {
  if (pad.attrs.get("mode", "constant") != "constant") return true;
  if (pad.inputs.size() < 3 || pad.inputs[2].value == ValueId::none) return pad.attrs.get("value", 0.0F) == 0;
  const Tensor* filling = plan.fixed(pad.inputs[2].value);
  return filling != nullptr && filling->dtype() == DType::f32 && filling->count() == 1 &&
         filling->read<float>()[0] == 0;
}

class StaticPlan {
 public:
  explicit StaticPlan(Plan& plan)
      : plan_(plan),
        graph_(plan.graph),
        order_(graph_.order()),
        kind_(graph_.node_slots()),
        resident_(graph_.value_slots()),
        read_by_product_(graph_.value_slots()),
        parent_(graph_.value_slots()),
        traits_(graph_.value_slots()) {
    std::iota(parent_.begin(), parent_.end(), std::size_t{0});
  }

  void run() {
    for (const NodeId n : order_) find_product(n);
    for (const NodeId n : order_) find_resident(n);
    keep_useful();
    for (auto n = order_.rbegin(); n != order_.rend(); ++n) quantize_before(*n);
    for (const NodeId n : order_) settle_output(n);
    for (const NodeId n : order_) group(n);
    annotate();
  }

 private:
  /// What the members of a group force on its range.
  struct Traits {
    bool behind_relu = false, behind_clip = false, free = false, fixed = false;
  };

  Kind& kind(NodeId n) { return kind_[at(n)]; }
  bool is_integer(NodeId n) const {
    const Kind k = kind_[at(n)];
    return k == Kind::product || k == Kind::arithmetic || k == Kind::move;
  }

  std::vector<std::size_t> data_positions(const Node& node, const Ability& row) const {
    std::vector<std::size_t> positions;
    if (row.data_inputs == std::vector<int>{-1}) {
      for (std::size_t i = 0; i < node.inputs.size(); ++i) positions.push_back(i);
    } else {
      for (const int i : row.data_inputs) {
        if (static_cast<std::size_t>(i) < node.inputs.size()) positions.push_back(static_cast<std::size_t>(i));
      }
    }
    return positions;
  }

  const Ability* row_of(NodeId n) const {
    const Role role = kind_[at(n)] == Kind::product      ? Role::product
                      : kind_[at(n)] == Kind::arithmetic ? Role::arithmetic
                                                         : Role::move;
    return plan_.ctx.target.find(graph_[n], role);
  }

  /// Positions whose values an integer kernel reads as codes.
  std::vector<std::size_t> integer_positions(NodeId n) const {
    if (!is_integer(n)) return {};
    if (is_relu(graph_[n])) return {0};
    const Ability* row = row_of(n);
    auto positions = data_positions(graph_[n], *row);
    if (kind_[at(n)] == Kind::product && plan_.fixed(graph_[n].inputs[1].value)) std::erase(positions, std::size_t{1});
    return positions;
  }

  static bool is_relu(const Node& node) { return node.op == "Relu" && node.domain.empty(); }

  bool reads_codes(const Links::Consumer& c) const {
    if (c.node == NodeId::none || c.input < 0) return false;
    const auto positions = integer_positions(c.node);
    return std::find(positions.begin(), positions.end(), static_cast<std::size_t>(c.input)) != positions.end();
  }

  std::optional<Links::Consumer> sole_reader(ValueId v) const {
    const auto all = plan_.links.consumers(v);
    if (all.size() != 1 || all[0].node == NodeId::none || all[0].input < 0) return std::nullopt;
    return all[0];
  }

  /// Where the quantizer behind `n` stands: its output, or that of the Relu or Clip that alone reads it.
  ValueId anchor(NodeId n) const {
    const ValueId v = graph_[n].outputs[0];
    const auto next = sole_reader(v);
    if (!next || next->input != 0) return v;
    const Node& after = graph_[next->node];
    if (!after.domain.empty() || plan_.type(after.outputs[0]).dtype != DType::f32) return v;
    if (after.op == "Relu" || (after.op == "Clip" && is_clip_around_zero(plan_, after))) return after.outputs[0];
    return v;
  }

  // --- 1. products

  void find_product(NodeId n) {
    if (!plan_.wants(n, "static")) return;
    const Ability* row = plan_.ctx.target.find(graph_[n], Role::product);
    if (row == nullptr) return;
    if (const std::string why = product_objection(n, *row); !why.empty()) return plan_.skip(n, why);
    kind(n) = Kind::product;
    for (const std::size_t i : integer_positions(n)) read_by_product_[at(graph_[n].inputs[i].value)] = true;
  }

  std::string product_objection(NodeId n, const Ability& row) const {
    const Node& node = graph_[n];
    const Wish& wish = plan_.wish(n);
    if (node.inputs.size() < 2) return "it has less than two operands";
    const Tensor* weight = plan_.fixed(node.inputs[1].value);
    const std::string_view weights = weight ? wish.weights->name : std::string_view{};
    if (const auto ok = plan_.ctx.target.accepts(node, Role::product, wish.activations->name, weights); !ok)
      return ok.why;
    if (weight == nullptr && row.needs_constant_weight) return "its weight is no constant";
    if (weight == nullptr && !wish.attention) return "it multiplies two activations, and `attention` is off";
    for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
      const Type& type = plan_.type(node.inputs[i].value);
      if (!type.known_dtype) return "the type of its operands is not known";
      if (type.dtype != DType::f32)
        return "the kernel takes float32 models, this is " + std::string(name_of(type.dtype));
      if (type.known_rank && type.shape.size() < 2) return "an operand has less than 2 dimensions";
    }
    if (plan_.fixed(node.inputs[0].value) && weight) return "it depends on no input: fold_constants computes it once";
    if (weight && wish.grain == "groups") return "the kernel has one weight scale per channel; use grain: channel";
    if (weight && !wish.symmetric) return "the kernel's weights have no zero points of their own; use symmetric: true";
    if (weight && weight->count() == 0) return "its weight is empty";
    if (row.unfit != nullptr) {
      const Type& other = plan_.type(node.inputs[1].value);
      const std::string_view why = row.unfit(node, plan_.type(node.inputs[0].value).shape, other.shape);
      if (!why.empty()) return std::string(why);
    }
    return bias_objection(node, row, weight);
  }

  std::string bias_objection(const Node& node, const Ability& row, const Tensor* weight) const {
    std::string why;
    const ValueId third = row.bias_input < 0 ? ValueId::none : third_operand(node, why);
    if (third == ValueId::none || !why.empty()) return why;
    const Tensor* bias = plan_.fixed(third);
    if (bias == nullptr) return "its bias is no constant";
    if (bias->dtype() != DType::f32) return "its bias is not float32";
    const std::int64_t channels =
        weight->shape()[node.op == "Conv" ? 0 : static_cast<std::size_t>(1 - reduction_axis(node))];
    const Shape& s = bias->shape();
    if (s == Shape{channels} || (node.op == "Gemm" && s == Shape{1, channels})) return {};
    return "its third operand " + to_string(s) + " is no bias of " + std::to_string(channels) + " columns";
  }

  // --- 2. resident values

  void find_resident(NodeId n) {
    if (kind(n) == Kind::product) {
      if (row_of(n)->needs_output_quant) take_anchor(n);
      return;
    }
    if (!plan_.wants(n, "static") || kind(n) != Kind::none) return;
    const Target& target = plan_.ctx.target;
    const Node& node = graph_[n];
    if (const Ability* row = target.find(node, Role::arithmetic)) {
      if (const std::string why = arithmetic_objection(n, *row); !why.empty()) return plan_.skip(n, why);
      kind(n) = Kind::arithmetic;
      take_anchor(n);
    } else if (can_move(n) && resident_[at(node.inputs[0].value)]) {
      kind(n) = Kind::move;
      for (const ValueId v : node.outputs) {
        if (v != ValueId::none) resident_[at(v)] = true;
      }
    }
  }

  void take_anchor(NodeId n) {
    const ValueId v = anchor(n);
    resident_[at(v)] = true;
    if (v != graph_[n].outputs[0]) kind(plan_.links.producer(v)) = Kind::absorbed;
  }

  bool can_move(NodeId n) const {
    const Node& node = graph_[n];
    if (node.inputs.empty() || node.inputs[0].value == ValueId::none || graph_.is_constant(node.inputs[0].value))
      return false;
    if (is_relu(node)) return relu_is_a_move(node);
    const Ability* row = plan_.ctx.target.find(node, Role::move);
    if (row == nullptr || !plan_.ctx.target.accepts(node, Role::move, plan_.wish(n).activations->name, {}))
      return false;
    if (node.outputs.size() > 1 && node.op != "Split") return false;  // MaxPool with indices
    if (node.op == "Pad" && !pads_with_zeros(plan_, node)) return false;
    return std::all_of(node.outputs.begin(), node.outputs.end(), [&](ValueId v) {
      return v != ValueId::none && plan_.is_f32(v) && !plan_.links.consumers(v).empty();
    });
  }

  // A Relu behind moves of a kernel's output (Conv, MaxPool, Relu): with the quantizer's zero point at the lowest
  // code, the saturation of that kernel is the Relu.
  bool relu_is_a_move(const Node& relu) const {
    ValueId v = relu.inputs[0].value;
    for (;;) {
      if (!resident_[at(v)] || !sole_reader(v)) return false;
      const NodeId from = plan_.links.producer(v);
      if (from == NodeId::none) return false;
      if (kind_[at(from)] == Kind::product || kind_[at(from)] == Kind::arithmetic) {
        return !row_of(from)->fixed_output && graph_[from].op != "Concat";
      }
      if (kind_[at(from)] != Kind::move || graph_[from].outputs.size() != 1) return false;
      v = graph_[from].inputs[0].value;
    }
  }

  std::string arithmetic_objection(NodeId n, const Ability& row) {
    const Node& node = graph_[n];
    if (const auto ok = plan_.ctx.target.accepts(node, Role::arithmetic, plan_.wish(n).activations->name, {}); !ok)
      return ok.why;
    if (node.outputs.size() != 1 || !plan_.is_f32(node.outputs[0])) return "it does not compute on float32";
    int resident = 0;
    for (const std::size_t i : data_positions(node, row)) {
      const ValueId v = node.inputs[i].value;
      if (v == ValueId::none) return "an operand is left out";
      if (!plan_.is_f32(v)) return "it does not compute on float32";
      if (graph_.is_constant(v)) {
        if (!plan_.fixed(v)) return "its constant operand can be overridden by the caller";
        continue;
      }
      if (!resident_[at(v)] && !read_by_product_[at(v)]) return "its operand \"" + graph_[v].name + "\" is float";
      resident += resident_[at(v)] ? 1 : 0;
    }
    if (resident == 0) return "none of its operands comes from an integer kernel";
    if (decides_indices(node.outputs[0])) return "its result decides indices or comparisons";
    return {};
  }

  /// True when the value reaches a conversion to integers, a comparison or a selection before the next product: eight
  /// bits would change which element is taken, not how exact it is.
  bool decides_indices(ValueId v) {
    static const std::set<std::string_view> deciding{
        "ArgMax",          "ArgMin",  "TopK",   "NonZero",           "Less",
        "LessOrEqual",     "Greater", "Equal",  "GreaterOrEqual",    "Range",
        "ConstantOfShape", "OneHot",  "Unique", "NonMaxSuppression", "IsInf"};
    if (const auto known = deciding_.find(v); known != deciding_.end()) return known->second;
    bool result = false;
    for (const Links::Consumer& c : plan_.links.consumers(v)) {
      if (c.node == NodeId::none || result) continue;
      const Node& node = graph_[c.node];
      if (deciding.contains(node.op)) result = true;
      if (kind(c.node) == Kind::product || node.op == "Shape" || node.op == "Size") continue;
      for (const ValueId out : node.outputs) {
        if (result || out == ValueId::none) continue;
        const Type& type = plan_.type(out);
        const bool integers = type.known_dtype && !is_float(type.dtype) && node.op == "Cast";
        result = integers || decides_indices(out);
      }
    }
    return deciding_[v] = result;
  }

  // --- 3. useful arithmetic

  void keep_useful() {
    std::vector<bool> useful(graph_.node_slots());
    for (auto i = order_.rbegin(); i != order_.rend(); ++i) {
      const NodeId n = *i;
      if (kind(n) != Kind::arithmetic && kind(n) != Kind::move) continue;
      const auto read = [&](ValueId v) {
        const auto all = plan_.links.consumers(v);
        return std::any_of(all.begin(), all.end(), [&](const auto& c) {
          return reads_codes(c) && (kind(c.node) == Kind::product || useful[at(c.node)]);
        });
      };
      if (kind(n) == Kind::arithmetic) {
        useful[at(n)] = read(anchor(n));
      } else {
        useful[at(n)] = std::any_of(graph_[n].outputs.begin(), graph_[n].outputs.end(), read);
      }
    }
    for (const NodeId n : order_) {
      if (kind(n) == Kind::arithmetic && !useful[at(n)]) {
        const ValueId v = anchor(n);
        resident_[at(v)] = false;
        if (v != graph_[n].outputs[0]) kind(plan_.links.producer(v)) = Kind::none;
        kind(n) = Kind::none;
        plan_.skip(n, "no integer kernel reads its result");
      } else if (kind(n) == Kind::move && !resident_[at(graph_[n].inputs[0].value)]) {
        for (const ValueId v : graph_[n].outputs) resident_[at(v)] = false;
        kind(n) = Kind::none;
      }
    }
  }

  // --- 4. operands from float nodes

  // A move whose result only integer kernels read, and whose operand only it reads, moves codes.
  void quantize_before(NodeId n) {
    if (kind(n) != Kind::none || !plan_.wants(n, "static") || is_relu(graph_[n]) || !can_move(n)) return;
    const Node& node = graph_[n];
    if (node.outputs.size() != 1 || !plan_.is_f32(node.inputs[0].value) || !sole_reader(node.inputs[0].value)) return;
    const auto all = plan_.links.consumers(node.outputs[0]);
    if (std::all_of(all.begin(), all.end(), [&](const auto& c) { return reads_codes(c); })) kind(n) = Kind::move;
  }

  // A product whose quantizer is optional: when one consumer takes codes, all must, or the runtime fuses nothing.
  void settle_output(NodeId n) {
    if (kind(n) != Kind::product || row_of(n)->needs_output_quant) return;
    const ValueId v = graph_[n].outputs[0];
    const auto all = plan_.links.consumers(v);
    if (std::any_of(all.begin(), all.end(), [&](const auto& c) { return reads_codes(c); })) resident_[at(v)] = true;
  }

  // --- 5. groups

  std::size_t root(std::size_t v) {
    while (parent_[v] != v) v = parent_[v] = parent_[parent_[v]];
    return v;
  }

  void join(ValueId a, ValueId b) {
    const std::size_t keep = std::min(root(at(a)), root(at(b))), drop = std::max(root(at(a)), root(at(b)));
    if (keep == drop) return;
    parent_[drop] = keep;
    Traits& t = traits_[keep];
    const Traits& u = traits_[drop];
    t = {t.behind_relu || u.behind_relu, t.behind_clip || u.behind_clip, t.free || u.free, t.fixed || u.fixed};
  }

  void group(NodeId n) {
    const Node& node = graph_[n];
    if (kind(n) == Kind::move) {
      for (const ValueId v : node.outputs) join(node.inputs[0].value, v);
      if (is_relu(node)) traits_[root(at(node.inputs[0].value))].behind_relu = true;
      return;
    }
    if (kind(n) != Kind::product && kind(n) != Kind::arithmetic) return;
    const ValueId v = anchor(n);
    Traits& traits = traits_[root(at(v))];
    const NodeId last = plan_.links.producer(v);
    traits.behind_relu = traits.behind_relu || (last != n && graph_[last].op == "Relu");
    traits.behind_clip = traits.behind_clip || (last != n && graph_[last].op == "Clip");
    if (!resident_[at(v)]) return;
    traits.fixed = traits.fixed || row_of(n)->fixed_output;
    if (node.op == "Concat" && last == n && concat_can_share(node)) {
      for (const Use& use : node.inputs) join(use.value, v);
    } else if (last == n) {
      traits.free = true;
    }
  }

  // With one scale for all, Concat is a copy. Not at the price of a Relu or Clip that is no longer redundant, and not
  // where somebody else would get the wider range.
  bool concat_can_share(const Node& node) {
    Traits all;
    for (const Use& use : node.inputs) {
      if (graph_.is_constant(use.value) || !sole_reader(use.value)) return false;
      const Traits& t = traits_[root(at(use.value))];
      all = {all.behind_relu || t.behind_relu, all.behind_clip || t.behind_clip,
             all.free || t.free || !resident_[at(use.value)], all.fixed || t.fixed};
    }
    return !all.fixed && !all.behind_clip && !(all.behind_relu && all.free);
  }

  // --- writing it down

  Quant spec_of(ValueId v, NodeId by) {
    const std::size_t r = root(at(v));
    if (const auto found = specs_.find(r); found != specs_.end()) return found->second;
    QuantSpec spec;
    spec.format = plan_.wish(by).activations;
    // A Relu or Clip is redundant only when the lowest code stands for its lower bound: that takes a zero point.
    spec.symmetric = spec.format->lowest < 0 &&
                     (plan_.ctx.target.symmetric_activations || (!traits_[r].behind_relu && !traits_[r].behind_clip));
    if (traits_[r].fixed) {
      // Outputs in [0, 1): with 1/256 the fused kernels equal the float reference exactly.
      spec.symmetric = false;
      spec.scale = Tensor::scalar(1.0F / 256.0F);
      spec.zero_point = Tensor::scalar(static_cast<std::int32_t>(spec.format->lowest));
    }
    return specs_.emplace(r, std::make_shared<const QuantSpec>(std::move(spec))).first->second;
  }

  void annotate() {
    for (const NodeId n : order_) {
      if (is_integer(n) || kind(n) == Kind::absorbed) plan_.decided(n);
      // A Relu that is absorbed although the quantizer behind it is not the kernel's due (Gemm, Relu, Gemm).
      if (kind(n) == Kind::product && !row_of(n)->needs_output_quant) {
        const auto all = plan_.links.consumers(anchor(n));
        const bool codes = std::all_of(all.begin(), all.end(), [&](const auto& c) { return reads_codes(c); });
        if (anchor(n) != graph_[n].outputs[0] && codes) plan_.decided(plan_.links.producer(anchor(n)));
      }
      for (const std::size_t i : integer_positions(n)) annotate_operand(n, i);
      if (kind(n) == Kind::product) annotate_weight(n);
    }
    if (plan_.ctx.target.quantized_shortcuts) {
      for (const NodeId n : order_) annotate_shortcut(n);
    }
    for (const ValueId v : graph_.values()) {
      if (!resident_[at(v)]) continue;
      const NodeId by = plan_.links.producer(v);
      for (const Links::Consumer& c : plan_.links.consumers(v)) use_at(graph_, c).quant = spec_of(v, by);
    }
  }

  // An Add fuses into the Conv that feeds only it; where both operands come from such a Conv, into the first.
  void annotate_shortcut(NodeId n) {
    Node& add = graph_[n];
    if (add.op != "Add" || !add.domain.empty() || !plan_.wants(n, "static")) return;
    const auto fuses = [&](std::size_t i) {
      const NodeId from = plan_.links.producer(add.inputs[i].value);
      return from != NodeId::none && kind(from) == Kind::product && graph_[from].op == "Conv" &&
             sole_reader(add.inputs[i].value).has_value();
    };
    if (!fuses(0) && !fuses(1)) return;
    Use& shortcut = add.inputs[fuses(0) ? 1 : 0];
    const Type &a = plan_.type(add.inputs[0].value), &b = plan_.type(add.inputs[1].value);
    if (graph_.is_constant(shortcut.value) || !a.known_rank || !b.known_rank || a.shape != b.shape) return;
    shortcut.quant = spec_of(shortcut.value, n);
    plan_.decided(n);
  }

  void annotate_operand(NodeId n, std::size_t i) {
    Use& use = graph_[n].inputs[i];
    if (!graph_.is_constant(use.value)) {
      use.quant = spec_of(use.value, n);
      return;
    }
    QuantSpec spec;  // a constant operand: on the activations' format, range from its data
    spec.format = plan_.wish(n).activations;
    spec.symmetric = spec.format->lowest < 0;
    use.quant = std::make_shared<const QuantSpec>(spec);
  }

  void annotate_weight(NodeId n) {
    Node& node = graph_[n];
    const Tensor* weight = plan_.fixed(node.inputs[1].value);
    if (weight == nullptr) return;
    node.inputs[1].quant = std::make_shared<const QuantSpec>(
        weight_spec(plan_.wish(n), node, weight->shape(), plan_.ctx.target.saturating_u8s8));
    std::string why;
    if (row_of(n)->bias_input < 0 || third_operand(node, why) == ValueId::none) return;
    QuantSpec spec;
    spec.format = &number::int16;  // is_bias: int32 codes, for which there is no number format
    spec.is_bias = true;
    node.inputs[static_cast<std::size_t>(row_of(n)->bias_input)].quant = std::make_shared<const QuantSpec>(spec);
  }

  Plan& plan_;
  Graph& graph_;
  const std::vector<NodeId> order_;
  std::vector<Kind> kind_;
  std::vector<bool> resident_, read_by_product_;  // by ValueId
  std::vector<std::size_t> parent_;               // union-find over values
  std::vector<Traits> traits_;                    // at the root
  std::map<std::size_t, Quant> specs_;            // by root
  std::map<ValueId, bool> deciding_;
};

}  // namespace

void assign_static(Plan& plan) {
  bool any = false;
  for (const NodeId n : plan.graph.nodes()) any = any || plan.wants(n, "static");
  if (any) StaticPlan(plan).run();
}

}  // namespace qtool::assign
