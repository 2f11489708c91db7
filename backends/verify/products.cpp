// SPDX-License-Identifier: Apache-2.0
// Products of codes, as pairs and as operators: biases on the scale of their product (the runtime fuses a wrong one
// without a word: onnx-quantized.md section 3, trap 1), axes of scales, sums that must fit into int32, and pairs of
// products that must fit into int16 where the processor adds them there.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backends/verify/operators.h"
#include "backends/verify/scene.h"

namespace qtool::verify {
namespace {

/// Scales are multiplied in float32; a bias scale may differ from the product by rounding alone.
constexpr double bias_tolerance = 1e-6;
constexpr std::int64_t int32_most = std::numeric_limits<std::int32_t>::max();

/// Activations and a constant weight, both as codes.
struct IntegerProduct {
  const NodeView* node = nullptr;
  std::size_t channel_axis = 0;
  Parameters x, w;
  const TensorView* codes = nullptr;
  const TensorView* bias = nullptr;  // int32 codes
};

std::size_t channel_axis(const NodeView& n, const TensorView& weight) {
  const std::size_t last = weight.dims.empty() ? 0 : weight.dims.size() - 1;
  if (n.op == "Conv" || n.op == "QLinearConv") return 0;
  if (n.op == "ConvTranspose") return std::min<std::size_t>(1, last);
  if (n.op == "Gemm" || n.op == "QGemm") return n.integer("transB", 0) != 0 ? 0 : last;
  return last;
}

bool is_product(const NodeView& n) { return n.is("Conv") || n.is("Gemm") || n.is("MatMul") || n.is("ConvTranspose"); }

class Products {
 public:
  explicit Products(const Scene& s) : s_(s) {}

  void run() const {
    for (const NodeView& n : s_.graph.nodes) {
      if (is_product(n)) pairs(n);
      if (const auto slots = slots_of(n); slots && slots->weight) fused(n, *slots);
      if (n.is("Conv") || n.is("Gemm") || n.is("ConvTranspose")) biased(n, n, 2);
      if (!n.is("Add")) continue;
      for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
        if (const NodeView* product = s_.producer(n, 1 - i, "MatMul")) biased(*product, n, i);
      }
    }
  }

 private:
  void pairs(const NodeView& n) const {
    const NodeView* w = s_.producer(n, 1, "DequantizeLinear");
    const TensorView* codes = w == nullptr ? nullptr : s_.constant(*w, 0);
    if (codes == nullptr) return;
    axis(n, *w, *codes);
    const NodeView* x = s_.producer(n, 0, "DequantizeLinear");
    if (x == nullptr) return;
    IntegerProduct p{&n, channel_axis(n, *codes), s_.parameters(*x, 1, 2), s_.parameters(*w, 1, 2), codes, nullptr};
    if (const NodeView* b = s_.producer(n, 2, "DequantizeLinear")) p.bias = s_.constant(*b, 0);
    sums(p);
  }

  void fused(const NodeView& n, const Slots& slots) const {
    const Slot& slot = slots.inputs[*slots.weight];
    const TensorView* codes = s_.constant(n, slot.codes);
    if (codes == nullptr) return;
    IntegerProduct p{&n, channel_axis(n, *codes), {}, s_.parameters(n, slot.scale, slot.zero), codes, nullptr};
    if (*slots.weight > 0) p.x = s_.parameters(n, slots.inputs[0].scale, slots.inputs[0].zero);
    if (slots.bias && slots.bias_is_codes) p.bias = s_.constant(n, *slots.bias);
    sums(p);
    saturated(n, p.bias);
  }

