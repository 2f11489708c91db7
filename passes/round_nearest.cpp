// SPDX-License-Identifier: Apache-2.0
// round_nearest: scales from the range of each weight, codes by rounding to nearest (number-formats.md section 2).
//
// Works on every use of a constant that has a decision without codes. Scales that are there already (learned by an
// earlier pass) stay. `clip: mse` shrinks the range of each scale by the ratio that loses least in the mean square
// (gptq.md 4.2). Biases get no codes, since scale and codes follow from activation and weight; but a bias that int32
// cannot hold enlarges the scale of its weights first (onnx-quantized.md section 3, Conventions).
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "formats/base/error.h"
#include "formats/ir/absent.h"
#include "formats/ir/merkle.h"
#include "formats/ir/quant.h"
#include "formats/ir/snapshot.h"
#include "passes/pass.h"
#include "passes/product.h"
#include "passes/rewrite.h"

namespace qtool::pass {
namespace {

constexpr float largest_bias = 2147483647.0F;

/// Steps of the clip search: ratios 1, 0.98, ..., 0.52. A finer or longer walk gains less than two percent.
constexpr int clip_steps = 25;
constexpr float clip_step = 0.02F;

void refuse_if_not_finite(const Graph& graph, NodeId node, ValueId v, const Tensor& x) {
  const auto values = x.read<float>();
  const auto bad = std::find_if(values.begin(), values.end(), [](float w) { return !std::isfinite(w); });
  if (bad == values.end()) return;
  throw Error(Code::input,
              "weight \"" + graph[v].name + "\" of node \"" + label(graph, node) + "\" holds " +
                  (std::isnan(*bad) ? "NaN" : "infinity") + " at element " + std::to_string(bad - values.begin()),
              "keep that node in float, or repair the model");
}

/// Scales as float16 stores them, never zero; zero points follow.
void round_to_half(QuantSpec& spec, std::span<const float> low) {
  Tensor rounded = to_f32(from_f32(spec.scale, DType::f16));
  const auto scale = rounded.write<float>();
  for (float& s : scale) s = std::clamp(s, 0x1p-14F, 65504.0F);  // subnormals: runtimes may flush them to zero
  spec.scale = rounded;
  if (spec.symmetric || spec.zero_point.empty()) return;
  const float bottom = spec.format->lowest + (spec.narrow ? 1.0F : 0.0F);
  const auto zero = spec.zero_point.write<std::int32_t>();
  for (std::size_t i = 0; i < zero.size(); ++i) {
    const float z = std::nearbyint(bottom - std::min(low[i], 0.0F) / scale[i]);
    zero[i] = static_cast<std::int32_t>(std::clamp(z, bottom, spec.format->highest));
  }
}

class RoundNearest final : public Pass {
  std::string clip_ = "minmax", scale_format_ = "auto";

 public:
  void options(Options& o) override {
    o("clip", clip_, "range of a scale: all of it, or the part with the least squared error", {"minmax", "mse"});
    o("scale_format", scale_format_, "precision of scales; auto: that of the weights", {"auto", "f32", "f16"});
  }

  void run(Graph& graph, PassContext& ctx) override {
    const std::vector<Links::Consumer> uses = open_uses(graph, ctx);
    std::vector<Quant> decided(uses.size());
    ctx.threads.for_each(static_cast<std::int64_t>(uses.size()), 1, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t i = from; i < to; ++i) {
        ctx.check_stop();
        const auto k = static_cast<std::size_t>(i);
        decided[k] = known_or_rounded(graph, uses[k], ctx.keeping);
      }
    });
    share(graph, uses, decided);
    for (const Links::Consumer& place : uses) make_room_for_bias(graph, place, ctx);
  }

  void plan(Graph& graph, PassContext& ctx, Forecast& forecast) override {
    const std::vector<Links::Consumer> uses = open_uses(graph, ctx);
    std::vector<Quant> decided;
    for (const Links::Consumer& place : uses) {
      const Use& use = use_at(graph, place);
      const Tensor& data = graph[use.value].data;
      auto spec = std::make_shared<QuantSpec>(*use.quant);
      spec->dynamic = false;
      const bool open_zero = spec->scale.empty() && spec->grain.kind == Grain::Kind::groups &&
                             (!spec->symmetric || spec->format->lowest == 0);
      if (spec->scale.empty()) set_some_scales(*spec, data.shape());
      spec->codes = absent(code_type(*spec->format), data.shape());
      if (open_zero) {  // they are left out where all of them are the middle code
        forecast.doubts.push_back({"round_nearest", "zero points of \"" + graph[use.value].name + "\" depend on it",
                                   most_bytes_of_zeros(*spec, graph[use.value].name), 0});
      }
      forecast.weights.push_back({clip_ == "mse" ? "search" : "round", data.count()});
      decided.push_back(std::move(spec));
    }
    share(graph, uses, decided);
  }

