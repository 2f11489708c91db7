// SPDX-License-Identifier: Apache-2.0
// What every reader of ONNX relies on: names that lead somewhere, an order in which nodes can run, and versions that
// have the operators and types in use (onnx-quantized.md sections 1, 2 and 7).
#include <algorithm>
#include <array>

#include "backends/verify/scene.h"

namespace qtool::verify {
namespace {

struct Since {
  std::string_view op;
  std::int64_t opset;
};

constexpr std::array<Since, 7> operators{{{"QuantizeLinear", 10},
                                          {"DequantizeLinear", 10},
                                          {"QLinearConv", 10},
                                          {"QLinearMatMul", 10},
                                          {"ConvInteger", 10},
                                          {"MatMulInteger", 10},
                                          {"DynamicQuantizeLinear", 11}}};

/// First operator set whose Q and DQ take codes of this type.
std::int64_t opset_for_codes(std::int32_t type) {
  switch (type) {
    case u16:
    case i16:
    case u4:
    case i4: return 21;
    case f4: return 23;
    case u2:
    case i2: return 25;
    default: return type >= f8_first && type <= f8_last ? 19 : 10;
  }
}

std::int64_t ir_for(std::int32_t type) {
  switch (type) {
    case u4:
    case i4: return 10;
    case f4: return 11;
    case e8m0: return 12;
    case u2:
    case i2: return 13;
    default: return type >= f8_first && type <= f8_last ? 9 : 3;
  }
}

void check_opset(const Scene& s, const NodeView& n) {
  const std::int64_t opset = s.opset();
  const auto needs = [&](std::int64_t least, const std::string& what) {
    if (opset >= least) return;
    s.findings.add(n, what + " needs opset " + std::to_string(least) + ", the file has " + std::to_string(opset),
                   "raise the operator set, or write it in an older form");
  };
  for (const Since& since : operators) {
    if (n.op == since.op) needs(since.opset, std::string(n.op));
  }
  if (n.op != "QuantizeLinear" && n.op != "DequantizeLinear") return;
  const TensorView* scale = s.constant(n, 1);
  const TensorView* zero = s.constant(n, 2);
  const TensorView* codes = n.op == "DequantizeLinear" ? s.constant(n, 0) : nullptr;
  if (scale != nullptr && scale->dims.size() == 1 && scale->count() > 1) needs(13, "a scale per channel");
  if (n.integer("block_size", 0) != 0) needs(21, "block_size");
  if (scale != nullptr && (scale->type == f16 || scale->type == bf16)) needs(19, name_of(scale->type) + " scales");
  if (scale != nullptr && scale->type == e8m0) needs(24, "float8e8m0 scales");
  for (const TensorView* t : {zero, codes}) {
    if (t != nullptr) needs(opset_for_codes(t->type), "codes of type " + name_of(t->type));
  }
}

void check_names(const Scene& s) {
  std::set<std::string_view> made;
  for (const NodeView& n : s.graph.nodes) {
    for (const std::string_view v : n.inputs) {
      if (v.empty()) continue;
      if (!s.is_known(v)) {
        s.findings.add(n, "it reads \"" + std::string(v) + "\", which nothing makes", "write the node or the constant");
      } else if (s.graph.producer.contains(v) && !s.graph.constants.contains(v) && !made.contains(v)) {
        s.findings.add(n, "it reads \"" + std::string(v) + "\" before it is made", "sort the nodes");
      }
    }
    made.insert(n.outputs.begin(), n.outputs.end());
  }
  for (const Declared& d : s.graph.outputs) {
    if (!s.is_known(d.name)) {
      s.findings.add("output \"" + std::string(d.name) + "\"", "nothing makes it", "keep the names of graph outputs");
    }
  }
}

}  // namespace

void check_structure(const Scene& s) {
  check_names(s);
  for (const NodeView& n : s.graph.nodes) {
    if (!n.domain.empty() && !s.file.opsets.contains(std::string(n.domain))) {
      s.findings.add(n, "its domain \"" + std::string(n.domain) + "\" is not imported",
                     "import it with its version beside the operator set");
    }
    const auto& runs = s.target.domains;
    if (n.domain == "com.microsoft" && std::find(runs.begin(), runs.end(), n.domain) == runs.end()) {
      s.findings.add(n, s.target.runtime + " has no operators of com.microsoft", "write it with standard operators");
    }
    if (n.domain.empty()) check_opset(s, n);
  }
  for (const auto& [name, t] : s.graph.constants) {
    if (s.file.ir >= ir_for(t.type)) continue;
    s.findings.add("tensor \"" + std::string(name) + "\"",
                   name_of(t.type) + " needs IR version " + std::to_string(ir_for(t.type)) + ", the file has " +
                       std::to_string(s.file.ir),
                   "raise the IR version");
  }
}

}  // namespace qtool::verify