  /// Scales of a weight lie along the output channels, blocks along the reduction.
  void axis(const NodeView& n, const NodeView& dq, const TensorView& codes) const {
    const TensorView* scale = s_.constant(dq, 1);
    const auto rank = static_cast<std::int64_t>(codes.dims.size());
    if (scale == nullptr || scale->count() <= 1 || rank < 2) return;
    std::int64_t axis = dq.integer("axis", 1);
    if (axis < 0) axis += rank;
    const auto channels = static_cast<std::int64_t>(channel_axis(n, codes));
    if (dq.integer("block_size", 0) == 0) {
      if (axis == channels) return;
      s_.findings.add(dq,
                      "its scales lie along axis " + std::to_string(axis) + ", the output channels of " + n.label() +
                          " along axis " + std::to_string(channels),
                      "write one scale per output channel, on its axis");
    } else if (rank == 2 && axis == channels) {
      s_.findings.add(dq, "its blocks lie along axis " + std::to_string(axis) + ", the output channels of " + n.label(),
                      "let blocks lie along the axis that the product sums over");
    }
  }

  // `user` adds input `at` to what `product` computes: as int32 codes they must lie on the scale of the product.
  void biased(const NodeView& product, const NodeView& user, std::size_t at) const {
    const NodeView* bias = s_.producer(user, at, "DequantizeLinear");
    const NodeView* x = s_.producer(product, 0, "DequantizeLinear");
    const NodeView* w = s_.producer(product, 1, "DequantizeLinear");
    if (bias == nullptr || x == nullptr || w == nullptr) return;
    const TensorView* codes = s_.constant(*bias, 0);
    if (codes == nullptr) return;
    if (codes->type != i32) {
      s_.findings.add(*bias, "the bias of " + product.label() + " is " + name_of(codes->type) + ", not int32",
                      "write int32 codes on the scale of input and weight");
      return;
    }
    saturated(*bias, codes);
    const TensorView *s_b = s_.constant(*bias, 1), *s_x = s_.constant(*x, 1), *s_w = s_.constant(*w, 1);
    if (s_b == nullptr || s_x == nullptr || s_w == nullptr || s_x->count() == 0) return;
    const std::int64_t n = s_b->count();
    if (s_w->count() != 1 && s_w->count() != n) {
      s_.findings.add(*bias,
                      "it has " + counted(n, "scale") + ", the weight of " + product.label() + " has " +
                          std::to_string(s_w->count()),
                      "write the product of input and weight scale for every channel");
      return;
    }
    for (std::int64_t i = 0; i < n; ++i) {
      const double is = s_b->at(i), should = s_x->at(0) * s_w->at(s_w->count() == 1 ? 0 : i);
      if (!(should > 0) || std::abs(is - should) <= bias_tolerance * should) continue;
      s_.findings.add(*bias,
                      "bias scale " + std::to_string(i) +
                          " is not the product of input and weight scale; the runtime would use the product and say "
                          "nothing",
                      "write the product, and the codes that belong to it");
      return;
    }
  }

  void saturated(const NodeView& n, const TensorView* bias) const {
    if (bias == nullptr || bias->type != i32) return;
    for (std::int64_t i = 0; i < bias->count(); ++i) {
      const double code = bias->at(i);
      if (std::abs(code) < static_cast<double>(int32_most)) continue;
      s_.findings.add(n, "bias code " + std::to_string(i) + " is the end of int32: the bias was cut off",
                      "enlarge the weight scale of that channel");
      return;
    }
  }