 private:
  /// Uses of constants that have a decision and no codes.
  static std::vector<Links::Consumer> open_uses(const Graph& graph, const PassContext& ctx) {
    std::vector<Links::Consumer> uses;
    for (const NodeId id : graph.order()) {
      if (!ctx.selects(id)) continue;
      const Node& node = graph[id];
      for (std::size_t i = 0; i < node.inputs.size(); ++i) {
        const Use& use = node.inputs[i];
        if (!use.quant || !graph.is_constant(use.value) || !use.quant->codes.empty()) continue;
        if (!use.quant->is_bias) uses.push_back({id, static_cast<int>(i)});
      }
    }
    return uses;
  }

  /// Uses of one tensor under one decision go on sharing it.
  static void share(Graph& graph, const std::vector<Links::Consumer>& uses, const std::vector<Quant>& decided) {
    std::map<std::pair<ValueId, const QuantSpec*>, Quant> shared;
    for (std::size_t i = 0; i < uses.size(); ++i) {
      Use& use = use_at(graph, uses[i]);
      use.quant = shared.try_emplace({use.value, use.quant.get()}, decided[i]).first->second;
    }
  }

  /// A byte each, and what an initializer and its use say around them.
  static std::int64_t most_bytes_of_zeros(const QuantSpec& spec, const std::string& name) {
    constexpr std::int64_t around = 64;
    return spec.scale.count() + spec.scale.shape()[0] + 2 * static_cast<std::int64_t>(name.size()) + around;
  }

  /// Codes follow from the weight and from what was decided about it, and are kept under both: where they are slow to
  /// find, or where other runs may want them.
  Quant known_or_rounded(const Graph& graph, const Links::Consumer& place, const Keeping& keeping) const {
    Kept* kept = keeping.kept;
    if (!kept || !(kept->cache() || (kept->work() && clip_ == "mse"))) return round(graph, place);
    const Use& use = use_at(graph, place);
    const Tensor& data = graph[use.value].data;
    Json about = Json::object();
    about.set("value", graph[use.value].name);
    about.set("what", std::string(use.quant->format->name) + " codes, clip " + clip_ + ", scales " + scale_format_);
    about.set("value_sha256", hex(Hasher().number(data.dtype()).digest(data.digest()).finish()));
    about.set("shape", to_string(data.shape())).set("decision", hex(fingerprint(*use.quant)));
    about.set("build", *keeping.origin.find("build"));
    Json identity = about;
    const Digest key = Hasher().text(identity.set("value", "").dump()).finish();
    auto spec = std::make_shared<QuantSpec>(*use.quant);
    spec->dynamic = false;
    const auto read = [&](ByteReader& in, const Store::Entry&) {
      for (Tensor* t : found_by_rounding(*spec)) *t = read_tensor(in);
      const bool fits = spec->codes.dtype() == code_type(*spec->format) && spec->codes.shape() == data.shape();
      if (!fits) ByteReader::fail();
    };
    if (kept->find("codes", key, about, read)) return spec;
    const Quant rounded = round(graph, place);
    kept->keep("codes", key, about, [rounded](ByteWriter& out, const Store&) {
      QuantSpec all = *rounded;
      for (const Tensor* t : found_by_rounding(all)) write_tensor(out, *t);
    });
    return rounded;
  }

  static std::array<Tensor*, 5> found_by_rounding(QuantSpec& spec) {
    return {&spec.scale, &spec.second_scale, &spec.zero_point, &spec.minimum, &spec.codes};
  }

