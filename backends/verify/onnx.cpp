// SPDX-License-Identifier: Apache-2.0
// What ONNX Runtime relies on in a quantized file and does not check, or checks only when it is too late: sizes of
// packed codes, scales and zero points, and biases on the scale of their product (it fuses a wrong one without a word).
#include <algorithm>
#include <cmath>

#include "backends/backend.h"
#include "backends/verify/onnx_file.h"
#include "formats/base/error.h"

namespace qtool {
namespace verify {
namespace {

/// Scales are multiplied in float32; a bias scale may differ from the product by rounding alone.
constexpr double bias_tolerance = 1e-6;

class Check {
 public:
  Check(const GraphView& graph, const FileView& file) : g_(graph), file_(file) {}

  void run() const {
    for (const NodeView& n : g_.nodes) {
      if (!n.domain.empty() && !file_.opsets.contains(std::string(n.domain))) {
        refuse(n, "its domain \"" + std::string(n.domain) + "\" is not imported");
      }
      if (n.domain.empty()) standard(n);
      if (n.domain == "com.microsoft") contrib(n);
    }
    for (const GraphView& body : g_.bodies) Check(body, file_).run();
  }

 private:
  [[noreturn]] static void refuse(const NodeView& n, const std::string& what) {
    throw Error(Code::verification, "the written file fails its check: " + n.label() + ": " + what);
  }

  const TensorView* constant(const NodeView& n, std::size_t i) const {
    if (i >= n.inputs.size() || n.inputs[i].empty()) return nullptr;
    const auto found = g_.constants.find(n.inputs[i]);
    return found == g_.constants.end() ? nullptr : &found->second;
  }
  const TensorView& needed(const NodeView& n, std::size_t i, const char* what) const {
    const TensorView* t = constant(n, i);
    if (t == nullptr) refuse(n, std::string("its ") + what + " is no constant");
    return *t;
  }
  const NodeView* producer(const NodeView& n, std::size_t i, std::string_view op) const {
    if (i >= n.inputs.size()) return nullptr;
    const auto found = g_.producer.find(n.inputs[i]);
    if (found == g_.producer.end()) return nullptr;
    const NodeView& from = g_.nodes[found->second];
    return from.op == op && from.domain.empty() ? &from : nullptr;
  }
  static std::int64_t attribute(const NodeView& n, std::string_view name, std::int64_t otherwise) {
    const auto found = n.ints.find(name);
    return found == n.ints.end() ? otherwise : found->second;
  }
  static void expect(const NodeView& n, bool holds, const std::string& what) {
    if (!holds) refuse(n, what);
  }

  static void check_scales(const NodeView& n, const TensorView& scale) {
    if (scale.type != f32 && scale.type != f16 && scale.type != bf16) return;  // e8m0 and the like
    for (std::int64_t i = 0; i < scale.count(); ++i) {
      const double s = scale.at(i);
      expect(n, std::isfinite(s) && s > 0, "scale " + std::to_string(i) + " is " + std::to_string(s));
    }
  }

  void standard(const NodeView& n) const {
    if (n.op == "QuantizeLinear" || n.op == "DequantizeLinear") pair(n);
    if (n.op == "Conv" || n.op == "Gemm") biased(n, n, 2);
    if (n.op == "Add") {
      for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
        if (const NodeView* product = producer(n, 1 - i, "MatMul")) biased(*product, n, i);
      }
    }
    if (n.op == "Gemm") {
      if (const NodeView* dq = producer(n, 1, "DequantizeLinear")) {
        expect(*dq, dq->inputs.size() > 2 && !dq->inputs[2].empty(),
               "a Gemm weight needs an explicit zero point to be fused");
      }
    }
    if (n.op == "QLinearConv" || n.op == "QLinearMatMul") {
      for (const std::size_t i : {std::size_t{1}, std::size_t{4}, std::size_t{6}}) {
        if (const TensorView* scale = constant(n, i)) check_scales(n, *scale);
      }
    }
  }

  void pair(const NodeView& n) const {
    const TensorView* scale = constant(n, 1);
    if (scale == nullptr) return;  // computed while it runs
    check_scales(n, *scale);
    const TensorView* zero = constant(n, 2);
    const TensorView* codes = n.op == "DequantizeLinear" ? constant(n, 0) : nullptr;
    if (zero != nullptr) {
      expect(
          n, zero->count() == scale->count(),
          "it has " + std::to_string(scale->count()) + " scales and " + std::to_string(zero->count()) + " zero points");
      if (codes != nullptr) expect(n, zero->type == codes->type, "codes and zero point differ in type");
      if (zero->type == i32) {
        for (std::int64_t i = 0; i < zero->count(); ++i) expect(n, zero->at(i) == 0, "int32 codes have a zero point");
      }
    }
    if (codes == nullptr || scale->count() == 1) return;
    const auto rank = static_cast<std::int64_t>(codes->dims.size());
    std::int64_t axis = attribute(n, "axis", 1);
    if (axis < 0) axis += rank;
    expect(n, axis >= 0 && axis < rank, "its axis is outside the codes");
    const std::int64_t extent = codes->dims[static_cast<std::size_t>(axis)], block = attribute(n, "block_size", 0);
    if (block == 0) {
      expect(n, scale->dims.size() == 1 && scale->count() == extent,
             "it has " + std::to_string(scale->count()) + " scales for " + std::to_string(extent) + " channels");
    } else {
      std::vector<std::int64_t> shape = codes->dims;
      shape[static_cast<std::size_t>(axis)] = (extent + block - 1) / block;
      expect(n, scale->dims == shape, "its scales have not the shape of the blocks");
    }
  }

