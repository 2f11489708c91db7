// SPDX-License-Identifier: Apache-2.0
// calibrate_ranges: scales and zero points of activations from what the calibration data show, in one sweep of the
// reference reading. Values that share a spec get the union of their ranges.
//
// A value that only moves (or a Relu) read, all of whose results share its spec, does not count: what the moves leave
// out never matters, and saturation commutes with them. So in Conv, MaxPool, Relu the range is that of the Relu.
// A quantizer behind a Clip gets codes that all lie inside the bounds, else the runtime keeps the Clip and the layer
// before it in float.
// Tails that all readers of a value make the same of (x * sigmoid(x) below -8) do not count either.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>

#include "formats/base/error.h"
#include "formats/ir/absent.h"
#include "formats/ir/quant.h"
#include "passes/pass.h"
#include "passes/saturation.h"
#include "recipes/reader/where.h"

namespace qtool::pass {
namespace {

/// One spec without scale, and the values that are seen through it.
struct Group {
  Quant spec;
  std::vector<ValueId> values;
};

class CalibrateRanges final : public Pass {
  ObserverOptions observer_;

 public:
  void options(Options& o) override {
    o("method", observer_.method, "how a range is chosen from what was seen",
      {"minmax", "moving_average", "percentile", "entropy", "mse", "mae"});
    o("smoothing", observer_.smoothing, "least weight of a sample in the averages (method moving_average)", 0, 1);
    o("percentile", observer_.percentile, "share of the values inside the range, in percent (method percentile)", 50,
      100);
    o("bins", observer_.bins, "bins of the histogram (methods percentile, entropy, mse, mae)", 64, 1 << 20);
  }

  void run(Graph& graph, PassContext& ctx) override {
    const Links links(graph);
    std::vector<Group> groups = groups_without_scale(graph, links);
    if (groups.empty()) return;
    if (!ctx.calibration.has_data()) {
      throw Error(Code::calibration, "static activations need calibration data, and there are none",
                  "name a file of typical inputs with --calib or `data: {path: ...}`, or use `method: dynamic`");
    }
    std::vector<Calibration::Request> requests;
    for (const Group& group : groups) {
      for (const ValueId v : counted(graph, links, group, ctx.target)) {
        ObserverOptions options = observer_;
        options.format = group.spec->format;
        options.symmetric = group.spec->symmetric;
        requests.push_back({v, options});
      }
    }
    const std::vector<Range> ranges = ctx.calibration.ranges(graph, Reading::reference, requests);

    std::size_t next = 0;
    std::map<const QuantSpec*, Quant> filled;
    std::set<const QuantSpec*> broken;
    for (const Group& group : groups) {
      Bounds range;  // contains 0
      for (const ValueId v : counted(graph, links, group, ctx.target)) {
        const Range& seen = ranges[next++];
        Bounds told{seen.low[0], seen.high[0]};
        if (seen.infinite > 0 || !std::isfinite(told.low) || !std::isfinite(told.high)) {
          broken.insert(group.spec.get());
          continue;
        }
        if (told.low < told.high) told = told_apart(graph, links, v, told, *group.spec->format, ctx.threads);
        range = {std::min(range.low, told.low), std::max(range.high, told.high)};
      }
      if (broken.contains(group.spec.get())) continue;
      filled.emplace(group.spec.get(), scaled(graph, links, group, range));
      record(graph, group, range, *filled.at(group.spec.get()), ctx);
    }
    give_up(graph, broken, ctx);
    replace(graph, filled);
  }

  void plan(Graph& graph, PassContext& ctx, Forecast& forecast) override {
    const Links links(graph);
    std::vector<ValueId> observed;
    std::map<const QuantSpec*, Quant> filled;
    for (const Group& group : groups_without_scale(graph, links)) {
      const auto values = counted(graph, links, group, ctx.target);
      observed.insert(observed.end(), values.begin(), values.end());
      auto spec = std::make_shared<QuantSpec>(*group.spec);
      set_some_scales(*spec, {});
      filled.emplace(group.spec.get(), std::move(spec));
    }
    if (filled.empty()) return;
    forecast.sweeps.push_back({"calibrate_ranges", graph, Reading::reference, 0, 1, observed, observer_.method});
    replace(graph, filled);
  }

 private:
  static std::vector<Group> groups_without_scale(const Graph& graph, const Links& links) {
    std::vector<Group> groups;
    std::map<const QuantSpec*, std::size_t> index;
    for (const ValueId v : graph.values()) {
      if (graph.is_constant(v)) continue;
      for (const Links::Consumer& c : links.consumers(v)) {
        const Quant& spec = use_at(graph, c).quant;
        if (!spec || spec->dynamic || spec->is_bias || !spec->scale.empty()) continue;
        const auto [at, fresh] = index.emplace(spec.get(), groups.size());
        if (fresh) groups.push_back({spec, {}});
        auto& values = groups[at->second].values;
        if (values.empty() || values.back() != v) values.push_back(v);
      }
    }
    return groups;
  }

  static bool moves(const Node& node, const Target& target) {
    return (node.op == "Relu" && node.domain.empty()) || target.find(node, Role::move) != nullptr;
  }

