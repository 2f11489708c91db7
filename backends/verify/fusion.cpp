// SPDX-License-Identifier: Apache-2.0
// Pairs that the runtime would leave as they are, or undo: the file pays for quantization and gets nothing
// (onnx-quantized.md sections 3 and 4, runtime-matrix.md). The rules are those of ONNX Runtime's CPU provider; for
// TensorRT there are a few of its own.
#include <algorithm>
#include <array>
#include <cmath>

#include "backends/verify/scene.h"

namespace qtool::verify {
namespace {

const char* const leave_out = "leave out the pairs around it";

/// They only move codes, which keep their meaning when scale and zero point are the same in front and behind.
constexpr std::array<std::string_view, 11> movers{"MaxPool",   "Reshape", "Transpose",   "Squeeze",
                                                  "Unsqueeze", "Flatten", "Slice",       "Gather",
                                                  "Expand",    "Tile",    "DepthToSpace"};

class Fusion {
 public:
  explicit Fusion(const Scene& s) : s_(s) {}

  void run() const {
    const bool cpu = s_.target.rewrites_float_layers;
    for (const NodeView& n : s_.graph.nodes) {
      if (n.is("Gemm")) gemm_zero_point(n);
      if (n.is("DequantizeLinear")) stored(n);
      if (cpu && (n.is("Conv") || n.is("ConvTranspose") || n.is("Gemm") || n.is("MatMul"))) product(n);
      if (cpu && n.domain.empty() && std::find(movers.begin(), movers.end(), n.op) != movers.end()) moved(n);
      if (s_.target.symmetric_activations) tensorrt(n);
    }
  }

 private:
  void add(const NodeView& n, const std::string& what, const std::string& advice) const {
    s_.findings.add(n, what, advice);
  }

  void gemm_zero_point(const NodeView& n) const {
    const NodeView* dq = s_.producer(n, 1, "DequantizeLinear");
    if (dq == nullptr || !dq->input(2).empty()) return;
    const TensorView* codes = s_.constant(*dq, 0);
    const TensorView* scale = s_.constant(*dq, 1);
    if (codes != nullptr && !is_code(codes->type)) return;  // float8 has no zero point, and is fused with nothing
    if (scale != nullptr && scale->type == e8m0) return;    // nor is what has such scales
    add(*dq, "a Gemm weight needs an explicit zero point to be fused", "write zeros");
  }

  /// Constants that are held as codes.
  void stored(const NodeView& dq) const {
    const TensorView* codes = s_.constant(dq, 0);
    if (codes == nullptr || dq.outputs.empty()) return;
    for (const std::size_t i : {0, 1, 2}) {
      if (dq.input(i).empty() || !s_.is_input(dq.input(i))) continue;
      add(dq,
          "\"" + std::string(dq.input(i)) + "\" is an input of the graph too, so that no runtime takes it for fixed",
          "list only what callers give among the inputs");
    }
    if (!s_.target.rewrites_float_layers) return;
    for (const Use& use : s_.uses(dq.outputs[0])) {
      if (use.node != nullptr && use.node->is("Gather") && use.input == 0) {
        add(*use.node, "the whole table \"" + std::string(codes->name) + "\" is dequantized for every call",
            "write it as GatherBlockQuantized, or leave it in float");
      }
    }
  }

  void moved(const NodeView& n) const {
    const NodeView* x = s_.producer(n, 0, "DequantizeLinear");
    const NodeView* q = n.outputs.size() == 1 ? s_.sole_reader(n.outputs[0]) : nullptr;
    if (x == nullptr || q == nullptr || !q->is("QuantizeLinear")) return;
    for (const std::size_t i : {1, 2}) {
      const TensorView *a = s_.constant(*x, i), *b = s_.constant(*q, i);
      if (a == nullptr || b == nullptr || a->count() != 1 || b->count() != 1 || a->at(0) == b->at(0)) continue;
      return add(n, "it stands between codes of two scales, so that it runs in float",
                 "let its input and its output share scale and zero point");
    }
  }

  /// What reads `v` alone, Relu and Clip passed over; null: an output, or several readers.
  const NodeView* behind(std::string_view v, const NodeView** cut) const {
    const NodeView* next = s_.sole_reader(v);
    if (next != nullptr && (next->is("Relu") || next->is("Clip")) && !next->outputs.empty()) {
      *cut = next;
      next = s_.sole_reader(next->outputs[0]);
    }
    return next;
  }

