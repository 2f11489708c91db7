// SPDX-License-Identifier: Apache-2.0
// assign_formats: writes down what the recipe wishes, cut to what the target really runs. Nothing is measured and no
// scale is chosen; calibrate_ranges and the passes that choose codes fill the decisions in.
//
//   static   activations with fixed ranges and 8-bit weights, for integer kernels       (assign_static.cpp)
//   dynamic  products with 8-bit weights; activations are quantized while it runs        (assign_products.cpp)
//   weights  products and tables with weights in small groups, activations stay float    (assign_products.cpp)
//
// Every node that computes on floats and stays float gets a "skip" with its reason.
#include <algorithm>
#include <cstdlib>
#include <tuple>

#include "calib/one_sample.h"
#include "calib/op.h"
#include "formats/base/error.h"
#include "passes/assign.h"
#include "passes/fastest.h"
#include "recipes/reader/bind.h"
#include "recipes/reader/where.h"

namespace qtool::assign {

void Wish::options(Options& o) {
  o("method", method, "which operands get fewer bits, and when their scales are chosen",
    {"static", "dynamic", "weights"});
  o("activations", activations, "number format of activations (static, dynamic)");
  o("weights", weights, "number format of weights; method weights also takes block formats");
  o("grain", grain, "weights that share a scale: all of a tensor, an output channel, or a group along the inputs",
    {"tensor", "channel", "groups"});
  o("group", group, "weights per group, for grain: groups; 0: as many as a block format has, else 32", 0, 1 << 20);
  o("symmetric", symmetric, "weights without zero points");
  o("attention", attention, "quantize products of two activations too (static)");
  o("embeddings", embeddings, "quantize tables that Gather reads too (weights)");
  o("exact_inside", exact_inside,
    "method weights: no 8-bit activations inside the kernel (slower, a little more exact)");
  o("only_faster", only_faster, "leave in float what the target, by its rates, would run slower with fewer bits");
}

Plan::Plan(Graph& g, PassContext& c, const Wish& wish, const std::set<NodeId>& too_slow)
    : graph(g),
      ctx(c),
      links(g),
      wishes_(g.node_slots(), wish),
      rules_(g.node_slots()),
      decided_(g.node_slots()),
      types_(g.value_slots()) {
  for (const Rule& rule : ctx.rules) {
    for (const NodeId n : select(graph, rule.where)) {
      if (rules_[slot(n)] != nullptr) continue;
      rules_[slot(n)] = &rule;
      Wish& own = wishes_[slot(n)];
      bind_knobs(
          rule.wishes,
          [&own](Options& o) {
            declare_keep(o, own.keep);
            own.options(o);
          },
          "rule");
      // Fewer bits than the integer kernels take: the wish is for small weights, not for nothing.
      if (own.method == "static" && ctx.target.find(graph[n], Role::product) != nullptr &&
          !ctx.target.accepts(graph[n], Role::product, {}, own.weights->name) &&
          ctx.target.accepts(graph[n], Role::weight_only, {}, own.weights->name)) {
        own.method = "weights";
        own.grain = "groups";
      }
    }
  }
  carry_activations();
  for (const NodeId n : too_slow) {
    if (!wishes_[slot(n)].only_faster) continue;
    wishes_[slot(n)].keep = "float";
    skip(n, "the target runs it faster in float");
  }
  Graph inferred = graph;
  infer_types(inferred);
  for (const ValueId v : inferred.values()) {
    Type& t = types_[static_cast<std::size_t>(v)];
    t = inferred[v].type;
    if (!graph.is_constant(v)) continue;
    t.dtype = graph[v].data.dtype();
    t.known_dtype = t.known_rank = true;
    t.shape = graph[v].data.shape();
  }
}

void Plan::carry_activations() {
  std::set<std::string_view> told;
  for (const NodeId n : graph.nodes()) {
    Wish& own = wishes_[slot(n)];
    if (own.method != "static") continue;
    const std::string_view instead = ctx.target.activation_instead_of(own.activations->name);
    if (instead == own.activations->name) continue;
    if (told.insert(own.activations->name).second) {
      ctx.journal.warn("assign_formats", ctx.target.runtime + " takes activations in " + std::string(instead) +
                                             ", not " + std::string(own.activations->name));
    }
    own.activations = find_number(instead);
  }
}

bool Plan::wants(NodeId n, std::string_view method) const {
  return ctx.selects(n) && !keeps_float(n) && wish(n).method == method && !is_decided(n);
}

std::optional<std::int64_t> Plan::rank(ValueId v) const {
  if (!type(v).known_rank) return std::nullopt;
  return static_cast<std::int64_t>(type(v).shape.size());
}

const Tensor* Plan::fixed(ValueId v) const {
  if (v == ValueId::none || !graph.is_constant(v)) return nullptr;
  if (std::find(graph.inputs.begin(), graph.inputs.end(), v) != graph.inputs.end()) return nullptr;
  return &graph[v].data;
}

bool Plan::is_output(ValueId v) const {
  const auto all = links.consumers(v);
  return std::any_of(all.begin(), all.end(), [](const auto& c) { return c.node == NodeId::none; });
}

void Plan::skip(NodeId n, std::string_view why) {
  if (!skips_.emplace(n, why).second) return;
  ctx.journal.skip("assign_formats", label_of(graph, n), why);
}

int reduction_axis(const Node& product) {
  return product.op == "Gemm" && product.attrs.get("transB", std::int64_t{0}) != 0 ? 1 : 0;
}

ValueId third_operand(const Node& product, std::string& why) {
  if (product.inputs.size() < 3 || product.inputs[2].value == ValueId::none) return ValueId::none;
  const float beta = product.op == "Gemm" ? product.attrs.get("beta", 1.0F) : 1.0F;
  if (beta == 0) return ValueId::none;
  if (beta != 1) why = "its third operand is multiplied by beta, which is not 1";
  return product.inputs[2].value;
}

QuantSpec weight_spec(const Wish& wish, const Node& product, const Shape& weight, bool seven_bits) {
  QuantSpec spec;
  const NumberFormat* format = wish.weights->element;
  spec.format = seven_bits && format == &number::int8 ? &number::int7 : format;
  spec.symmetric = wish.symmetric;
  // -128 is left out: negation stays exact (onnx-quantized.md section 3, Conventions).
  spec.narrow = wish.symmetric && spec.format->lowest < 0;
  const int k = product.op == "Conv" ? 1 : reduction_axis(product);
  if (wish.grain == "groups") {
    spec.grain = {Grain::Kind::groups, k, wish.group_size(), 0};
  } else if (wish.grain == "channel" && weight.size() >= 2 && (weight.size() == 2 || product.op == "Conv")) {
    spec.grain = {Grain::Kind::axis, 1 - k, 0, 0};
  }
  return spec;
}

}  // namespace qtool::assign

