// SPDX-License-Identifier: Apache-2.0
// gptq: codes of weights by what they do to the outputs of their layer (arXiv 2210.17323, gptq.md).
//
// Layers are taken in the order of the graph; each sees inputs as the layers before it put them out, codes and all, and
// the model runs once per sample in all (true-sequential in one forward, gptq.md 3.4). Layers that read one value share
// its Hessian and one factorization. Groups stay where they are in memory whatever the order of the columns, so that
// runtimes need no index of groups.
#include <algorithm>
#include <cmath>
#include <list>
#include <set>
#include <string>

#include "calib/linalg.h"
#include "formats/base/error.h"
#include "passes/pass.h"
#include "passes/rewrite.h"
#include "passes/scales.h"
#include "passes/solve/columns.h"
#include "passes/solve/descent.h"
#include "passes/solve/walk.h"
#include "recipes/reader/bind.h"

namespace qtool::pass {
namespace {

using namespace solve;

/// Error of some of the rows under the damped Hessian, e Hd e^T = |e U D^1/2|^2, summed.
double error_of(Threads& threads, const Conditioned& h, const std::vector<double>& e, std::int64_t rows) {
  const std::int64_t n = h.n;
  std::vector<double> out(e.size()), u;
  const double* factor = nullptr;
  if (h.u.dtype() == DType::f64) {
    factor = h.u.read<double>().data();
  } else {
    const auto narrow = h.u.read<float>();
    u.assign(narrow.begin(), narrow.end());
    factor = u.data();
  }
  // Below the diagonal lies what nobody cleared: strips keep to the upper triangle.
  constexpr std::int64_t strip = 128;
  double sum = 0;
  for (std::int64_t begin = 0; begin < n; begin += strip) {
    const std::int64_t width = std::min(strip, n - begin);
    if (begin > 0)
      gemm(threads, false, false, rows, width, begin, 1.0, e.data(), n, factor + begin, n, 0.0, out.data() + begin, n);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t j = begin; j < begin + width; ++j) {
        double x = begin > 0 ? out[static_cast<std::size_t>(r * n + j)] : 0.0;
        for (std::int64_t i = begin; i <= j; ++i) x += e[static_cast<std::size_t>(r * n + i)] * factor[i * n + j];
        sum += x * x * h.d[static_cast<std::size_t>(j)];
      }
    }
  }
  return sum;
}

/// The factors of one Hessian that solvers ask for, each made once.
class Factors {
 public:
  Factors(Threads& threads, const Tensor& h, std::int64_t rows, double damp)
      : threads_(threads), h_(h), rows_(rows), damp_(damp) {}

  const Conditioned& of(Order order, std::int64_t group) {
    if (order != Order::gar) group = 0;
    for (const auto& [key, made] : made_) {
      if (key == std::pair(order, group)) return made;
    }
    made_.emplace_back(std::pair(order, group), condition(threads_, h_, rows_, damp_, order, group));
    return made_.back().second;
  }
  /// The first one that was made.
  const Conditioned& any() const { return made_.front().second; }

 private:
  Threads& threads_;
  const Tensor& h_;
  std::int64_t rows_;
  double damp_;
  std::list<std::pair<std::pair<Order, std::int64_t>, Conditioned>> made_;
};

class Gptq final : public Pass {
  std::int64_t group_ = 0, sweeps_ = 0;
  std::string order_ = "act", clip_ = "minmax", scales_ = "static";
  bool search_ = true;
  double damp_ = 0;
  WalkOptions walk_;

