// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/layer_pass.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <set>
#include <string>

#include "passes/rewrite.h"
#include "passes/solve/descent.h"
#include "passes/solve/refit.h"
#include "passes/solve/retarget.h"
#include "recipes/reader/bind.h"

namespace qtool::solve {
namespace {

constexpr std::int64_t reported_rows = 64;

}  // namespace

void LayerPass::options(Options& o) {
  o("group", group_, "weights that share a scale, in place of what was assigned; 0: as assigned", 0, 1 << 20);
  o("damp", damp_, "share of the mean of H's diagonal that is added to it; 0: by the number of rows", 0, 1);
  o("sweeps", sweeps_, "sweeps of coordinate descent over the codes afterwards", 0, 100);
  o("refit", refit_,
    "times that scales and zero points are then chosen anew for the codes by least squares, after the sweeps each", 0,
    100);
  o("inputs", walk_.inputs, "inputs of a layer: as the quantized layers before it put them out, or in float",
    {"quantized", "float"});
  o("asymmetric", asymmetric_,
    "how far weights go to meet the float model's outputs on inputs that are already off (GPTAQ): 0 not at all, 1 all "
    "the way; the float model runs beside",
    0, 1);
  o("products", walk_.products,
    "what inputs are rounded to for Hessians: bf16 is faster where the processor has instructions for it",
    {"f32", "bf16"});
  o("samples", walk_.samples, "samples of the calibration data to look at; 0: all", 0, 1e9);
  o.file(
      "importance", walk_.importance,
      "importance matrix (qtool imatrix, llama.cpp) in place of data: inputs that have nothing to do with one another");
}

void LayerPass::run(Graph& graph, PassContext& ctx) {
  walk_.both = asymmetric_ > 0;
  walk_.knobs = fingerprint_knobs([this](Options& o) { options(o); });
  walk_layers(graph, ctx, name_, walk_, [&](Together& together) { solve_all(graph, ctx, together); });
}

void LayerPass::plan(Graph& graph, PassContext& ctx, Forecast& forecast) {
  PassContext own = ctx;
  own.selected.emplace();
  std::vector<ForecastSolve> solved;
  std::set<std::string> known;
  const bool both = asymmetric_ > 0 && walk_.importance.empty() && walk_.inputs == "quantized";
  const std::vector<Layer> layers = open_layers(graph, ctx);
  for (const Layer& layer : layers) {
    if (!walk_.importance.empty() && !product_of(graph, layer.node())) continue;
    Use& use = use_at(graph, layer.place());
    own.selected->push_back(layer.node());
    auto spec = std::make_shared<QuantSpec>(*use.quant);
    regroup(group_, *spec);
    const Effort each = effort(spec->grain.kind == Grain::Kind::groups);
    use.quant = std::move(spec);
    const Node& node = graph[layer.node()];
    const std::string own_sight = layer.reads_itself() ? std::to_string(index(layer.node())) : std::string();
    const bool fresh = known.insert(std::to_string(index(node.inputs[0].value)) + layer.sight() + own_sight).second;
    const auto after =
        static_cast<double>(sweeps_ > 0 ? sweeps_ + 1 : 0) * static_cast<double>(std::max<std::int64_t>(1, refit_)) +
        4 * static_cast<double>(refit_);
    const auto [value, elements] = layer.extent(graph);
    solved.push_back({value, elements, layer.matrices(), layer.rows(), layer.columns(), layer.is_spatial(), !fresh,
                      both, each.factors, each.tries + after});
  }
  if (layers.empty()) return;
  const std::int64_t sweeps = walk_.importance.empty() ? 1 : 0;
  if (both) {
    // The float model beside it: how inputs part, a factor for each weight, and two products with it.
    std::vector<ForecastSolve> apart = solved;
    for (ForecastSolve& s : apart) s.factors = 1, s.tries = 2;
    forecast.sweeps.push_back({name_, graph, Reading::reference, walk_.samples, 1, {}, "", std::move(apart)});
  }
  forecast.sweeps.push_back({name_, graph, Reading::quantized, walk_.samples, sweeps, {}, "", std::move(solved)});
  find_pass("round_nearest")->make()->plan(graph, own, forecast);
}

void LayerPass::solve_all(const Graph& graph, PassContext& ctx, Together& together) const {
  const auto matrices = static_cast<std::int64_t>(together.hessians.size());
  for (Weight& target : together.targets) {
    prepare(group_, target);
    target.spec->codes = Tensor(code_type(*target.spec->format), target.weight.shape());
  }
  std::vector<std::vector<Report>> reports(together.targets.size(), std::vector<Report>(together.hessians.size()));
  ctx.threads.for_each(matrices, 1, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t i = from; i < to; ++i) {
      const auto k = static_cast<std::size_t>(i);
      const Tensor h = together.hessians[k].matrix(ctx.threads);
      Factors factors(ctx.threads, h, together.hessians[k].rows(), damp_);
      for (std::size_t t = 0; t < together.targets.size(); ++t) {
        ctx.check_stop();
        const CrossSum* cross = together.crosses.empty() ? nullptr : &together.crosses[k];
        reports[t][k] = solve_one(ctx.threads, together.targets[t], i, h, cross, factors);
      }
    }
  });
  for (std::size_t t = 0; t < together.targets.size(); ++t) {
    tell(graph, ctx, together, together.targets[t], reports[t]);
  }
}

