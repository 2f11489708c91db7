// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/walk.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>

#include "calib/dataset_run.h"
#include "formats/base/error.h"
#include "formats/ir/merkle.h"
#include "passes/importance.h"
#include "passes/rewrite.h"
#include "passes/solve/memo.h"
#include "passes/solve/stages.h"

namespace qtool::solve {
namespace {

/// A weight under one decision.
using Key = std::pair<ValueId, const QuantSpec*>;

Key key_of(const Graph& graph, NodeId n) {
  const Use& use = graph[n].inputs[Product::weight_input];
  return {use.value, use.quant.get()};
}

Weight weight_of(const Graph& graph, const Layer& layer) {
  const Use& use = graph[layer.node()].inputs[Product::weight_input];
  auto spec = std::make_shared<QuantSpec>(*use.quant);
  spec->dynamic = false;
  const Tensor& data = graph[use.value].data;
  return {{layer.node()}, layer, to_f32(data), data.dtype() == DType::f16, !spec->scale.empty(), spec};
}

struct Open {
  std::vector<NodeId> nodes;
  std::size_t seen = 0;      // nodes whose inputs went into `own`
  std::vector<Hessian> own;  // of shared weights
};

class Walk {
 public:
  Walk(Graph& graph, PassContext& ctx, std::string_view pass, const WalkOptions& options,
       const std::function<void(Together&)>& solve)
      : graph_(graph), ctx_(ctx), pass_(pass), options_(options), solve_(solve) {
    for (Layer& layer : open_layers(graph, ctx)) {
      const NodeId n = layer.node();
      layers_.emplace(n, std::move(layer));
      open_[key(n)].nodes.push_back(n);
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
    find_masks(data, batches);
    memo_.emplace(graph_, ctx_, pass_, options_, batches);
    in_turn ? staged(data, batches) : swept(batches);
    for (const auto& [k, open] : open_) {
      if (open.nodes.empty()) continue;
      for (const NodeId n : open.nodes) ctx_.journal.skip(pass_, label(graph_, n), "no input of it was seen");
    }
  }

 private:
  Key key(NodeId n) const { return key_of(graph_, n); }

  /// Layer by layer. Decisions that still wait for codes run as nearest codes where somebody else needs them already.
  void staged(const Dataset& data, std::int64_t batches) {
    std::set<NodeId> held;
    for (const auto& [n, layer] : layers_) held.insert(n);
    Stages stages(graph_, Reading::quantized, data, batches, held, ctx_.threads);
    std::optional<Stages> floats;  // the float model beside it, stop by stop
    if (options_.both) floats.emplace(graph_, Reading::reference, data, batches, held, ctx_.threads);
    std::int64_t done = 0;
    while (!stages.ready().empty()) {
      ctx_.check_stop();
      const std::vector<NodeId> ready = stages.ready();
      const auto fill = [&](NodeId n) {
        std::vector<Hessian> sums = empty_sums(n);
        for (std::int64_t b = 0; b < stages.batches(); ++b) {
          add(n, b, stages.value(b, graph_[n].inputs[0].value), sums);
        }
        return sums;
      };
      const std::vector<Digest> digests = memo_->on() ? merkle(graph_, true) : std::vector<Digest>();
      const std::vector<NodeId> both = shared_of(ready);
      for (Together& group : groups_of(ready)) {
        if (memo_->restore(digests, group)) {
          decide(group);
          continue;
        }
        const NodeId first = group.targets[0].nodes[0];
        group.hessians = fill(first);
        if (floats) {
          const ValueId x = graph_[first].inputs[0].value;
          group.crosses.assign(group.hessians.size(), CrossSum(layers_.at(first).columns()));
          for (std::int64_t b = 0; b < stages.batches(); ++b) {
            add_pairs(first, b, floats->value(b, x), stages.value(b, x), group.crosses);
          }
        }
        solve(group);
        group = {};
      }
      for (const NodeId n : both) shared(n, fill(n));
      if (floats) floats->advance(graph_);
      done += static_cast<std::int64_t>(ready.size());
      ctx_.journal.progress({pass_, done, static_cast<std::int64_t>(layers_.size())});
      stages.advance(graph_);
    }
  }

  /// Inputs of the float model, one sweep for all that is not known.
  void swept(std::int64_t batches) {
    std::vector<NodeId> order;
    for (const NodeId n : graph_.order()) {
      if (layers_.contains(n)) order.push_back(n);
    }
    std::vector<Together> groups = groups_of(order);
    const std::vector<NodeId> both = shared_of(order);
    const std::vector<Digest> digests = merkle(graph_, false);
    std::erase_if(groups, [&](Together& group) {
      const bool known = memo_->restore(digests, group);
      if (known) decide(group);
      return known;
    });
    std::map<NodeId, std::vector<Hessian>> sums;
    std::map<ValueId, std::vector<NodeId>> readers;
    const auto reads = [&](NodeId n) {
      sums.emplace(n, empty_sums(n));
      readers[graph_[n].inputs[0].value].push_back(n);
    };
    for (const Together& group : groups) reads(group.targets[0].nodes[0]);
    for (const NodeId n : both) reads(n);
    if (readers.empty()) return;
    std::vector<ValueId> wanted;
    for (const auto& [v, nodes] : readers) wanted.push_back(v);
    ctx_.calibration.sweep(graph_, Reading::reference, wanted, batches,
                           [&](std::int64_t b, ValueId v, const Tensor& x) {
                             for (const NodeId n : readers.at(v)) add(n, b, x, sums.at(n));
                           });
    for (Together& group : groups) {
      group.hessians = std::move(sums.at(group.targets[0].nodes[0]));
      solve(group);
      group = {};
    }
    for (const NodeId n : both) shared(n, std::move(sums.at(n)));
  }

  /// Inputs that have nothing to do with one another, weighed by their mean squares.
  void weighed() {
    std::vector<Product> products;
    for (const NodeId n : graph_.order()) {
      if (layers_.contains(n)) products.push_back(*product_of(graph_, n));
    }
    const Importance importance(options_.importance, graph_, products, pass_, ctx_.journal);
    memo_.emplace(graph_, ctx_, pass_, options_, 0);  // of what has no key nothing is kept: it is found in no time
    for (const Product& p : products) {
      ctx_.check_stop();
      const auto open = open_.find(key(p.node));
      if (open == open_.end() || open->second.nodes.empty() || open->second.nodes.front() != p.node) continue;
      const Layer& layer = layers_.at(p.node);
      const std::vector<double> squares = importance.squares(graph_, p);
      const std::int64_t channels = layer.columns() / p.taps;
      // A diagonal is never short of rows, however few tokens there were.
      const auto rows = std::max(layer.columns(), static_cast<std::int64_t>(importance.tokens(graph_, p)));
      Together group;
      group.hessians = empty_sums(p.node);
      for (std::int64_t i = 0; i < layer.matrices(); ++i) {
        std::vector<double> columns(static_cast<std::size_t>(layer.columns()));
        for (std::size_t c = 0; c < columns.size(); ++c) {
          columns[c] = squares[static_cast<std::size_t>(i * channels) + c / static_cast<std::size_t>(p.taps)];
        }
        group.hessians[static_cast<std::size_t>(i)].add_independent(columns, rows);
      }
      group.targets.push_back(target(p.node));
      group.targets[0].nodes = open->second.nodes;
      solve(group);
    }
  }

  bool is_shared(NodeId n) const { return open_.at(key(n)).nodes.size() > 1; }

  std::vector<NodeId> shared_of(const std::vector<NodeId>& nodes) const {
    std::vector<NodeId> found;
    std::copy_if(nodes.begin(), nodes.end(), std::back_inserter(found), [&](NodeId n) { return is_shared(n); });
    return found;
  }

  /// Nodes that see the same rows have the same.
  std::string sight(NodeId n) const {
    const Use& x = graph_[n].inputs[0];
    return std::to_string(index(x.value)) + " " + std::to_string(reinterpret_cast<std::uintptr_t>(x.quant.get())) +
           " " + layers_.at(n).sight();
  }

  std::vector<Hessian> empty_sums(NodeId n) const {
    const Layer& layer = layers_.at(n);
    return std::vector<Hessian>(static_cast<std::size_t>(layer.matrices()), Hessian(layer.columns()));
  }

  void add(NodeId n, std::int64_t batch, const Tensor& x, std::vector<Hessian>& sums) {
    const Layer& layer = layers_.at(n);
    const Quant& quant = graph_[n].inputs[0].quant;
    const Tensor seen = quant && options_.inputs == "quantized" ? fake_quantize(to_f32(x), *quant) : x;
    const Rng rng = ctx_.rng.split("patches", std::to_string(batch));
    const auto one = [&](std::int64_t i) {
      layer.for_each_rows(seen, i, rng, ctx_.threads, [&](std::span<const float> rows) {
        std::vector<float> some;
        sums[static_cast<std::size_t>(i)].add(without_padding(batch, layer, rows, some), ctx_.threads);
      });
    };
    if (layer.matrices() == 1) return one(0);
    ctx_.threads.for_each(layer.matrices(), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) one(i);
    });
  }

