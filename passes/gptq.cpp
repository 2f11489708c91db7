// SPDX-License-Identifier: Apache-2.0
// gptq: codes of weights by what they do to the outputs of their layer (arXiv 2210.17323, gptq.md).
//
// Layers are taken in the order of the graph; each sees inputs as the layers before it put them out, codes and all, and
// the model runs once per sample in all (true-sequential in one forward, gptq.md 3.4). Layers that read one value share
// its Hessian and one factorization. Groups stay where they are in memory whatever the order of the columns, so that
// runtimes need no index of groups.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "passes/solve/layer_pass.h"

namespace qtool::pass {
namespace {

using namespace solve;

class Gptq final : public LayerPass {
  std::string order_ = "act", clip_ = "minmax", scales_ = "static";
  bool search_ = true;

 public:
  Gptq() : LayerPass("gptq") {}

  void options(Options& o) override {
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
    LayerPass::options(o);
  }

 private:
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

  Effort effort(bool groups) const override {
    const std::vector<Try> all = tries();
    const auto each = std::count_if(all.begin(), all.end(),
                                    [&](const Try& t) { return !search_ || groups || t.order != Order::gar; });
    return {search_ && groups ? 2.0 : 1.0, static_cast<double>(each)};
  }

  bool solve(const Problem& problem, Factors& factors, Found& found) const override {
    bool first = true;
    for (const Try& one : problem.free ? tries() : std::vector<Try>{{tries()[0].order, false, {}}}) {
      if (one.order == Order::gar && problem.group == 0 && search_) continue;  // there are no groups: act did that
      const Conditioned& c = factors.of(one.order, problem.group);
      if (!c.factored) break;
      Found other{problem.blank, {}};
      if (problem.free && !one.on_the_way) problem.fit(one.clip, other.grid);
      other.solved =
          quantize_columns(problem.threads, problem.w, other.grid, c, {128, one.on_the_way, one.clip, problem.h});
      if (first) {
        found = std::move(other);
      } else {
        take_better(other, found);
      }
      first = false;
    }
    return !first;
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
