// SPDX-License-Identifier: Apache-2.0
// Activations quantized at run time: com.microsoft::DynamicQuantizeMatMul, which the runtime would otherwise have to
// find in a chain of five operators. Where several products read one value it is quantized once, and each product is
// a MatMulIntegerToFloat.
#include <algorithm>

#include "backends/ort_cpu/ort_cpu.h"
#include "formats/base/error.h"
#include "formats/ir/absent.h"

namespace qtool::ort_cpu {
namespace {

// [K,N] to [N,K] or back, one byte per code.
Tensor transposed(const Tensor& codes) {
  const std::int64_t rows = codes.shape()[0], columns = codes.shape()[1];
  if (is_absent(codes)) return absent(codes.dtype(), {columns, rows});
  Tensor out(codes.dtype(), {columns, rows});
  const auto from = codes.bytes();
  const auto to = out.write_bytes();
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      to[static_cast<std::size_t>(c * rows + r)] = from[static_cast<std::size_t>(r * columns + c)];
    }
  }
  return out;
}

class DynamicRule {
 public:
  explicit DynamicRule(Lowering& l) : l_(l) {}

  void run() {
    for (const NodeId n : l_.decided.nodes()) {
      if (applies(n)) product(n);
    }
  }

 private:
  // Scales at run time, one per tensor: blocks along K belong to MatMulNBits.
  bool applies(NodeId n) const {
    const Node& node = l_.decided[n];
    if (node.op != "MatMul" && node.op != "Gemm") return false;
    const Quant x = l_.quant(n, 0), w = l_.quant(n, 1);
    return x && w && x->dynamic && x->grain.kind == Grain::Kind::tensor && is_static(w) &&
           l_.decided.is_constant(l_.input(n, 1));
  }

  struct Quantized {
    ValueId codes = ValueId::none, scale = ValueId::none, zero_point = ValueId::none;
  };

  Quantized quantized_once(ValueId v) {
    if (const auto found = inputs_.find(v); found != inputs_.end()) return found->second;
    const Value value = l_.decided[v];
    Type scalar = value.type;
    scalar.known_rank = true;
    scalar.shape.clear();
    scalar.symbols.clear();
    Quantized q{l_.value(value.name + "_quantized", value.type, DType::u8),
                l_.value(value.name + "_scale", scalar, DType::f32),
                l_.value(value.name + "_zero_point", scalar, DType::u8)};
    l_.node("DynamicQuantizeLinear", "", {v}, {q.codes, q.scale, q.zero_point});
    return inputs_.emplace(v, q).first->second;
  }

  bool shared(ValueId v) const {
    const auto all = l_.links.consumers(v);
    return std::count_if(all.begin(), all.end(), [&](const Links::Consumer& c) {
             return c.node != NodeId::none && c.input == 0 && applies(c.node);
           }) > 1;
  }

  bool is_row(ValueId v, std::int64_t n) const {
    if (v == ValueId::none || !l_.decided.is_constant(v)) return false;
    const Tensor& data = l_.decided[v].data;
    return data.dtype() == DType::f32 && data.shape() == Shape{n};
  }

  void product(NodeId n) {
    const Node node = l_.decided[n];
    const ValueId x = l_.input(n, 0), w = l_.input(n, 1);
    const Value& weight = l_.decided[w];
    QuantSpec spec = resolved(*l_.quant(n, 1), weight.data);
    Tensor codes = stored_codes(spec);
    QTOOL_ENSURE(codes.rank() == 2, "dynamic products have a weight of two dimensions");
    if (node.op == "Gemm" && node.attrs.get("transB", std::int64_t{0}) != 0) codes = transposed(codes);
    const std::int64_t columns = codes.shape()[1];

    ValueId result = node.outputs[0], bias = ValueId::none, added = ValueId::none;
    if (const ValueId c = l_.third_operand(n); c != ValueId::none) (is_row(c, columns) ? bias : added) = c;
    if (bias == ValueId::none && added == ValueId::none) {
      if (const auto add = l_.only_consumer(result); add && l_.decided[add->node].op == "Add") {
        const ValueId operand = l_.input(add->node, add->input == 0 ? 1 : 0);
        if (is_row(operand, columns)) {
          bias = operand;
          result = l_.decided[add->node].outputs[0];
          l_.out.erase(add->node);
        }
      }
    }

    const ValueId b = l_.constant(weight.name + "_quantized", codes);
    const ValueId b_scale = l_.constant(weight.name + "_scale", spec.scale);
    const ValueId b_zero = l_.constant(weight.name + "_zero_point", stored_zero_point(spec, codes.dtype()));
    std::vector<ValueId> inputs;
    if (shared(x)) {
      const Quantized q = quantized_once(x);
      inputs = {q.codes, b, q.scale, b_scale, q.zero_point, b_zero};
    } else {
      inputs = {x, b, b_scale, b_zero};
    }
    if (bias != ValueId::none) inputs.push_back(bias);
    Node& now = l_.out[n];
    now.op = inputs.size() >= 6 ? "MatMulIntegerToFloat" : "DynamicQuantizeMatMul";
    now.domain = "com.microsoft";
    now.attrs = {};
    now.extras = nullptr;
    now.inputs.clear();
    for (const ValueId v : inputs) now.inputs.push_back({v, nullptr});
    now.outputs = {result};
    if (added != ValueId::none) {
      const ValueId raw = l_.value(l_.out[result].name + "_product", l_.out[result].type, DType::f32);
      l_.out[n].outputs = {raw};
      l_.node("Add", "", {raw, added}, {result});
    }
    l_.use_contrib();
    l_.emitted(n, l_.out[n].op);
    if (codes.size_bytes() + static_cast<std::size_t>(spec.scale.count()) * 5 >= weight.data.size_bytes()) {
      l_.costs(n, "codes and scales take more room than the float weights");
    }
  }

  Lowering& l_;
  std::map<ValueId, Quantized> inputs_;
};

}  // namespace

void lower_dynamic(Lowering& l) { DynamicRule(l).run(); }

}  // namespace qtool::ort_cpu