  /// The values whose ranges decide.
  static std::vector<ValueId> counted(const Graph& graph, const Links& links, const Group& group,
                                      const Target& target) {
    const auto shares = [&](ValueId v) {
      const auto all = links.consumers(v);
      return !all.empty() &&
             std::all_of(all.begin(), all.end(), [&](const auto& c) { return use_at(graph, c).quant == group.spec; });
    };
    const auto only_moved = [&](const Links::Consumer& c) {
      if (c.node == NodeId::none || c.input != 0 || !moves(graph[c.node], target)) return false;
      const auto& outputs = graph[c.node].outputs;
      return std::all_of(outputs.begin(), outputs.end(), shares);
    };
    std::vector<ValueId> values;
    for (const ValueId v : group.values) {
      const auto all = links.consumers(v);
      if (!shares(v) || !std::all_of(all.begin(), all.end(), only_moved)) values.push_back(v);
    }
    return values;
  }

  static Quant scaled(const Graph& graph, const Links& links, const Group& group, Bounds range) {
    auto spec = std::make_shared<QuantSpec>(*group.spec);
    const float low[] = {range.low}, high[] = {range.high};
    set_scales(*spec, low, high, {});
    for (const ValueId v : group.values) {
      if (const auto clip = clip_behind(graph, links, v)) fit_into(*spec, *clip);
    }
    return spec;
  }

  /// The bounds of the Clip that produces `v`.
  static std::optional<Bounds> clip_behind(const Graph& graph, const Links& links, ValueId v) {
    const NodeId producer = links.producer(v);
    if (producer == NodeId::none || graph[producer].op != "Clip" || !graph[producer].domain.empty())
      return std::nullopt;
    const Node& node = graph[producer];
    const auto bound = [&](std::size_t i, const char* attribute, float otherwise) {
      if (i >= node.inputs.size() || node.inputs[i].value == ValueId::none) return node.attrs.get(attribute, otherwise);
      const Tensor& data = graph[node.inputs[i].value].data;
      return data.empty() || data.count() != 1 ? otherwise : to_f32(data).read<float>()[0];
    };
    constexpr float unbounded = std::numeric_limits<float>::infinity();
    return Bounds{bound(1, "min", -unbounded), bound(2, "max", unbounded)};
  }

  static void fit_into(QuantSpec& spec, Bounds clip) {
    const auto zero = spec.zero_point.empty() ? 0 : spec.zero_point.read<std::int32_t>()[0];
    const float below = static_cast<float>(zero) - spec.format->lowest;
    const float above = spec.format->highest - static_cast<float>(zero);
    float scale = spec.scale.read<float>()[0];
    if (below > 0 && clip.low < 0) scale = std::min(scale, -clip.low / below);
    if (above > 0 && clip.high > 0) scale = std::min(scale, clip.high / above);
    if (scale > 0) spec.scale = Tensor::scalar(scale);
  }

  static void record(const Graph& graph, const Group& group, Bounds range, const QuantSpec& spec, PassContext& ctx) {
    Json fact = Json::object();
    fact.set("value", graph[group.values.front()].name);
    fact.set("values", static_cast<std::int64_t>(group.values.size()));
    fact.set("low", static_cast<double>(range.low)).set("high", static_cast<double>(range.high));
    fact.set("scale", static_cast<double>(spec.scale.read<float>()[0]));
    ctx.journal.fact("range", std::move(fact));
  }

  static void replace(Graph& graph, const std::map<const QuantSpec*, Quant>& filled) {
    const auto change = [&](Use& use) {
      if (!use.quant) return;
      if (const auto found = filled.find(use.quant.get()); found != filled.end()) use.quant = found->second;
    };
    for (const NodeId n : graph.nodes()) {
      for (Use& use : graph[n].inputs) change(use);
      for (Use& use : graph[n].captured) change(use);
    }
    for (Use& use : graph.outputs) change(use);
  }

  /// A value that is not always finite has no range: nodes that read it stay float, and nothing is quantized for it.
  static void give_up(Graph& graph, const std::set<const QuantSpec*>& broken, PassContext& ctx) {
    if (broken.empty()) return;
    for (const NodeId n : graph.nodes()) {
      Node& node = graph[n];
      bool hit = false;
      for (Use& use : node.inputs) hit = hit || (use.quant && broken.contains(use.quant.get()));
      if (hit) ctx.journal.skip("calibrate_ranges", label_of(graph, n), "a value it reads is not always finite");
      for (Use& use : node.inputs) {
        const bool weight = hit && graph.is_constant(use.value);
        if (weight || (use.quant && broken.contains(use.quant.get()))) use.quant = nullptr;
      }
      for (Use& use : node.captured) {
        if (use.quant && broken.contains(use.quant.get())) use.quant = nullptr;
      }
    }
    for (Use& use : graph.outputs) {
      if (use.quant && broken.contains(use.quant.get())) use.quant = nullptr;
    }
  }
};

}  // namespace

constinit const PassDef calibrate_ranges{"calibrate_ranges",
                                         "scales of activations from the ranges that data show",
                                         "Nagel et al., A White Paper on Neural Network Quantization, arXiv 2106.08295",
                                         Effect::annotate,
                                         2,
                                         make_pass<CalibrateRanges>,
                                         true};

}  // namespace qtool::pass