  // `user` adds input `at` to what `product` computes: as int32 codes they must lie on the scale of the product.
  void biased(const NodeView& product, const NodeView& user, std::size_t at) const {
    const NodeView* bias = producer(user, at, "DequantizeLinear");
    const NodeView* x = producer(product, 0, "DequantizeLinear");
    const NodeView* w = producer(product, 1, "DequantizeLinear");
    if (bias == nullptr || x == nullptr || w == nullptr) return;
    const TensorView* codes = constant(*bias, 0);
    if (codes == nullptr || codes->type != i32) return;
    const TensorView &s_b = needed(*bias, 1, "scale"), &s_x = needed(*x, 1, "scale"), &s_w = needed(*w, 1, "scale");
    for (std::int64_t i = 0; i < s_b.count(); ++i) {
      const double is = s_b.at(i), should = s_x.at(0) * s_w.at(s_w.count() == 1 ? 0 : i);
      expect(*bias, std::abs(is - should) <= bias_tolerance * should,
             "bias scale " + std::to_string(i) +
                 " is not the product of input and weight scale; the runtime would use "
                 "the product and say nothing");
    }
  }

  void contrib(const NodeView& n) const {
    if (n.op == "MatMulNBits") matmul_nbits(n);
    if (n.op == "GatherBlockQuantized") gather(n);
    if (n.op == "DynamicQuantizeMatMul") dynamic(n, 1, 2, 3, 4);
    if (n.op == "MatMulIntegerToFloat") dynamic(n, 1, 3, 5, 6);
  }

  static void power_of_two_block(const NodeView& n, std::int64_t block, std::int64_t highest) {
    const bool fits = block >= 16 && block <= highest && (block & (block - 1)) == 0;
    expect(n, fits, "block_size " + std::to_string(block) + " has no kernel");
  }

  void matmul_nbits(const NodeView& n) const {
    const std::int64_t k = attribute(n, "K", 0), columns = attribute(n, "N", 0), bits = attribute(n, "bits", 4);
    const std::int64_t block = attribute(n, "block_size", 0);
    power_of_two_block(n, block, 256);
    expect(n, bits == 2 || bits == 4 || bits == 8, std::to_string(bits) + " bits have no kernel");
    expect(n, n.ints.contains("accuracy_level"), "accuracy_level is left to the session");
    expect(n, bits == 4 || attribute(n, "accuracy_level", 0) != 0, "this width needs an accuracy level");
    expect(n, k > 0 && columns > 0, "it has no K or N");
    const std::int64_t blocks = (k + block - 1) / block;
    const TensorView& codes = needed(n, 1, "weight");
    expect(n, codes.type == u8 && codes.dims == std::vector<std::int64_t>{columns, blocks, block * bits / 8},
           "its weight is not [N, blocks, bytes per block]");
    const TensorView& scale = needed(n, 2, "scale");
    check_scales(n, scale);
    expect(n, scale.count() == columns * blocks, "it has " + std::to_string(scale.count()) + " scales");
    if (n.inputs.size() > 3 && !n.inputs[3].empty()) {
      const TensorView& zero = needed(n, 3, "zero point");
      expect(n, zero.type == u8 && zero.count() == columns * ((blocks * bits + 7) / 8),
             "its zero points are not packed row by row");
    }
    expect(n, n.inputs.size() <= 4 || n.inputs[4].empty(), "g_idx makes the runtime ignore zero points");
    if (n.inputs.size() > 5 && !n.inputs[5].empty()) {
      if (const TensorView* bias = constant(n, 5))
        expect(n, bias->dims == std::vector<std::int64_t>{columns}, "its bias is not [N]");
    }
  }

  void gather(const NodeView& n) const {
    const TensorView &codes = needed(n, 0, "table"), &scale = needed(n, 2, "scale");
    const std::int64_t bits = attribute(n, "bits", 4), block = attribute(n, "block_size", 128);
    power_of_two_block(n, block, std::int64_t{1} << 20);
    check_scales(n, scale);
    expect(n, codes.dims.size() == 2 && scale.dims.size() == 2 && codes.dims[0] == scale.dims[0],
           "table and scales differ in rows");
    const std::int64_t width = codes.dims[1] * 8 / bits;
    expect(n, scale.dims[1] == (width + block - 1) / block,
           "it has " + std::to_string(scale.dims[1]) + " scales per row");
  }

  void dynamic(const NodeView& n, std::size_t b, std::size_t s, std::size_t z, std::size_t bias) const {
    if (constant(n, b) == nullptr) return;  // a product of two activations
    const TensorView &codes = needed(n, b, "weight"), &scale = needed(n, s, "scale");
    check_scales(n, scale);
    expect(n, codes.dims.size() == 2 && (scale.count() == 1 || scale.count() == codes.dims[1]),
           "its scales are not one per column");
    if (const TensorView* zero = constant(n, z)) {
      expect(n, zero->type == codes.type && zero->count() == scale.count(), "its zero points do not fit the scales");
    }
    if (const TensorView* row = constant(n, bias)) {
      expect(n, row->dims.size() == 1 && row->dims[0] == codes.dims[1], "its bias is not one number per column");
    }
  }

  const GraphView& g_;
  const FileView& file_;
};

}  // namespace
}  // namespace verify

void verify_written(const std::filesystem::path& file, const Target& target) {
  const verify::FileView view = verify::read_file(file);
  const auto refuse = [&](const std::string& what) {
    throw Error(Code::verification, "the written file fails its check: " + what + ", more than " + target.runtime +
                                        " " + target.version + " loads");
  };
  if (view.ir > target.max_ir) refuse("it has IR version " + std::to_string(view.ir));
  if (const auto opset = view.opsets.find(""); opset != view.opsets.end() && opset->second > target.max_opset) {
    refuse("it has opset " + std::to_string(opset->second));
  }
  verify::Check(view.graph, view).run();
}

}  // namespace qtool