 public:
  void options(Options& o) override {
    o("group", group_, "weights that share a scale, in place of what was assigned; 0: as assigned", 0, 1 << 20);
    o("search", search_,
      "try several orders and ranges, and keep for each row what comes out best; false: those that order, scales and "
      "clip name");
    o("order", order_, "columns by falling diagonal of H (act), so group by group (gar), or as they lie",
      {"act", "gar", "none"});
    o("scales", scales_,
      "of all groups beforehand, or of each on the weights as they are when it comes up (not with act)",
      {"static", "dynamic"});
    o("clip", clip_,
      "range of a scale: all of it, or the part with the least error: squared, weighted by the inputs' squares, or "
      "through the block of H",
      {"minmax", "mse", "weighted", "block"});
    o("damp", damp_, "share of the mean of H's diagonal that is added to it; 0: by the number of rows", 0, 1);
    o("sweeps", sweeps_, "sweeps of coordinate descent over the codes afterwards", 0, 100);
    o("inputs", walk_.inputs, "inputs of a layer: as the quantized layers before it put them out, or in float",
      {"quantized", "float"});
    o("samples", walk_.samples, "samples of the calibration data to look at; 0: all", 0, 1e9);
    o.file("importance", walk_.importance,
           "importance matrix (qtool imatrix, llama.cpp) in place of data: inputs that have nothing to do with one "
           "another");
  }

  bool does_without_data() const override { return !walk_.importance.empty(); }

  void run(Graph& graph, PassContext& ctx) override {
    walk_.knobs = fingerprint_knobs([this](Options& o) { options(o); });
    walk_layers(graph, ctx, "gptq", walk_, [&](Together& together) { solve_all(graph, ctx, together); });
  }

  /// The same decisions as rounding to nearest would make; what is computed for them is more.
  void plan(Graph& graph, PassContext& ctx, Forecast& forecast) override {
    PassContext own = ctx;
    own.selected.emplace();
    std::vector<ValueId> seen;
    std::vector<ForecastSolve> solved;
    std::set<std::string> known;
    const std::vector<Layer> layers = open_layers(graph, ctx);
    for (const Layer& layer : layers) {
      Use& use = graph[layer.node()].inputs[Product::weight_input];
      seen.push_back(graph[layer.node()].inputs[0].value);
      own.selected->push_back(layer.node());
      auto spec = std::make_shared<QuantSpec>(*use.quant);
      regroup(*spec);
      const bool groups = spec->grain.kind == Grain::Kind::groups;
      use.quant = std::move(spec);
      const bool fresh = known.insert(std::to_string(index(seen.back())) + layer.sight()).second;
      const std::vector<Try> all = tries();
      const auto each = std::count_if(all.begin(), all.end(),
                                      [&](const Try& t) { return !search_ || groups || t.order != Order::gar; });
      solved.push_back({graph[layer.node()].outputs[0], layer.matrices(), layer.rows(), layer.columns(),
                        product_of(graph, layer.node())->spatial, !fresh, search_ && groups ? 2.0 : 1.0,
                        static_cast<double>(each + (sweeps_ > 0 ? sweeps_ + 1 : 0))});
    }
    if (layers.empty()) return;
    if (walk_.importance.empty()) {
      forecast.sweeps.push_back({"gptq", graph, Reading::quantized, walk_.samples, 1, {}, "", std::move(solved)});
    }
    find_pass("round_nearest")->make()->plan(graph, own, forecast);
  }

 private:
  void regroup(QuantSpec& spec) const {
    if (group_ > 0 && spec.grain.kind == Grain::Kind::groups && spec.scale.empty()) spec.grain.group = group_;
  }

  struct Report {
    double nearest = 0, found = 0, whole = 0;  // sums over matrices of sampled rows
  };