  Quant round(const Graph& graph, const Links::Consumer& place) const {
    const Use& use = use_at(graph, place);
    const Tensor& data = graph[use.value].data;
    const Tensor x = to_f32(data);
    refuse_if_not_finite(graph, place.node, use.value, x);
    auto spec = std::make_shared<QuantSpec>(*use.quant);
    spec->dynamic = false;
    if (spec->scale.empty()) {
      const bool half = scale_format_ == "f16" || (scale_format_ == "auto" && data.dtype() == DType::f16);
      std::vector<float> low, high;
      ranges_of(x, spec->grain, low, high);
      if (clip_ == "mse") search_clip(*spec, x, low, high, half);
      choose(*spec, low, high, x.shape(), half);
    }
    spec->codes = quantize(x, *spec);
    return spec;
  }

  static void choose(QuantSpec& spec, std::span<const float> low, std::span<const float> high, const Shape& x,
                     bool half) {
    const NumberFormat* scales = spec.scale_format;
    if (half && scales == &number::f16) spec.scale_format = nullptr;  // one level of scales, rounded below
    set_scales(spec, low, high, x);
    if (half && spec.scale_format == nullptr) round_to_half(spec, low);
    spec.scale_format = scales;
  }

  /// Replaces every range by the shrunken one with the least squared error.
  static void search_clip(const QuantSpec& spec, const Tensor& x, std::vector<float>& low, std::vector<float>& high,
                          bool half) {
    std::vector<float> best(low.size(), 1.0F), a(low.size()), b(low.size());
    std::vector<double> least(low.size(), std::numeric_limits<double>::infinity());
    QuantSpec candidate = spec;
    for (int step = 0; step < clip_steps; ++step) {
      const float ratio = 1.0F - clip_step * static_cast<float>(step);
      for (std::size_t i = 0; i < low.size(); ++i) a[i] = low[i] * ratio, b[i] = high[i] * ratio;
      choose(candidate, a, b, x.shape(), half);  // a second scale, once chosen for the whole range, stays
      const std::vector<double> errors = squared_errors(x, fake_quantize(x, candidate), spec.grain);
      for (std::size_t i = 0; i < errors.size(); ++i) {
        if (errors[i] < least[i]) least[i] = errors[i], best[i] = ratio;
      }
    }
    for (std::size_t i = 0; i < low.size(); ++i) low[i] *= best[i], high[i] *= best[i];
  }

  /// b / (s_x s_w) must fit int32, or s_w grows.
  static void make_room_for_bias(Graph& graph, const Links::Consumer& place, PassContext& ctx) {
    const NodeId id = place.node;
    Node& node = graph[id];
    const auto product = product_of(graph, id);
    if (!product || place.input != static_cast<int>(Product::weight_input) ||
        input_of(node, Product::bias_input) == ValueId::none)
      return;
    Use& bias = node.inputs[Product::bias_input];
    Use& weight = node.inputs[Product::weight_input];
    if (!bias.quant || !bias.quant->is_bias || !weight.quant || !node.inputs[0].quant) return;
    const Tensor* data = fixed_constant(graph, bias.value);
    const QuantSpec& x = *node.inputs[0].quant;
    if (data == nullptr || x.scale.count() != 1 || x.scale.empty() || weight.quant->scale.empty()) return;
    const float s_x = x.scale.read<float>()[0];
    const Tensor b32 = to_f32(*data);
    refuse_if_not_finite(graph, id, bias.value, b32);
    const auto b = b32.read<float>();
    auto spec = std::make_shared<QuantSpec>(*weight.quant);
    const auto scale = spec->scale.write<float>();
    if (scale.size() != 1 && scale.size() != b.size()) return;
    bool enlarged = false;
    for (std::size_t c = 0; c < b.size(); ++c) {
      float& s_w = scale[scale.size() == 1 ? 0 : c];
      if (std::abs(b[c]) / (s_x * s_w) < largest_bias) continue;
      // Half of the range leaves room for later corrections of the bias.
      s_w = std::abs(b[c]) / largest_bias / s_x * 2;
      enlarged = true;
    }
    if (!enlarged) return;
    spec->codes = Tensor();
    spec->codes = quantize(to_f32(graph[weight.value].data), *spec);
    weight.quant = std::move(spec);
    Json fact = Json::object();
    fact.set("pass", "round_nearest").set("node", label(graph, id));
    fact.set("what", "weight scales enlarged so that the bias fits int32");
    ctx.journal.fact("change", std::move(fact));
  }
};

}  // namespace

constinit const PassDef round_nearest{
    "round_nearest",        "scales from ranges, every weight to its nearest code", "", Effect::annotate, 1,
    make_pass<RoundNearest>};

}  // namespace qtool::pass
