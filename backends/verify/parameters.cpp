// SPDX-License-Identifier: Apache-2.0
// Codes keep their meaning on the way: whoever reads them uses the scale and the zero point that they were made with,
// and nobody takes codes for numbers.
#include <algorithm>
#include <array>

#include "backends/verify/operators.h"
#include "backends/verify/scene.h"

namespace qtool::verify {
namespace {

constexpr std::array<std::string_view, 17> movers{
    "Reshape", "Transpose", "Flatten", "Squeeze",      "Unsqueeze", "Slice",     "Gather",   "Expand",      "Tile",
    "MaxPool", "Resize",    "Split",   "DepthToSpace", "ReduceMax", "ReduceMin", "Identity", "SpaceToDepth"};

/// Operators of floats alone, at the inputs that they compute with.
constexpr std::array<std::string_view, 30> floats_only{
    "Conv",       "ConvTranspose", "Gemm",      "MatMul",      "Add",         "Sub",
    "Mul",        "Div",           "Relu",      "LeakyRelu",   "Sigmoid",     "Tanh",
    "Softmax",    "Clip",          "HardSwish", "HardSigmoid", "AveragePool", "Sqrt",
    "Erf",        "Gelu",          "Exp",       "Log",         "Softplus",    "BatchNormalization",
    "ReduceMean", "ReduceSum",     "Pow",       "PRelu",       "LSTM",        "LayerNormalization"};

template <class List>
bool contains(const List& list, std::string_view op) {
  return std::find(list.begin(), list.end(), op) != list.end();
}

/// What codes are made with: where, and their parameters.
struct Origin {
  const NodeView* node = nullptr;
  Parameters p;
  std::int32_t type = 0;  // of the codes; 0: not known
};

class Walk {
 public:
  explicit Walk(const Scene& s) : s_(s) {}

  void run() {
    for (const NodeView& n : s_.graph.nodes) {
      read(n);
      write(n);
    }
    for (const Declared& d : s_.graph.outputs) {
      const auto found = origins_.find(d.name);
      if (found == origins_.end() || !is_real(d.type)) continue;
      s_.findings.add(*found->second.node,
                      "it puts out \"" + std::string(d.name) + "\", declared as " + name_of(d.type) + ", as codes",
                      "write a DequantizeLinear behind it");
    }
  }

 private:
  static std::int32_t type_of(const NodeView& n, const TensorView* zero) {
    if (zero != nullptr) return zero->type;
    return n.op == "QuantizeLinear" ? static_cast<std::int32_t>(n.integer("output_dtype", u8)) : 0;
  }

  void write(const NodeView& n) {
    if (n.outputs.empty()) return;
    if (n.is("QuantizeLinear")) {
      const Parameters p = s_.parameters(n, 1, 2);
      origins_[n.outputs[0]] = {&n, p, type_of(n, p.zero)};
    } else if (n.is("DynamicQuantizeLinear") && n.outputs.size() == 3) {
      origins_[n.outputs[0]] = {&n, {n.outputs[1], n.outputs[2], nullptr, nullptr}, u8};
    } else if (const auto slots = slots_of(n); slots && slots->output) {
      const Parameters p = s_.parameters(n, slots->output->scale, slots->output->zero);
      if (!p.scale_name.empty()) origins_[n.outputs[0]] = {&n, p, type_of(n, p.zero)};
    } else if (n.domain.empty() && (contains(movers, n.op) || n.op == "Pad")) {
      const auto from = n.inputs.empty() ? origins_.end() : origins_.find(n.inputs[0]);
      if (from == origins_.end()) return;
      const Origin origin = from->second;  // the insertion below moves what `from` points to
      for (const std::string_view out : n.outputs) origins_[out] = origin;
    }
  }

  void read(const NodeView& n) {
    if (n.is("DequantizeLinear")) compare(n, n.input(0), s_.parameters(n, 1, 2));
    if (const auto slots = slots_of(n)) {
      for (const Slot& slot : slots->inputs) compare(n, n.input(slot.codes), s_.parameters(n, slot.scale, slot.zero));
    }
    if (n.domain.empty() && contains(floats_only, n.op)) {
      for (std::size_t i = 0; i < n.inputs.size(); ++i) numbers(n, i);
    }
  }

  /// Codes at an input of an operator of floats.
  void numbers(const NodeView& n, std::size_t i) const {
    const std::string advice = "write a DequantizeLinear between";
    if (const auto found = origins_.find(n.inputs[i]); found != origins_.end()) {
      s_.findings.add(n, "it takes the codes of " + found->second.node->label() + " for numbers", advice);
      return;
    }
    const bool product = n.op == "Conv" || n.op == "Gemm" || n.op == "MatMul" || n.op == "ConvTranspose";
    const TensorView* weight = product && i == 1 ? s_.constant(n, i) : nullptr;
    if (weight != nullptr && is_code(weight->type)) {
      s_.findings.add(n, "it takes the codes \"" + std::string(weight->name) + "\" for numbers", advice);
    }
  }

  void compare(const NodeView& n, std::string_view codes, const Parameters& p) {
    const auto found = origins_.find(codes);
    const TensorView* constant = s_.constant(codes);
    if (found == origins_.end()) {
      if (constant != nullptr && is_code(constant->type)) origins_[codes] = {&n, p, constant->type};
      return;
    }
    const Origin& o = found->second;
    const std::string made = "the codes that " + o.node->label() + (constant != nullptr ? " reads" : " makes");
    const std::string advice = "use one scale and one zero point for one set of codes";
    if (!same(o.p.scale_name, o.p.scale, p.scale_name, p.scale)) {
      s_.findings.add(n, "it reads " + made + " with another scale", advice);
    }
    const std::int32_t type = p.zero != nullptr ? p.zero->type : 0;
    if (o.type != 0 && type != 0 && o.type != type) {
      s_.findings.add(n, "its zero point is " + name_of(type) + ", " + made + " are " + name_of(o.type),
                      "give the zero point the type of the codes");
      return;
    }
    const bool zero = p.zero_name.empty() ? is_zero(o.p.zero) : o.p.zero_name.empty() ? is_zero(p.zero) : false;
    if (!zero && !same(o.p.zero_name, o.p.zero, p.zero_name, p.zero)) {
      s_.findings.add(n, "it reads " + made + " with another zero point", advice);
    }
  }

  static bool is_zero(const TensorView* t) {
    if (t == nullptr) return true;
    for (std::int64_t i = 0; i < t->count(); ++i) {
      if (t->at(i) != 0) return false;
    }
    return true;
  }

  /// The same value, or constants with equal numbers.
  static bool same(std::string_view a, const TensorView* x, std::string_view b, const TensorView* y) {
    if (a == b) return true;
    if (x == nullptr || y == nullptr || x->count() != y->count() || bits_of(x->type) < 4) return false;
    for (std::int64_t i = 0; i < x->count(); ++i) {
      if (x->at(i) != y->at(i)) return false;
    }
    return true;
  }

  const Scene& s_;
  std::map<std::string_view, Origin> origins_;
};

}  // namespace

void check_parameters(const Scene& s) { Walk(s).run(); }

}  // namespace qtool::verify