  /// The largest and smallest sums that inputs can bring about, channel by channel.
  void sums(const IntegerProduct& p) const {
    const TensorView& w = *p.codes;
    if (w.type != u8 && w.type != i8) return;
    const std::int64_t count = w.count();
    if (count == 0 || p.channel_axis >= w.dims.size()) return;
    const std::int64_t channels = w.dims[p.channel_axis], deep = count / channels;
    const std::int32_t x_type = p.x.zero != nullptr && is_code(p.x.zero->type) ? p.x.zero->type : u8;
    const auto [lowest, highest] = range_of(x_type);
    const bool known = p.x.zero != nullptr && p.x.zero->count() == 1;
    const auto zero = known ? static_cast<std::int64_t>(p.x.zero->at(0)) : 0;
    const std::int64_t x_least = known ? lowest - zero : lowest - highest,
                       x_most = known ? highest - zero : highest - lowest;
    if (s_.target.saturating_u8s8 && w.type == i8) adjacent(p);
    const std::int64_t bias_most = largest(p.bias);
    if (deep <= (int32_most - bias_most) / (std::max(-x_least, x_most) * 255)) return;
    std::int64_t inner = 1;
    for (std::size_t a = p.channel_axis + 1; a < w.dims.size(); ++a) inner *= w.dims[a];
    std::vector<std::int64_t> above(static_cast<std::size_t>(channels)), below(above);
    constexpr std::int64_t part = 4096;
    std::vector<std::int32_t> codes(part);
    for (std::int64_t from = 0; from < count; from += part) {
      const std::span<std::int32_t> chunk(codes.data(), static_cast<std::size_t>(std::min(part, count - from)));
      w.read(from, chunk);
      for (std::size_t i = 0; i < chunk.size(); ++i) {
        const auto c = static_cast<std::size_t>((from + static_cast<std::int64_t>(i)) / inner % channels);
        const std::int64_t level = chunk[i] - zero_of(p.w.zero, c);
        (level > 0 ? above : below)[c] += level;
      }
    }
    for (std::size_t c = 0; c < above.size(); ++c) {
      const std::int64_t b = bias_of(p.bias, c);
      const std::int64_t most = above[c] * x_most + below[c] * x_least + b;
      const std::int64_t least = above[c] * x_least + below[c] * x_most + b;
      if (most <= int32_most && least >= -int32_most - 1) continue;
      s_.findings.add(*p.node,
                      "the sums of channel " + std::to_string(c) + " can reach " +
                          std::to_string(most > int32_most ? most : least) + ", beyond int32",
                      "leave the layer in float, or enlarge the scale of its weights");
      return;
    }
  }

  static std::int64_t zero_of(const TensorView* zero, std::size_t c) {
    if (zero == nullptr || zero->count() == 0) return 0;
    const auto i = static_cast<std::int64_t>(c);
    return static_cast<std::int64_t>(zero->at(i < zero->count() ? i : 0));
  }
  static std::int64_t bias_of(const TensorView* bias, std::size_t c) {
    const auto i = static_cast<std::int64_t>(c);
    return bias != nullptr && i < bias->count() ? static_cast<std::int64_t>(bias->at(i)) : 0;
  }
  static std::int64_t largest(const TensorView* bias) {
    std::int64_t most = 0;
    for (std::int64_t i = 0; bias != nullptr && i < bias->count(); ++i) {
      most = std::max(most, std::abs(bias_of(bias, static_cast<std::size_t>(i))));
    }
    return most;
  }

  /// Two products of uint8 and int8 are added in 16 bits: weights beyond 64 can saturate there.
  void adjacent(const IntegerProduct& p) const {
    constexpr std::int32_t most = 64;  // 2 * 255 * 64 < 32768
    constexpr std::int64_t part = 4096;
    std::vector<std::int32_t> codes(part);
    const std::int64_t count = p.codes->count();
    for (std::int64_t from = 0; from < count; from += part) {
      const std::span<std::int32_t> chunk(codes.data(), static_cast<std::size_t>(std::min(part, count - from)));
      p.codes->read(from, chunk);
      const auto bad = std::find_if(chunk.begin(), chunk.end(), [](std::int32_t q) { return q > most || q < -most; });
      if (bad == chunk.end()) continue;
      s_.findings.add(*p.node,
                      "weight code " + std::to_string(from + (bad - chunk.begin())) + " is " + std::to_string(*bad) +
                          ", and sums of two products saturate at 16 bits on this processor",
                      "use 7-bit weights");
      return;
    }
  }

  const Scene& s_;
};

}  // namespace

void check_products(const Scene& s) { Products(s).run(); }

}  // namespace qtool::verify