  /// Of every batch, which tokens count, where the model is told by an attention_mask.
  void find_masks(const Dataset& data, std::int64_t batches) {
    const auto mask = graph_.find_value("attention_mask");
    if (!mask || std::find(graph_.inputs.begin(), graph_.inputs.end(), *mask) == graph_.inputs.end()) return;
    const std::int64_t all = batches > 0 ? std::min(batches, data.batches()) : data.batches();
    for (std::int64_t b = 0; b < all; ++b) {
      const Feeds feeds = data.feeds(b);
      const auto found = feeds.find(*mask);
      masks_.emplace_back();
      if (found == feeds.end() || found->second.rank() != 2) continue;
      const Tensor values = to_f32(found->second);
      for (const float v : values.read<float>()) masks_.back().push_back(v != 0 ? 1 : 0);
    }
  }

  /// Rows of tokens that only fill up a batch say nothing and are left out, where a row is a token (gptq.md 3.1).
  std::span<const float> without_padding(std::int64_t batch, const Layer& layer, std::span<const float> rows,
                                         std::vector<float>& some) const {
    if (masks_.empty()) return rows;
    const std::vector<std::uint8_t>& mask = masks_.at(static_cast<std::size_t>(batch));
    const auto n = static_cast<std::size_t>(layer.columns());
    if (layer.sight() != "rows" || mask.size() * n != rows.size()) return rows;
    for (std::size_t r = 0; r < mask.size(); ++r) {
      if (mask[r] != 0)
        some.insert(some.end(), rows.begin() + static_cast<std::ptrdiff_t>(r * n),
                    rows.begin() + static_cast<std::ptrdiff_t>((r + 1) * n));
    }
    return some;
  }