  void product(const NodeView& n) const {
    const NodeView *x = s_.producer(n, 0, "DequantizeLinear"), *w = s_.producer(n, 1, "DequantizeLinear");
    const TensorView* codes = w == nullptr ? nullptr : s_.constant(*w, 0);
    const TensorView* numbers = s_.constant(n, 1);
    const NodeView* cut = nullptr;
    const NodeView* next = n.outputs.empty() ? nullptr : behind(n.outputs[0], &cut);
    const bool quantized = next != nullptr && next->is("QuantizeLinear");
    if (codes != nullptr && x == nullptr) return weight_only(n, *w, *codes);
    if (x == nullptr) return;
    if (numbers != nullptr && is_real(numbers->type) && quantized && n.op != "MatMul") {
      return add(n, "its weight is float between quantized values, and the runtime would quantize it by itself",
                 "leave out the pairs on its input or its output");
    }
    if (codes == nullptr) return;
    const int bits = bits_of(codes->type);
    if (bits < 8) {
      return add(n, name_of(codes->type) + " weights with quantized activations have no kernel and run in float",
                 "use int8 weights, or float activations");
    }
    const TensorView* x_zero = s_.constant(*x, 2);
    if (bits > 8 || (x_zero != nullptr && bits_of(x_zero->type) > 8)) {
      return add(n, "16-bit codes have no kernel and run in float", "use 8-bit codes");
    }
    if (n.op == "ConvTranspose") return add(n, "it has no integer kernel and runs in float", leave_out);
    if (n.op == "Conv" && !quantized) {
      return add(n,
                 "it has no QuantizeLinear behind it, so that it runs in float and dequantizes its weight every time",
                 "quantize its output, or leave the layer in float");
    }
    if (n.op == "Conv" && cut != nullptr && quantized && cuts(*cut, *next)) {
      add(*cut, "it cuts values that the quantizer behind it keeps, so that " + n.label() + " is not fused",
          "choose a zero point and a range that make it redundant");
    }
    const TensorView* bias = n.op == "Gemm" ? s_.constant(n, 2) : nullptr;
    if (bias != nullptr && is_real(bias->type) && !quantized) {
      add(n, "with a float bias and no QuantizeLinear behind it, it runs in float", "write the bias as int32 codes");
    }
  }

  /// Whether a Relu or Clip changes what the quantizer behind it would keep.
  bool cuts(const NodeView& cut, const NodeView& q) const {
    const Parameters p = s_.parameters(q, 1, 2);
    if (p.scale == nullptr || p.zero == nullptr || p.scale->count() != 1 || p.zero->count() != 1) return false;
    if (!is_code(p.zero->type)) return false;
    const auto [lowest, highest] = range_of(p.zero->type);
    const double scale = p.scale->at(0), zero = p.zero->at(0), slack = scale * 1e-3;
    if (cut.op == "Relu") return zero > lowest;
    const TensorView *low = s_.constant(cut, 1), *high = s_.constant(cut, 2);
    return (low != nullptr && (lowest - zero) * scale < low->at(0) - slack) ||
           (high != nullptr && (highest - zero) * scale > high->at(0) + slack);
  }

  /// DequantizeLinear of a weight before a product in float: MatMulNBits when all is right, else float every time.
  void weight_only(const NodeView& n, const NodeView& w, const TensorView& codes) const {
    if (n.op == "Conv" || n.op == "ConvTranspose") {
      return add(n, "its weight is dequantized for every call",
                 "quantize its input and output too, or keep it in float");
    }
    if (s_.uses(w.outputs[0]).size() > 1) {
      add(w, "several nodes read it, so that it is fused with none and runs for every call",
          "give every product a DequantizeLinear and codes of its own");
    }
    const std::int64_t block = w.integer("block_size", 0);
    if (block != 0 && block < 16) {
      add(w, "blocks of " + std::to_string(block) + " have no kernel", "use blocks of 16 to 256");
    }
    if (n.op == "Gemm" && n.integer("transB", 0) != 0 && is_code(codes.type)) {
      add(n, "a transposed weight is not fused and is dequantized for every call", "store the weight as [K, N]");
    }
    if (bits_of(codes.type) == 2 && codes.dims.size() == 2 && codes.dims[1] % 4 != 0) {
      add(n, "2-bit weights with " + std::to_string(codes.dims[1]) + " columns give wrong numbers",
          "write MatMulNBits, or fill the columns up to a multiple of 4");
    }
  }

  void tensorrt(const NodeView& n) const {
    if (n.is("DynamicQuantizeLinear")) {
      add(n, s_.target.runtime + " has no such operator", "quantize with fixed ranges");
    }
    if (!n.is("DequantizeLinear")) return;
    const TensorView* codes = s_.constant(n, 0);
    if (codes == nullptr) return;
    if (codes->type == i32) {
      add(n, s_.target.runtime + " takes biases in float", "write the bias as it is");
    }
    if (bits_of(codes->type) == 4 && !codes->dims.empty() && codes->dims.back() % 2 != 0) {
      add(n, "4-bit codes with an odd last extent", "fill the weight up to an even number of columns");
    }
  }

  const Scene& s_;
};

}  // namespace

void check_fusion(const Scene& s) { Fusion(s).run(); }

}  // namespace qtool::verify