LayerPass::Report LayerPass::solve_one(Threads& threads, Weight& target, std::int64_t i, const Tensor& h,
                                       const CrossSum* cross, Factors& factors) const {
  Problem problem(threads, target, i, h);
  if (cross != nullptr && cross->rows() > 0) {
    BlockVector<float> moved =
        retarget(threads, problem.w, h, cross->matrix(threads), damping(h, cross->rows(), damp_), asymmetric_);
    if (!moved.empty()) problem.w = std::move(moved);
  }
  Found found{problem.blank, {}};
  if (problem.free) problem.fit({}, found.grid);
  found.solved = problem.nearest(found.grid);
  Report report;
  const auto sum = [&](std::span<const float> values) {
    const std::vector<double> rows = problem.errors(values, reported_rows);
    return std::accumulate(rows.begin(), rows.end(), 0.0);
  };
  report.nearest = sum(found.solved.values);
  report.whole = sum({});
  if (solve(problem, factors, found)) {
    for (std::int64_t k = 0; k < std::max<std::int64_t>(1, refit_); ++k) {
      if (sweeps_ > 0) descend(threads, problem.w, found.grid, problem.h, sweeps_, found.solved);
      if (refit_ > 0 && refit(problem, found) == 0) break;
    }
  } else {
    report.failed = 1;
  }
  report.found = sum(found.solved.values);
  if (factors.any() != nullptr) report.lambda = factors.any()->lambda;
  problem.store(found, true, *target.spec);
  return report;
}

void LayerPass::tell(const Graph& graph, PassContext& ctx, const Together& together, const Weight& target,
                     const std::vector<Report>& reports) const {
  Report sum;
  for (const Report& r : reports) {
    sum.nearest += r.nearest, sum.found += r.found, sum.whole += r.whole, sum.failed += r.failed;
    sum.lambda = std::max(sum.lambda, r.lambda);
  }
  const std::string node = label(graph, target.places[0].node);
  std::int64_t rows = together.hessians[0].rows();
  for (const Hessian& h : together.hessians) rows = std::min(rows, h.rows());
  Json fact = Json::object();
  fact.set("pass", std::string(name_)).set("node", node).set("rows", rows);
  if (sum.lambda > 0) fact.set("damp", sum.lambda);
  fact.set("error_nearest", sum.whole > 0 ? sum.nearest / sum.whole : 0.0);
  fact.set("error", sum.whole > 0 ? sum.found / sum.whole : 0.0);
  if (sum.failed > 0) fact.set("nearest_matrices", sum.failed);
  ctx.journal.fact("layer", std::move(fact));
  if (sum.failed > 0) {
    ctx.journal.warn(name_, "the Hessian of \"" + node +
                                "\" has no factor even with the largest damping: its codes are the nearest ones; "
                                "look for inputs that are all alike or not finite");
  }
  const std::int64_t wanted = target.layer.columns();
  if (rows < wanted) {
    ctx.journal.warn(name_, "\"" + node + "\" saw " + std::to_string(rows) + " rows of inputs for " +
                                std::to_string(wanted) + " weights each: give at least " + std::to_string(4 * wanted) +
                                " to trust its codes");
  }
}

}  // namespace qtool::solve