namespace qtool::pass {
namespace {

// Nodes that compute on floats and that no method took: the reasons not told yet. Nodes that only move numbers are not
// worth a line; with small weights or activations quantized at run time, only nodes with weights are.
void explain_rest(assign::Plan& plan) {
  for (const NodeId n : plan.graph.nodes()) {
    const Node& node = plan.graph[n];
    if (plan.is_decided(n) || plan.skipped(n) || !plan.ctx.selects(n)) continue;
    bool bodies = false;
    for_each_body(node, [&](const Graph&) { bodies = true; });
    const bool floats = std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId v) {
      return v != ValueId::none && plan.type(v).known_dtype && is_float(plan.type(v).dtype);
    });
    const bool weights = std::any_of(node.inputs.begin(), node.inputs.end(), [&](const Use& use) {
      return plan.fixed(use.value) && is_float(plan.fixed(use.value)->dtype()) && plan.fixed(use.value)->rank() >= 2;
    });
    const bool fixed_ranges = plan.wish(n).method == "static";
    const Role role = fixed_ranges                       ? Role::arithmetic
                      : plan.wish(n).method == "dynamic" ? Role::dynamic
                                                         : Role::weight_only;
    const Target& target = plan.ctx.target;
    if (bodies) {
      plan.skip(n, "the graphs inside " + node.op + " stay float");
    } else if (!floats || node.op == "Constant" || target.find(node, Role::move) != nullptr) {
      continue;
    } else if (plan.keeps_float(n)) {
      plan.skip(n, "a rule keeps it float");
    } else if (fixed_ranges || weights) {
      const Support possible = target.accepts(node, role, {}, {});
      plan.skip(n, possible ? "none of its neighbours is an integer kernel" : possible.why);
    }
  }
}

class AssignFormats final : public Pass {
  assign::Wish wish_;

 public:
  void options(Options& o) override { wish_.options(o); }

  void run(Graph& graph, PassContext& ctx) override { decide(graph, ctx); }

  void plan(Graph& graph, PassContext& ctx, Forecast& forecast) override {
    const assign::Plan plan = decide(graph, ctx);
    for (const NodeId n : graph.nodes()) {
      if (const Rule* rule = plan.rule(n)) forecast.rules.push_back({n, rule->place.text()});
    }
    if (wants_speed(ctx) && !ctx.calibration.has_data() && !bound_to_one_sample(graph, nullptr)) doubt(graph, forecast);
  }

 private:
  assign::Plan decide(Graph& graph, PassContext& ctx) const {
    assign::Plan plan(graph, ctx, wish_, wants_speed(ctx) ? slower_nodes(graph, ctx) : std::set<NodeId>{});
    refuse_methods(plan);
    refuse_formats(plan);
    assign_all(plan);
    explain_rest(plan);
    return plan;
  }

  /// Without the extents of the data only_faster drops nothing here; with them it may drop any decision.
  static void doubt(const Graph& graph, Forecast& forecast) {
    constexpr std::int64_t written_around = 2048;  // nodes, scales and names that a decision adds, or its neighbour's
    std::int64_t decided = 0, weights = 0;
    for (const NodeId n : graph.nodes()) {
      for (const Use& use : graph[n].inputs) {
        if (!use.quant) continue;
        ++decided;
        if (graph.is_constant(use.value)) weights += static_cast<std::int64_t>(graph[use.value].data.size_bytes());
      }
    }
    forecast.doubts.push_back({"assign_formats", "only_faster looks at the extents of the data: name them with --calib",
                               decided * written_around, decided * written_around + weights});
  }