  /// The same rows of the float model's input and of the quantized model's.
  void add_pairs(NodeId n, std::int64_t batch, const Tensor& x, const Tensor& seen, std::vector<CrossSum>& sums) {
    const Layer& layer = layers_.at(n);
    const Quant& quant = graph_[n].inputs[0].quant;
    const Tensor through = quant ? fake_quantize(to_f32(seen), *quant) : seen;
    const Rng rng = ctx_.rng.split("patches", std::to_string(batch));
    for (std::int64_t i = 0; i < layer.matrices(); ++i) {
      std::vector<std::vector<float>> floats;
      layer.for_each_rows(x, i, rng, ctx_.threads,
                          [&](std::span<const float> rows) { floats.emplace_back(rows.begin(), rows.end()); });
      std::size_t next = 0;
      layer.for_each_rows(through, i, rng, ctx_.threads, [&](std::span<const float> rows) {
        std::vector<float> one, other;
        const auto first = without_padding(batch, layer, floats[next++], one);
        sums[static_cast<std::size_t>(i)].add(first, without_padding(batch, layer, rows, other), ctx_.threads);
      });
    }
  }

  /// Weights of nodes by what they see; shared ones are left out.
  std::vector<Together> groups_of(const std::vector<NodeId>& nodes) const {
    std::vector<Together> groups;
    std::map<std::string, std::size_t> places;
    for (const NodeId n : nodes) {
      if (is_shared(n)) continue;
      const auto [at, fresh] = places.try_emplace(sight(n), groups.size());
      if (fresh) groups.emplace_back();
      groups[at->second].targets.push_back(target(n));
    }
    return groups;
  }