  void solve_all(const Graph& graph, PassContext& ctx, Together& together) const {
    const auto matrices = static_cast<std::int64_t>(together.hessians.size());
    for (Weight& target : together.targets) begin(*target.spec, target);
    std::vector<std::vector<Report>> reports(together.targets.size(), std::vector<Report>(together.hessians.size()));
    std::vector<double> lambda(together.hessians.size());
    std::vector<std::uint8_t> failed(together.hessians.size());
    ctx.threads.for_each(matrices, 1, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t i = from; i < to; ++i) {
        const auto k = static_cast<std::size_t>(i);
        const Tensor h = together.hessians[k].matrix(ctx.threads);
        Factors factors(ctx.threads, h, together.hessians[k].rows(), damp_);
        for (std::size_t t = 0; t < together.targets.size(); ++t) {
          reports[t][k] = solve_one(ctx, together.targets[t], i, h, factors);
        }
        lambda[k] = factors.any().lambda;
        failed[k] = factors.any().factored ? 0 : 1;
      }
    });
    for (std::size_t t = 0; t < together.targets.size(); ++t) {
      tell(graph, ctx, together, together.targets[t], reports[t], *std::max_element(lambda.begin(), lambda.end()),
           std::count(failed.begin(), failed.end(), 1));
    }
  }

  /// One way to go about a matrix.
  struct Try {
    Order order;
    bool on_the_way;  // scales of a group are chosen when it comes up
    Clip clip;
  };

  /// Codes that make up for errors need room that the nearest ones do not, the more the closer inputs hang together:
  /// which range and order is best shows in the end.
  std::vector<Try> tries() const {
    constexpr float little = 0.9F, more = 0.8F;
    const Clip shorter{Clip::Kind::mse, 1, 0, 2, little}, shortest{Clip::Kind::mse, 1, 0, 2, more};
    if (search_) {
      return {{Order::act, false, {}},      {Order::act, false, {Clip::Kind::weighted}},
              {Order::act, false, shorter}, {Order::act, false, shortest},
              {Order::gar, true, {}},       {Order::gar, true, shorter}};
    }
    const Order order = order_ == "act" ? Order::act : order_ == "gar" ? Order::gar : Order::none;
    const Clip::Kind kind = clip_ == "minmax"     ? Clip::Kind::minmax
                            : clip_ == "mse"      ? Clip::Kind::mse
                            : clip_ == "weighted" ? Clip::Kind::weighted
                                                  : Clip::Kind::block;
    return {{order, scales_ == "dynamic" && order != Order::act, {kind}}};
  }

  void begin(QuantSpec& spec, const Weight& target) const {
    regroup(spec);
    spec.codes = Tensor(code_type(*spec.format), target.weight.shape());
    if (!spec.scale.empty()) return;
    QuantSpec whole = spec;
    whole.codes = Tensor();
    {
      const HalfScales stored(whole, target.half);
      choose_scales(whole, target.weight);  // for grains and schemes whose scales are not chosen row by row
    }
    spec.scale = whole.scale;
    spec.zero_point = whole.zero_point;
    spec.second_scale = whole.second_scale;
    spec.scale_mean = whole.scale_mean;
  }

  /// Whether scales may be chosen plane by plane: every row has its own, in float32, and none is there yet.
  static bool is_free(const Weight& target, const Layer::Planes& planes) {
    const QuantSpec& spec = *target.spec;
    return !target.has_scales && planes.own && planes.together && spec.scale_format == nullptr &&
           spec.alternative == nullptr && spec.second_group == 0;
  }

  Report solve_one(PassContext& ctx, Weight& target, std::int64_t i, const Tensor& h, Factors& factors) const {
    const Layer& layer = target.layer;
    QuantSpec& spec = *target.spec;
    const std::int64_t m = layer.rows(), n = layer.columns();
    const Layer::Planes planes = layer.planes(spec.grain);
    const bool free = is_free(target, planes);
    const std::vector<float> w = layer.by_columns(target.weight.read<float>(), i);
    QuantSpec like = spec;
    const HalfScales stored(like, free && target.half);
    Grid blank(like, m, planes.of);
    blank.set_centred(spec.symmetric && spec.format->lowest == 0 && !spec.zero_point.empty());
    load(spec, layer, planes, i, blank);
    Grid grid = blank;
    if (free) fit_all(ctx.threads, planes, w, h, {}, grid);
    const Solved nearest = round(grid, w, n);
    Solved solved = nearest;
    Report report;
    const std::int64_t group = planes.columns.size() > 1 ? planes.columns[1] - planes.columns[0] : 0;
    bool first = true;
    for (const Try& one : free ? tries() : std::vector<Try>{{tries()[0].order, false, {}}}) {
      if (one.order == Order::gar && group == 0 && search_) continue;  // there are no groups: act has done that
      const Conditioned& c = factors.of(one.order, group);
      if (!c.factored) break;
      Grid other = blank;
      if (free && !one.on_the_way) fit_all(ctx.threads, planes, w, h, one.clip, other);
      Solved found = quantize_columns(ctx.threads, w, other, c, {128, one.on_the_way, one.clip, h.read<double>()});
      if (first) {
        solved = std::move(found);
        grid = std::move(other);
      } else {
        take_better(found, other, solved, grid);
      }
      first = false;
    }
    if (!first) {
      const Conditioned& c = factors.any();
      if (sweeps_ > 0) descend(ctx.threads, w, grid, h.read<double>(), sweeps_, solved);
      report.nearest = sampled_error(ctx.threads, c, w, m, [&](std::size_t e) { return nearest.values[e] - w[e]; });
      report.found = sampled_error(ctx.threads, c, w, m, [&](std::size_t e) { return solved.values[e] - w[e]; });
      report.whole = sampled_error(ctx.threads, c, w, m, [&](std::size_t e) { return w[e]; });
    }
    store(spec, layer, planes, i, grid, solved, free);
    return report;
  }

  static void take_better(const Solved& from, const Grid& its, Solved& to, Grid& grid) {
    const std::int64_t m = grid.rows(), n = static_cast<std::int64_t>(to.codes.size()) / m;
    for (std::int64_t r = 0; r < m; ++r) {
      const auto row = static_cast<std::size_t>(r);
      if (!(from.loss[row] < to.loss[row])) continue;
      to.loss[row] = from.loss[row];
      grid.take_row(its, r);
      for (std::int64_t c = 0; c < n; ++c) {
        const auto at = static_cast<std::size_t>(c * m + r);
        to.codes[at] = from.codes[at];
        to.values[at] = from.values[at];
      }
    }
  }

  static void fit_all(Threads& threads, const Layer::Planes& planes, std::span<const float> w, const Tensor& h,
                      const Clip& clip, Grid& grid) {
    const std::int64_t m = grid.rows(), n = h.shape()[0];
    const auto all = h.read<double>();
    for (std::int64_t p = 0; p < grid.planes(); ++p) {
      const std::int64_t begin = planes.columns[static_cast<std::size_t>(p)];
      const std::int64_t end = p + 1 < grid.planes() ? planes.columns[static_cast<std::size_t>(p + 1)] : n;
      const std::int64_t width = end - begin;
      std::vector<double> part(static_cast<std::size_t>(width == n ? 0 : width * width));
      for (std::int64_t a = 0; a < width && width != n; ++a) {
        std::copy_n(all.data() + (begin + a) * n + begin, width, part.data() + a * width);
      }
      threads.for_each(m, 64, [&](std::int64_t first, std::int64_t last) {
        grid.fit(p, first, last - first, width, w.data() + begin * m + first, m, width == n ? all.data() : part.data(),
                 clip);
      });
    }
  }

  static Solved round(const Grid& grid, std::span<const float> w, std::int64_t n) {
    Solved s;
    s.codes.resize(w.size());
    s.values.resize(w.size());
    const std::int64_t m = grid.rows();
    for (std::int64_t c = 0; c < n; ++c)
      grid.nearest(c, 0, m, w.data() + c * m, s.codes.data() + c * m, s.values.data() + c * m);
    return s;
  }

  template <class E>
  static double sampled_error(Threads& threads, const Conditioned& c, std::span<const float>, std::int64_t m,
                              const E& error) {
    constexpr std::int64_t most = 64;
    const std::int64_t rows = std::min(m, most);
    std::vector<double> e(static_cast<std::size_t>(rows * c.n));
    for (std::int64_t k = 0; k < rows; ++k) {
      const std::int64_t r = k * m / rows;
      for (std::int64_t p = 0; p < c.n; ++p) {
        e[static_cast<std::size_t>(k * c.n + p)] =
            static_cast<double>(error(static_cast<std::size_t>(c.order[static_cast<std::size_t>(p)] * m + r)));
      }
    }
    return error_of(threads, c, e, rows);
  }

  static void load(const QuantSpec& spec, const Layer& layer, const Layer::Planes& planes, std::int64_t i, Grid& grid) {
    const std::vector<float> scale = effective_scales(spec);
    const auto zero = spec.zero_point.empty() ? std::span<const std::int32_t>{} : spec.zero_point.read<std::int32_t>();
    for (std::int64_t p = 0; p < grid.planes(); ++p) {
      for (std::int64_t r = 0; r < grid.rows(); ++r) {
        const std::size_t at = layer.scale(spec.grain, i, r, planes.columns[static_cast<std::size_t>(p)]);
        grid.scale(p)[static_cast<std::size_t>(r)] = scale[at];
        grid.zero(p)[static_cast<std::size_t>(r)] = zero.empty() ? 0.0F : static_cast<float>(zero[at]);
      }
    }
  }

  template <class T>
  static void store_codes(QuantSpec& spec, const Layer& layer, std::int64_t i, const Solved& solved) {
    const auto codes = spec.codes.write<T>();
    const std::int64_t m = layer.rows();
    for (std::int64_t c = 0; c < layer.columns(); ++c) {
      for (std::int64_t r = 0; r < m; ++r) {
        codes[layer.element(i, r, c)] = static_cast<T>(solved.codes[static_cast<std::size_t>(c * m + r)]);
      }
    }
  }

  static void store(QuantSpec& spec, const Layer& layer, const Layer::Planes& planes, std::int64_t i, const Grid& grid,
                    const Solved& solved, bool fitted) {
    switch (spec.codes.dtype()) {
      case DType::i8: store_codes<std::int8_t>(spec, layer, i, solved); break;
      case DType::u8: store_codes<std::uint8_t>(spec, layer, i, solved); break;
      default: store_codes<std::uint16_t>(spec, layer, i, solved);
    }
    if (!fitted) return;
    const auto scale = spec.scale.write<float>();
    const auto zero = spec.zero_point.empty() ? std::span<std::int32_t>{} : spec.zero_point.write<std::int32_t>();
    for (std::int64_t p = 0; p < grid.planes(); ++p) {
      for (std::int64_t r = 0; r < grid.rows(); ++r) {
        const std::size_t at = layer.scale(spec.grain, i, r, planes.columns[static_cast<std::size_t>(p)]);
        scale[at] = grid.scale(p)[static_cast<std::size_t>(r)];
        if (!zero.empty()) zero[at] = static_cast<std::int32_t>(grid.zero(p)[static_cast<std::size_t>(r)]);
      }
    }
  }

  void tell(const Graph& graph, PassContext& ctx, const Together& together, const Weight& target,
            const std::vector<Report>& reports, double lambda, std::int64_t failed) const {
    Report sum;
    for (const Report& r : reports) sum.nearest += r.nearest, sum.found += r.found, sum.whole += r.whole;
    const std::string node = label(graph, target.nodes[0]);
    std::int64_t rows = together.hessians[0].rows();
    for (const Hessian& h : together.hessians) rows = std::min(rows, h.rows());
    Json fact = Json::object();
    fact.set("pass", "gptq").set("node", node).set("rows", rows).set("damp", lambda);
    fact.set("error_nearest", sum.whole > 0 ? sum.nearest / sum.whole : 0.0);
    fact.set("error", sum.whole > 0 ? sum.found / sum.whole : 0.0);
    if (failed > 0) fact.set("nearest_matrices", failed);
    ctx.journal.fact("layer", std::move(fact));
    if (failed > 0) {
      ctx.journal.warn("gptq", "the Hessian of \"" + node +
                                   "\" has no factor even with the largest damping: its codes "
                                   "are the nearest ones; look for inputs that are all alike or not finite");
    }
    const std::int64_t wanted = target.layer.columns();
    if (rows < wanted) {
      ctx.journal.warn("gptq", "\"" + node + "\" saw " + std::to_string(rows) + " rows of inputs for " +
                                   std::to_string(wanted) + " weights each: give at least " +
                                   std::to_string(4 * wanted) + " to trust its codes");
    }
  }
};

}  // namespace

constinit const PassDef gptq{"gptq",
                             "weights rounded one input at a time, later ones making up for the errors of earlier ones",
                             "arXiv 2210.17323",
                             Effect::annotate,
                             1,
                             make_pass<Gptq>,
                             /*needs_data=*/true,
                             /*follows_rules=*/false,
                             /*feeds_back=*/true};

}  // namespace qtool::pass
