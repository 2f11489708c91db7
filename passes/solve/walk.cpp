// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/walk.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "calib/dataset_run.h"
#include "formats/base/error.h"
#include "formats/ir/merkle.h"
#include "passes/importance.h"
#include "passes/rewrite.h"
#include "passes/solve/inputs.h"
#include "passes/solve/memo.h"
#include "passes/solve/stages.h"

namespace qtool::solve {
namespace {

/// A weight under one decision.
using Key = std::pair<ValueId, const QuantSpec*>;

Key key_of(const Graph& graph, const WeightPlace& place) {
  const Use& use = use_at(graph, place);
  return {use.value, use.quant.get()};
}

Weight weight_of(const Graph& graph, const Layer& layer) {
  const Use& use = use_at(graph, layer.place());
  auto spec = std::make_shared<QuantSpec>(*use.quant);
  spec->dynamic = false;
  const Tensor& data = graph[use.value].data;
  return {{layer.place()}, layer, to_f32(data), data.dtype() == DType::f16, !spec->scale.empty(), spec};
}

struct Open {
  std::vector<WeightPlace> places;
  std::size_t seen = 0;      // places whose inputs went into `own`
  std::vector<Hessian> own;  // of shared weights
};

class Walk {
 public:
  Walk(Graph& graph, PassContext& ctx, std::string_view pass, const WalkOptions& options,
       const std::function<void(Together&)>& solve)
      : graph_(graph), ctx_(ctx), pass_(pass), options_(options), solve_(solve) {
    for (Layer& layer : open_layers(graph, ctx)) {
      const WeightPlace place = layer.place();
      order_.push_back(place);
      layers_.emplace(place, std::move(layer));
      open_[key(place)].places.push_back(place);
    }
  }

  void run() {
    if (layers_.empty()) return;
    if (!options_.importance.empty()) return weighed();
    if (!ctx_.calibration.has_data()) {
      throw Error(Code::calibration,
                  std::string(pass_) + " weighs errors by the inputs of layers, and there are no data",
                  "name data with --calib or in the recipe, or an importance matrix, or use round_nearest");
    }
    const Dataset& data = ctx_.calibration.data();
    const bool in_turn = options_.inputs == "quantized" && data.state().empty();
    if (!data.state().empty() && options_.inputs == "quantized") {
      ctx_.journal.warn(pass_, "batches hand state on to one another: inputs are those of the float model");
    }
    const std::int64_t batches = batches_for(data, options_.samples);
    inputs_.emplace(graph_, ctx_, options_.inputs == "quantized", data, batches);
    memo_.emplace(graph_, ctx_, pass_, options_, batches);
    in_turn ? staged(data, batches) : swept(batches);
    for (const auto& [k, open] : open_) {
      for (const WeightPlace& p : open.places)
        ctx_.journal.skip(pass_, label(graph_, p.node), "no input of it was seen");
    }
  }

 private:
  Key key(const WeightPlace& p) const { return key_of(graph_, p); }

  /// Layer by layer. Decisions that still wait for codes run as nearest codes where somebody else needs them already.
  void staged(const Dataset& data, std::int64_t batches) {
    std::set<NodeId> held;
    for (const WeightPlace& p : order_) held.insert(p.node);
    Stages stages(graph_, Reading::quantized, data, batches, held, ctx_.threads);
    std::optional<Stages> floats;  // the float model beside it, stop by stop
    if (options_.both) floats.emplace(graph_, Reading::reference, data, batches, held, ctx_.threads);
    std::int64_t done = 0;
    while (!stages.ready().empty()) {
      ctx_.check_stop();
      const std::vector<WeightPlace> ready = places_of(stages.ready());
      const auto value_of = [](const Stages& from, std::int64_t b) {
        return [&from, b](ValueId v) { return from.value(b, v); };
      };
      std::vector<Digest> digests;
      const auto fill = [&](const WeightPlace& p) {
        const Layer& layer = layers_.at(p);
        std::vector<Hessian> sums = LayerInputs::empty_sums(layer, options_.format());
        // Where a layer reads its own node, what was found since the stop may be among it.
        if (memo_->on() && layer.reads_itself()) digests = merkle(graph_, true);
        if (memo_->restore_sums(digests, Reading::quantized, layer, sums)) return sums;
        for (std::int64_t b = 0; b < stages.batches(); ++b) inputs_->add(layer, b, value_of(stages, b), sums);
        memo_->keep_sums(digests, Reading::quantized, layer, sums);
        return sums;
      };
      const std::vector<WeightPlace> both = shared_of(ready);
      if (memo_->on()) digests = merkle(graph_, true);
      for (Together& group : groups_of(ready)) {
        if (memo_->on() && group.targets[0].layer.reads_itself()) digests = merkle(graph_, true);
        if (memo_->restore(digests, group)) {
          decide(group);
          continue;
        }
        const WeightPlace first = group.targets[0].places[0];
        group.hessians = fill(first);
        if (floats) {
          const Layer& layer = layers_.at(first);
          group.crosses.assign(group.hessians.size(), CrossSum(layer.columns()));
          for (std::int64_t b = 0; b < stages.batches(); ++b) {
            inputs_->add_pairs(layer, b, value_of(*floats, b), value_of(stages, b), group.crosses);
          }
        }
        solve(group);
        group = {};
      }
      for (const WeightPlace& p : both) shared(p, fill(p));
      if (floats) floats->advance(graph_);
      done += static_cast<std::int64_t>(ready.size());
      ctx_.journal.progress({pass_, done, static_cast<std::int64_t>(layers_.size())});
      stages.advance(graph_);
    }
  }