  static void refuse_methods(const assign::Plan& plan) {
    for (const auto& [method, why] : plan.ctx.target.refused_methods) {
      for (const NodeId n : plan.graph.nodes()) {
        if (!plan.wants(n, method)) continue;
        throw Error(Code::usage,
                    "method " + std::string(method) + " is not for " + plan.ctx.target.name + ": " + std::string(why));
      }
    }
  }

  /// Weights in a format that no kernel reads are refused before any work, with the nearest one that some kernel reads.
  /// Plain integers are what recipes for several targets name: where they have no kernel, layers stay float.
  static void refuse_formats(const assign::Plan& plan) {
    const Target& target = plan.ctx.target;
    std::vector<std::string_view> known;
    for (const Ability& row : target.abilities) {
      if (row.role == Role::weight_only)
        known.insert(known.end(), row.weight_formats.begin(), row.weight_formats.end());
    }
    if (known.empty()) return;
    for (const NodeId n : plan.graph.nodes()) {
      const Scheme& wished = *plan.wish(n).weights;
      if (wished.element->is_integer && wished.scale == nullptr && wished.element->bits <= 8) continue;
      if (!plan.wants(n, "weights") || std::find(known.begin(), known.end(), wished.name) != known.end()) continue;
      if (target.find(plan.graph[n], Role::weight_only) == nullptr) continue;
      const std::string why = wished.alternative != nullptr || (!wished.element->onnx && !wished.element->is_integer)
                                  ? "ONNX has no type for its codes"
                                  : target.runtime + " has no kernel that reads such weights";
      const std::string instead(nearest_scheme(wished, known));
      throw Error(Code::usage, "weights in " + std::string(wished.name) + " are not for " + target.name + ": " + why,
                  "the nearest format that it runs is " + instead + ": `weights: " + instead + "`");
    }
  }

  /// Of as many bits as wished for, or nearly, more before fewer; of those one of the same kind, integers or not, and
  /// with such scales; the first of several.
  static std::string_view nearest_scheme(const Scheme& wished, const std::vector<std::string_view>& known) {
    const auto distance = [&](std::string_view name) {
      const Scheme& other = *find_scheme(name);
      const int more = other.element->bits - wished.element->bits;
      const bool kind = other.element->is_integer != wished.element->is_integer;
      return std::tuple(std::abs(more), more < 0, kind, other.scale != wished.scale);
    };
    return *std::min_element(known.begin(), known.end(),
                             [&](std::string_view a, std::string_view b) { return distance(a) < distance(b); });
  }

  static void assign_all(assign::Plan& plan) {
    assign::assign_weight_only(plan);
    assign::assign_dynamic(plan);
    assign::assign_static(plan);
  }

  bool wants_speed(const PassContext& ctx) const {
    return wish_.only_faster || std::any_of(ctx.rules.begin(), ctx.rules.end(), [](const Rule& rule) {
             return std::any_of(rule.wishes.begin(), rule.wishes.end(),
                                [](const auto& wish) { return wish.name == "only_faster"; });
           });
  }

  /// A first try tells what there is to choose from. Without what is slower other things may lose their use, hence
  /// again, until nothing is left to drop.
  std::set<NodeId> slower_nodes(const Graph& graph, PassContext& ctx) const {
    std::set<NodeId> too_slow;
    for (;;) {
      Graph tried = graph;
      Journal draft;
      const std::size_t before = too_slow.size();
      PassContext quiet{ctx.target, ctx.calibration, draft, ctx.threads, ctx.rng, ctx.rules, ctx.selected, ctx.stop};
      assign::Plan plan(tried, quiet, wish_, too_slow);
      assign_all(plan);
      add_slower(tried, ctx, too_slow);
      if (too_slow.size() == before) return too_slow;
    }
  }

  static void add_slower(const Graph& tried, PassContext& ctx, std::set<NodeId>& too_slow) {
    const Dataset* data = ctx.calibration.has_data() ? &ctx.calibration.data() : nullptr;
    const std::optional<Graph> bound = bound_to_one_sample(tried, data);
    if (!bound) {
      ctx.journal.warn("assign_formats", "only_faster has no effect: the model leaves extents open that no data tell");
      return;
    }
    for (const NodeId n : assign::better_in_float(estimate_latency(*bound, ctx.target))) too_slow.insert(n);
  }
};

}  // namespace

constinit const PassDef assign_formats{
    "assign_formats",
    "number formats and grains for operands, as the recipe wishes and the target runs",
    "",
    Effect::annotate,
    1,
    make_pass<AssignFormats>,
    /*needs_data=*/false,
    /*follows_rules=*/true};

}  // namespace qtool::pass
