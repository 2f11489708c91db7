// SPDX-License-Identifier: Apache-2.0
// round_nearest: scales from the range of each weight, codes by rounding to nearest (number-formats.md section 2).
//
// Works on every use of a constant that has a decision without codes. Scales that are there already (learned by an
// earlier pass) stay. `clip: mse` shrinks the range of each scale by the ratio that loses least in the mean square
// (gptq.md 4.2); block formats have rules of their own (number-formats.md sections 5 and 7), and `scale_rule` names
// one. `importance` weighs the errors of that search by the mean squares of the inputs, as llama.cpp's quantizers do.
// Biases get no codes, since scale and codes follow from activation and weight; but a bias that int32 cannot hold
// enlarges the scale of its weights first (onnx-quantized.md section 3, Conventions).
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>

#include "formats/base/error.h"
#include "formats/ir/absent.h"
#include "formats/ir/merkle.h"
#include "formats/ir/parts.h"
#include "formats/ir/quant.h"
#include "formats/ir/snapshot.h"
#include "passes/importance.h"
#include "passes/pass.h"
#include "passes/product.h"
#include "passes/rewrite.h"
#include "passes/scales.h"

namespace qtool::pass {
namespace {

constexpr float largest_bias = 2147483647.0F;

void refuse_if_not_finite(const Graph& graph, NodeId node, ValueId v, const Tensor& x) {
  FloatParts floats(x);
  Parts({}, x.shape()).for_each([&](const Part& part) {
    const auto values = floats.at(part.begin, part.count);
    const auto bad = std::find_if(values.begin(), values.end(), [](float w) { return !std::isfinite(w); });
    if (bad == values.end()) return;
    throw Error(Code::input,
                "weight \"" + graph[v].name + "\" of node \"" + label(graph, node) + "\" holds " +
                    (std::isnan(*bad) ? "NaN" : "infinity") + " at element " +
                    std::to_string(part.begin + static_cast<std::size_t>(bad - values.begin())),
                "keep that node in float, or repair the model");
  });
}

class RoundNearest final : public Pass {
  std::string clip_ = "minmax", scale_format_ = "auto", scale_rule_ = "auto", importance_;

 public:
  void options(Options& o) override {
    o("clip", clip_, "range of a scale: all of it, or the part with the least squared error", {"minmax", "mse"});
    o("scale_format", scale_format_, "precision of scales; auto: that of the weights", {"auto", "f32", "f16"});
    o("scale_rule", scale_rule_,
      "how a scale is chosen, where the rule fits the format of scales; auto: as the number format says",
      {"auto", "range", "full_range", "floor", "even", "ceil", "rceil", "search", "four_over_six"});
    o.file("importance", importance_,
           "importance matrix (qtool imatrix, llama.cpp): how much the error of each input counts where scales are "
           "searched");
  }