  void shared(NodeId n, std::vector<Hessian> sums) {
    Open& open = open_.at(key(n));
    if (open.own.empty()) {
      open.own = std::move(sums);
    } else {
      for (std::size_t i = 0; i < sums.size(); ++i) open.own[i].merge(sums[i], ctx_.threads);
    }
    if (++open.seen < open.nodes.size()) return;
    Together group{{}, std::move(open.own), {}, {}};
    group.targets.push_back(target(n));
    group.targets[0].nodes = open.nodes;
    solve(group);
  }

  Weight target(NodeId n) const { return weight_of(graph_, layers_.at(n)); }

  void solve(Together& group) {
    const bool seen =
        std::all_of(group.hessians.begin(), group.hessians.end(), [](const Hessian& h) { return h.rows() > 0; });
    if (!seen) return;  // told at the end
    const std::size_t facts = ctx_.journal.facts().size();
    for (const Hessian& h : group.hessians) {
      if (h.left_out() > 0) {
        ctx_.journal.warn(pass_, std::to_string(h.left_out()) + " of " + std::to_string(h.rows() + h.left_out()) +
                                     " input rows of \"" + label(graph_, group.targets[0].nodes[0]) +
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
      const Key which = key(t.nodes[0]);
      for (const NodeId n : t.nodes) graph_[n].inputs[Product::weight_input].quant = t.spec;
      open_.at(which).nodes.clear();
    }
  }

  Graph& graph_;
  PassContext& ctx_;
  std::string_view pass_;
  const WalkOptions& options_;
  const std::function<void(Together&)>& solve_;
  std::map<NodeId, Layer> layers_;
  std::map<Key, Open> open_;
  std::optional<Memo> memo_;
  std::vector<std::vector<std::uint8_t>> masks_;  // by batch and token; empty: all tokens count
};

}  // namespace

std::vector<Layer> open_layers(const Graph& graph, const PassContext& ctx) {
  std::vector<Layer> layers;
  for (const NodeId n : graph.order()) {
    const auto product = product_of(graph, n);
    if (!product || !ctx.selects(n)) continue;
    const Use& use = graph[n].inputs[Product::weight_input];
    if (!use.quant || use.quant->is_bias || !use.quant->codes.empty()) continue;
    layers.emplace_back(graph, *product);
  }
  return layers;
}

std::vector<Weight> open_weights(const Graph& graph, const PassContext& ctx) {
  std::vector<Weight> weights;
  std::map<Key, std::size_t> known;
  for (const Layer& layer : open_layers(graph, ctx)) {
    const auto [at, fresh] = known.try_emplace(key_of(graph, layer.node()), weights.size());
    if (fresh) {
      weights.push_back(weight_of(graph, layer));
    } else {
      weights[at->second].nodes.push_back(layer.node());
    }
  }
  return weights;
}

void walk_layers(Graph& graph, PassContext& ctx, std::string_view pass, const WalkOptions& options,
                 const std::function<void(Together&)>& solve) {
  Walk(graph, ctx, pass, options, solve).run();
}

}  // namespace qtool::solve
