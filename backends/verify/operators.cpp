// SPDX-License-Identifier: Apache-2.0
#include "backends/verify/operators.h"

#include "backends/verify/scene.h"

namespace qtool::verify {
namespace {

std::optional<Slots> contrib_slots(const NodeView& n) {
  if (n.op == "QGemm") {
    Slots s{{{0, 1, 2}, {3, 4, 5}}, std::nullopt, 1, 6, true, true};
    if (n.inputs.size() > 7) s.output = Slot{0, 7, 8};
    return s;
  }
  if (n.op == "MatMulIntegerToFloat") return Slots{{{0, 2, 4}, {1, 3, 5}}, std::nullopt, 1, 6, false, false};
  if (n.op == "DynamicQuantizeMatMul") return Slots{{{1, 2, 3}}, std::nullopt, 0, 4, false, false};
  if (n.op == "QLinearAdd" || n.op == "QLinearMul") {
    return Slots{{{0, 1, 2}, {3, 4, 5}}, Slot{0, 6, 7}, std::nullopt, std::nullopt, false, false};
  }
  if (n.op == "QLinearWhere") {
    return Slots{{{1, 2, 3}, {4, 5, 6}}, Slot{0, 7, 8}, std::nullopt, std::nullopt, false, false};
  }
  if (n.op == "QLinearConcat") {
    Slots s{{}, Slot{0, 0, 1}, std::nullopt, std::nullopt, false, false};
    for (std::size_t i = 2; i + 2 < n.inputs.size(); i += 3) s.inputs.push_back({i, i + 1, i + 2});
    return s;
  }
  if (n.op == "QLinearLeakyRelu" || n.op == "QLinearSigmoid" || n.op == "QLinearSoftmax" ||
      n.op == "QLinearAveragePool" || n.op == "QLinearGlobalAveragePool") {
    return Slots{{{0, 1, 2}}, Slot{0, 3, 4}, std::nullopt, std::nullopt, false, false};
  }
  return std::nullopt;
}

class Check {
 public:
  Check(const Scene& s, const NodeView& n, const Slots& slots) : s_(s), n_(n), slots_(slots) {}

  void run() const {
    for (std::size_t i = 0; i < slots_.inputs.size(); ++i) input(i);
    if (slots_.output) parameters(*slots_.output, nullptr, false);
    bias();
  }

 private:
  void add(const std::string& what, const std::string& advice) const { s_.findings.add(n_, what, advice); }

  void input(std::size_t i) const {
    const Slot& slot = slots_.inputs[i];
    parameters(slot, s_.constant(n_, slot.codes), slots_.weight == i);
  }

  void parameters(const Slot& slot, const TensorView* codes, bool per_channel) const {
    const Parameters p = s_.parameters(n_, slot.scale, slot.zero);
    if (p.scale_name.empty()) add("it has no scale at input " + std::to_string(slot.scale), "write all its inputs");
    if (slots_.needs_zero && p.zero_name.empty() && codes != nullptr) {
      add("its codes \"" + std::string(codes->name) + "\" have no zero point", "write an explicit zero point");
    }
    if (codes != nullptr && codes->type != u8 && codes->type != i8) {
      add("its codes \"" + std::string(codes->name) + "\" are " + name_of(codes->type), "its kernels take 8-bit codes");
    }
    if (codes != nullptr && p.zero != nullptr && p.zero->type != codes->type) {
      add("codes and zero point differ in type: " + name_of(codes->type) + " and " + name_of(p.zero->type),
          "give the zero point the type of the codes");
    }
    if (p.scale == nullptr) return;
    check_scale(s_, n_, *p.scale);
    const std::int64_t count = p.scale->count();
    if (p.zero != nullptr && p.zero->count() != count) {
      add("it has " + counted(count, "scale") + " and " + counted(p.zero->count(), "zero point"),
          "write one zero point per scale");
    }
    if (count == 1) return;
    if (!per_channel) {
      add("it has " + std::to_string(count) + " scales where its kernel takes one", "quantize that operand per tensor");
    } else if (codes != nullptr && count != channels(*codes)) {
      add("its scales are not one per output channel: " + std::to_string(count) + " for " +
              std::to_string(channels(*codes)),
          "write one scale per output channel");
    }
  }

  std::int64_t channels(const TensorView& weight) const {
    if (weight.dims.empty()) return 1;
    const bool rows = n_.op == "QLinearConv" || (n_.op == "QGemm" && n_.integer("transB", 0) != 0);
    return rows ? weight.dims.front() : weight.dims.back();
  }

  void bias() const {
    const TensorView* b = slots_.bias ? s_.constant(n_, *slots_.bias) : nullptr;
    const TensorView* w = slots_.weight ? s_.constant(n_, slots_.inputs[*slots_.weight].codes) : nullptr;
    if (b == nullptr) return;
    if (slots_.bias_is_codes ? b->type != i32 : !is_real(b->type)) {
      add("its bias is " + name_of(b->type),
          slots_.bias_is_codes ? "write int32 codes on the scale of input and weight" : "write it in float");
    }
    if (w != nullptr && (b->dims.size() != 1 || b->count() != channels(*w))) {
      add("its bias has the shape " + shape_text(b->dims) + ", not one number per output channel",
          "write it as a row of " + std::to_string(channels(*w)));
    }
  }

  const Scene& s_;
  const NodeView& n_;
  const Slots& slots_;
};

/// MatMulInteger and ConvInteger take zero points, and no scales.
void check_plain_integers(const Scene& s, const NodeView& n) {
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
    const TensorView *codes = s.constant(n, i), *zero = s.constant(n, i + 2);
    if (codes == nullptr || zero == nullptr) continue;
    if (zero->type != codes->type) {
      s.findings.add(n, "codes and zero point differ in type: " + name_of(codes->type) + " and " + name_of(zero->type),
                     "give the zero point the type of the codes");
    }
    const std::int64_t columns = codes->dims.empty()     ? 1
                                 : n.op == "ConvInteger" ? codes->dims.front()
                                                         : codes->dims.back();
    if (zero->count() != 1 && zero->count() != columns) {
      s.findings.add(
          n, "it has " + counted(zero->count(), "zero point") + " for " + std::to_string(columns) + " output channels",
          "write one, or one per channel");
    }
  }
}

}  // namespace

std::optional<Slots> slots_of(const NodeView& n) {
  if (n.domain == "com.microsoft") return contrib_slots(n);
  if (n.is("QLinearConv")) return Slots{{{0, 1, 2}, {3, 4, 5}}, Slot{0, 6, 7}, 1, 8, true, true};
  if (n.is("QLinearMatMul")) return Slots{{{0, 1, 2}, {3, 4, 5}}, Slot{0, 6, 7}, 1, std::nullopt, false, true};
  return std::nullopt;
}

void check_integer_operators(const Scene& s) {
  for (const NodeView& n : s.graph.nodes) {
    if (const auto slots = slots_of(n)) Check(s, n, *slots).run();
    if (n.is("MatMulInteger") || n.is("ConvInteger")) check_plain_integers(s, n);
  }
}

}  // namespace qtool::verify