  void run(Graph& graph, PassContext& ctx) override {
    const std::vector<Links::Consumer> uses = open_uses(graph, ctx);
    const std::optional<Importance> importance = importance_for(graph, uses, ctx);
    std::vector<Quant> decided(uses.size());
    ctx.threads.for_each(static_cast<std::int64_t>(uses.size()), 1, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t i = from; i < to; ++i) {
        ctx.check_stop();
        const auto k = static_cast<std::size_t>(i);
        decided[k] = known_or_rounded(graph, uses[k], weights_for(graph, uses[k], importance), ctx.keeping);
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
      forecast.weights.push_back(
          {clip_ == "mse" || rule_for(*use.quant) == ScaleRule::search ? "search" : "round", data.count()});
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

  std::optional<Importance> importance_for(const Graph& graph, const std::vector<Links::Consumer>& uses,
                                           PassContext& ctx) const {
    if (importance_.empty()) return {};
    std::vector<Product> products;
    bool searched = false;
    for (const Links::Consumer& place : uses) {
      const auto product = weighed(graph, place);
      if (product) products.push_back(*product);
      const QuantSpec& spec = *use_at(graph, place).quant;
      const ScaleRule rule = rule_for(spec);
      searched = searched || rule == ScaleRule::search || rule == ScaleRule::four_over_six || spec.alternative;
    }
    if (products.empty()) return {};
    if (!searched) {
      ctx.journal.warn("round_nearest", "importance says nothing without a search: set `clip: mse`");
      return {};
    }
    return Importance(importance_, graph, products, "round_nearest", ctx.journal);
  }

  /// The product whose weight this use is.
  static std::optional<Product> weighed(const Graph& graph, const Links::Consumer& place) {
    return place.input == static_cast<int>(Product::weight_input) ? product_of(graph, place.node) : std::nullopt;
  }

  /// Of each element; empty: all count alike.
  static Tensor weights_for(const Graph& graph, const Links::Consumer& place,
                            const std::optional<Importance>& importance) {
    const auto product = importance ? weighed(graph, place) : std::nullopt;
    return product ? weight_of_elements(graph, *product, importance->squares(graph, *product)) : Tensor();
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
  Quant known_or_rounded(const Graph& graph, const Links::Consumer& place, const Tensor& weights,
                         const Keeping& keeping) const {
    Kept* kept = keeping.kept;
    if (!use_at(graph, place).quant->ranges.empty()) return round(graph, place, weights);
    if (!kept || !(kept->cache() || (kept->work() && clip_ == "mse"))) return round(graph, place, weights);
    const Use& use = use_at(graph, place);
    const Tensor& data = graph[use.value].data;
    Json about = Json::object();
    about.set("value", graph[use.value].name);
    about.set("what", std::string(use.quant->format->name) + " codes, clip " + clip_ + ", scales " + scale_format_ +
                          (scale_rule_ == "auto" ? "" : ", rule " + scale_rule_));
    about.set("value_sha256", hex(Hasher().number(data.dtype()).digest(data.digest()).finish()));
    if (!weights.empty()) about.set("importance", hex(weights.digest()));
    about.set("shape", to_string(data.shape())).set("decision", hex(fingerprint(*use.quant)));
    about.set("build", *keeping.origin.find("build"));
    Json identity = about;
    const Digest key = Hasher().text(identity.set("value", "").dump()).finish();
    auto spec = std::make_shared<QuantSpec>(*use.quant);
    spec->dynamic = false;
    const auto read = [&](ByteReader& in, const Store::Entry&) {
      for (Tensor* t : tensors_of(*spec)) *t = read_tensor(in);
      const bool fits = spec->codes.dtype() == code_type(*spec->format) && spec->codes.shape() == data.shape();
      if (!fits) ByteReader::fail();
    };
    if (kept->find("codes", key, about, read)) return spec;
    const Quant rounded = round(graph, place, weights);
    kept->keep("codes", key, about, [rounded](ByteWriter& out, const Store&) {
      QuantSpec all = *rounded;
      for (const Tensor* t : tensors_of(std::as_const(all))) write_tensor(out, *t);
    });
    return rounded;
  }

  Quant round(const Graph& graph, const Links::Consumer& place, const Tensor& weights) const {
    const Use& use = use_at(graph, place);
    const Tensor& data = graph[use.value].data;
    QuantSpec spec = *use.quant;
    spec.dynamic = false;
    const bool half = scale_format_ == "f16" || (scale_format_ == "auto" && data.dtype() == DType::f16);
    const bool learned = !spec.scale.empty();  // scales from ranges find what is not finite by the way
    if (learned) refuse_if_not_finite(graph, place.node, use.value, data);
    try {
      return std::make_shared<const QuantSpec>(rounded(std::move(spec), data, weights, half));
    } catch (const Error&) {
      refuse_if_not_finite(graph, place.node, use.value, data);
      throw;
    }
  }

  /// Scales by the rule of the spec or of the recipe, codes to nearest.
  QuantSpec rounded(QuantSpec spec, const Tensor& x, const Tensor& weights, bool half) const {
    if (spec.scale.empty()) {
      const ScaleRule rule = spec.rule;
      spec.rule = rule_for(spec);
      const HalfScales stored(spec, half);
      choose_scales(spec, x, weights);
      spec.rule = rule;
    }
    spec.codes = nearest_codes(x, spec);
    for (IndexRange& r : spec.ranges) {
      if (!r.quant || !r.quant->codes.empty()) continue;
      const Tensor part = part_of(x, spec.range_axis, r.begin, r.end);
      const Tensor their = weights.empty() ? Tensor() : part_of(weights, spec.range_axis, r.begin, r.end);
      r.quant = std::make_shared<const QuantSpec>(rounded(*r.quant, part, their, half));
    }
    return spec;
  }

  /// The rule asked for where it means something for the spec's scales, else the spec's own.
  ScaleRule rule_for(const QuantSpec& spec) const {
    const auto names = scale_rules();
    const auto asked = std::find(names.begin(), names.end(), scale_rule_);
    const bool powers = spec.scale_format == &number::e8m0;
    if (asked != names.end()) {
      const auto rule = static_cast<ScaleRule>(asked - names.begin());
      const bool signed_codes = spec.symmetric && spec.format->is_integer && spec.format->lowest < 0 && !spec.narrow;
      switch (rule) {
        case ScaleRule::full_range:
          if (signed_codes && spec.scale_format == nullptr) return rule;
          break;
        case ScaleRule::four_over_six:
          if (spec.format == &number::e2m1 && !powers && spec.scale_format != nullptr) return rule;
          break;
        case ScaleRule::range:
        case ScaleRule::search: return rule;
        default:
          if (powers) return rule;
      }
    }
    return clip_ == "mse" && spec.rule == ScaleRule::range ? ScaleRule::search : spec.rule;
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
    spec->codes = nearest_codes(graph[weight.value].data, *spec);
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