  /// A layer during a sweep.
  struct Swept {
    std::vector<ValueId> reads;
    std::vector<Hessian> sums;
    std::map<std::int64_t, Feeds> waiting;  // by batch: what was seen so far of several values
  };

  /// Inputs of the float model, one sweep for all that is not known.
  void swept(std::int64_t batches) {
    std::vector<Together> groups = groups_of(order_);
    const std::vector<WeightPlace> both = shared_of(order_);
    const std::vector<Digest> digests = merkle(graph_, false);
    std::erase_if(groups, [&](Together& group) {
      const bool known = memo_->restore(digests, group);
      if (known) decide(group);
      return known;
    });
    std::map<WeightPlace, Swept> seen;
    std::vector<WeightPlace> fresh;  // whose sums are not known from an earlier run
    std::map<ValueId, std::vector<WeightPlace>> readers;
    const auto reads = [&](const WeightPlace& p) {
      const Layer& layer = layers_.at(p);
      Swept& s =
          seen.emplace(p, Swept{inputs_->values_of(layer), LayerInputs::empty_sums(layer, options_.format()), {}})
              .first->second;
      if (memo_->restore_sums(digests, Reading::reference, layer, s.sums)) return;
      fresh.push_back(p);
      for (const ValueId v : s.reads) readers[v].push_back(p);
    };
    for (const Together& group : groups) reads(group.targets[0].places[0]);
    for (const WeightPlace& p : both) reads(p);
    std::vector<ValueId> wanted;
    for (const auto& [v, places] : readers) wanted.push_back(v);
    std::mutex several;  // values come in the order of batches each, different ones at the same time
    if (!wanted.empty()) {
      ctx_.calibration.sweep(graph_, Reading::reference, wanted, batches,
                             [&](std::int64_t b, ValueId v, const Tensor& x) {
                               for (const WeightPlace& p : readers.at(v)) take(p, b, v, x, seen.at(p), several);
                             });
    }
    for (const WeightPlace& p : fresh) {
      memo_->keep_sums(digests, Reading::reference, layers_.at(p), seen.at(p).sums);
    }
    for (Together& group : groups) {
      group.hessians = std::move(seen.at(group.targets[0].places[0]).sums);
      solve(group);
      group = {};
    }
    for (const WeightPlace& p : both) shared(p, std::move(seen.at(p).sums));
  }

  void take(const WeightPlace& p, std::int64_t batch, ValueId v, const Tensor& x, Swept& s, std::mutex& several) const {
    if (s.reads.size() == 1) {
      inputs_->add(
          layers_.at(p), batch, [&](ValueId) { return x; }, s.sums);
      return;
    }
    const std::lock_guard lock(several);
    Feeds& there = s.waiting[batch];
    there.emplace(v, x);
    if (there.size() < s.reads.size()) return;
    inputs_->add(
        layers_.at(p), batch, [&](ValueId one) { return there.at(one); }, s.sums);
    s.waiting.erase(batch);
  }

  /// Inputs that have nothing to do with one another, weighed by their mean squares.
  void weighed() {
    std::vector<Product> products;
    for (const WeightPlace& p : order_) {
      if (const auto product = product_of(graph_, p.node)) {
        products.push_back(*product);
      } else {
        ctx_.journal.skip(pass_, label(graph_, p.node), "importance matrices are for weights of products");
      }
    }
    if (products.empty()) return;
    const Importance importance(options_.importance, graph_, products, pass_, ctx_.journal);
    memo_.emplace(graph_, ctx_, pass_, options_, 0);  // of what has no key nothing is kept: it is found in no time
    for (const Product& p : products) {
      ctx_.check_stop();
      const WeightPlace place{p.node, Product::weight_input};
      const auto open = open_.find(key(place));
      if (open == open_.end() || open->second.places.empty() || open->second.places.front() != place) continue;
      const Layer& layer = layers_.at(place);
      const std::vector<double> squares = importance.squares(graph_, p);
      const std::int64_t channels = layer.columns() / p.taps;
      // A diagonal is never short of rows, however few tokens there were.
      const auto rows = std::max(layer.columns(), static_cast<std::int64_t>(importance.tokens(graph_, p)));
      Together group;
      group.hessians = LayerInputs::empty_sums(layer, options_.format());
      for (std::int64_t i = 0; i < layer.matrices(); ++i) {
        std::vector<double> columns(static_cast<std::size_t>(layer.columns()));
        for (std::size_t c = 0; c < columns.size(); ++c) {
          columns[c] = squares[static_cast<std::size_t>(i * channels) + c / static_cast<std::size_t>(p.taps)];
        }
        group.hessians[static_cast<std::size_t>(i)].add_independent(columns, rows);
      }
      group.targets.push_back(target(place));
      group.targets[0].places = open->second.places;
      solve(group);
    }
  }

  /// Of these nodes, in their order.
  std::vector<WeightPlace> places_of(const std::vector<NodeId>& nodes) const {
    std::vector<WeightPlace> places;
    for (const NodeId n : nodes) {
      for (auto at = layers_.lower_bound({n, 0}); at != layers_.end() && at->first.node == n; ++at)
        places.push_back(at->first);
    }
    return places;
  }

  bool is_shared(const WeightPlace& p) const { return open_.at(key(p)).places.size() > 1; }

  std::vector<WeightPlace> shared_of(const std::vector<WeightPlace>& places) const {
    std::vector<WeightPlace> found;
    std::copy_if(places.begin(), places.end(), std::back_inserter(found),
                 [&](const WeightPlace& p) { return is_shared(p); });
    return found;
  }

  /// Weights by what they see; shared ones are left out.
  std::vector<Together> groups_of(const std::vector<WeightPlace>& places) const {
    std::vector<Together> groups;
    std::map<std::string, std::size_t> known;
    for (const WeightPlace& p : places) {
      if (is_shared(p)) continue;
      const auto [at, fresh] = known.try_emplace(inputs_->sight(layers_.at(p)), groups.size());
      if (fresh) groups.emplace_back();
      groups[at->second].targets.push_back(target(p));
    }
    return groups;
  }

  void shared(const WeightPlace& p, std::vector<Hessian> sums) {
    Open& open = open_.at(key(p));
    if (open.own.empty()) {
      open.own = std::move(sums);
    } else {
      for (std::size_t i = 0; i < sums.size(); ++i) open.own[i].merge(sums[i], ctx_.threads);
    }
    if (++open.seen < open.places.size()) return;
    Together group;
    group.hessians = std::move(open.own);
    group.targets.push_back(target(p));
    group.targets[0].places = open.places;
    solve(group);
  }

  Weight target(const WeightPlace& p) const { return weight_of(graph_, layers_.at(p)); }

  void solve(Together& group) {
    const bool seen =
        std::all_of(group.hessians.begin(), group.hessians.end(), [](const Hessian& h) { return h.rows() > 0; });
    if (!seen) return;  // told at the end
    const std::size_t facts = ctx_.journal.facts().size();
    for (const Hessian& h : group.hessians) {
      if (h.left_out() > 0) {
        ctx_.journal.warn(pass_, std::to_string(h.left_out()) + " of " + std::to_string(h.rows() + h.left_out()) +
                                     " input rows of \"" + label(graph_, group.targets[0].places[0].node) +
                                     "\" hold NaN or infinity and were left out");
        break;
      }
    }
    solve_(group);
    memo_->keep(group, facts);
    decide(group);
  }

  void decide(const Together& group) {
    for (const Weight& t : group.targets) {
      const Key which = key(t.places[0]);
      for (const WeightPlace& p : t.places) use_at(graph_, p).quant = t.spec;
      open_.at(which).places.clear();
    }
  }

  Graph& graph_;
  PassContext& ctx_;
  std::string_view pass_;
  const WalkOptions& options_;
  const std::function<void(Together&)>& solve_;
  std::vector<WeightPlace> order_;  // of the graph
  std::map<WeightPlace, Layer> layers_;
  std::map<Key, Open> open_;
  std::optional<LayerInputs> inputs_;
  std::optional<Memo> memo_;
};

}  // namespace

std::vector<Layer> open_layers(const Graph& graph, const PassContext& ctx) {
  std::vector<Layer> layers;
  for (const NodeId n : graph.order()) {
    if (!ctx.selects(n)) continue;
    for (Layer& layer : Layer::of(graph, n)) {
      const Quant& quant = use_at(graph, layer.place()).quant;
      if (quant && !quant->is_bias && quant->codes.empty()) layers.push_back(std::move(layer));
    }
  }
  return layers;
}

std::vector<Weight> open_weights(const Graph& graph, const PassContext& ctx) {
  std::vector<Weight> weights;
  std::map<Key, std::size_t> known;
  for (const Layer& layer : open_layers(graph, ctx)) {
    const auto [at, fresh] = known.try_emplace(key_of(graph, layer.place()), weights.size());
    if (fresh) {
      weights.push_back(weight_of(graph, layer));
    } else {
      weights[at->second].places.push_back(layer.place());
    }
  }
  return weights;
}

void walk_layers(Graph& graph, PassContext& ctx, std::string_view pass, const WalkOptions& options,
                 const std::function<void(Together&)>& solve) {
  Walk(graph, ctx, pass, options, solve).run();
}

}  // namespace qtool::solve
