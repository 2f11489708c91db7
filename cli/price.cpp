// SPDX-License-Identifier: Apache-2.0
#include "cli/price.h"

#include <algorithm>
#include <map>
#include <set>

#include "calib/op.h"
#include "cli/run_price.h"
#include "formats/ir/quant.h"

namespace qtool {
namespace {

constexpr double ns_per_second = 1e9;
constexpr double mebi = 1 << 20;
constexpr double program_bytes = 17.2 * mebi;  // code, tables, the allocator's own
constexpr double in_place = 0.83;              // of the values alive: kernels write into what dies
constexpr double apart = 4.5 * mebi;           // most that the places of one model's values leave unused between them
constexpr double node_bytes = 10000;           // of a node in all graphs that are held at one time
constexpr double kernel_bytes = 6 * mebi;      // of each thread's kernels, with two samples side by side
constexpr double looked_at = 16 * mebi;        // of a file: pages that are mapped together before they are let go

/// Extents of one batch, where data tell them; else of one made-up run.
class Batches {
 public:
  /// `samples`: assumed where there are no data.
  Batches(const Dataset* data, std::int64_t samples) : data_(data), samples_(std::max<std::int64_t>(samples, 1)) {
    if (data && data->batches() > 0) feeds_ = data->feeds(0);
  }
  Graph bound(const Graph& graph) const {
    constexpr std::int64_t made_up = 32;  // as the probe makes it up
    Graph typed = graph;
    for (const ValueId v : typed.inputs) {
      Shape& shape = typed[v].type.shape;
      const auto fed = feeds_.find(v);
      if (fed != feeds_.end()) {
        shape = fed->second.shape();
        continue;
      }
      for (std::size_t axis = 0; axis < shape.size(); ++axis) {
        if (shape[axis] < 0) shape[axis] = axis == 0 ? 1 : made_up;
      }
    }
    infer_types(typed);
    return typed;
  }
  /// Batches that hold about so many samples; 0: all.
  double count(std::int64_t samples) const {
    if (!data_) return static_cast<double>(samples == 0 ? samples_ : std::min(samples, samples_));
    const auto all = static_cast<double>(data_->batches());
    if (samples == 0 || samples >= data_->samples()) return all;
    return std::clamp(static_cast<double>(samples) * all / static_cast<double>(data_->samples()), 1.0, all);
  }
  double bytes() const {
    double sum = 0;
    for (const auto& [v, t] : feeds_) sum += static_cast<double>(t.size_bytes());
    return sum * count(0);
  }

 private:
  const Dataset* data_;
  std::int64_t samples_;
  Feeds feeds_;
};

/// Bytes of the constants of a graph, each buffer once; those that `known` has are left out, and integers where only
/// floats count.
double constant_bytes(const Graph& graph, std::set<const std::byte*> known = {}, bool only_floats = false) {
  double sum = 0;
  for (const ValueId v : graph.values()) {
    if (!graph.is_constant(v) || graph[v].data.dtype() == DType::string) continue;
    if (only_floats && !is_float(graph[v].data.dtype())) continue;
    if (known.insert(graph[v].data.bytes().data()).second) sum += static_cast<double>(graph[v].data.size_bytes());
  }
  return sum;
}

std::set<const std::byte*> constants_of(const Graph& graph) {
  std::set<const std::byte*> known;
  for (const ValueId v : graph.values()) {
    if (graph.is_constant(v) && graph[v].data.dtype() != DType::string) known.insert(graph[v].data.bytes().data());
  }
  return known;
}

/// What a graph takes without its large weights, bodies included.
struct Small {
  double nodes = 0, largest = 0;  // bytes of a weight
  bool folds = false;
};

void count(const Graph& graph, Small& small) {
  for (const NodeId n : graph.nodes()) {
    ++small.nodes;
    small.folds = small.folds || graph[n].op == "BatchNormalization";
    for_each_body(graph[n], [&](const Graph& body) { count(body, small); });
  }
  for (const ValueId v : graph.values()) {
    if (graph.is_constant(v)) small.largest = std::max(small.largest, static_cast<double>(graph[v].data.size_bytes()));
  }
}

class Pricer {
 public:
  explicit Pricer(const PriceInput& in)
      : in_(in),
        calib_(in.calib, in.samples),
        judged_(in.eval ? in.eval : in.calib, in.samples),
        nodes_(static_cast<double>(in.original.nodes().size())),
        weights_(constant_bytes(in.original)) {}

  Price run() {
    held_ = program_bytes + node_bytes * nodes_ + (runs() ? weights_ : std::min(weights_, looked_at)) + calib_.bytes() +
            (in_.eval ? judged_.bytes() : 0);
    read();
    steps();
    write();
    compare();
    for (const PhasePrice& phase : price_.phases) {
      price_.seconds += phase.seconds;
      price_.peak_bytes = std::max(price_.peak_bytes, phase.bytes);
    }
    return price_;
  }

 private:
  const Rates& rates() const { return in_.rates; }

  /// Whether models are run, which holds weights and codes; else they are looked at part by part.
  bool runs() const { return in_.calib || in_.eval || in_.samples > 0; }

  void phase(std::string what, double ns, double bytes) {
    price_.phases.push_back({std::move(what), ns / ns_per_second, static_cast<std::uint64_t>(held_ + bytes)});
  }

  /// Work that is cut over threads.
  double shared(double ns) const { return ns / (1 + 0.85 * (in_.threads - 1)); }

  void read() {
    const double data = calib_.bytes() + (in_.eval ? judged_.bytes() : 0);
    constexpr double looks = 3;  // at the pages of the file: they come and go with each
    const double ns = rates().start + (rates().read + rates().hash + looks * rates().touch) * weights_ +
                      rates().scan * weights_ / 4 + rates().node_look * nodes_ + (rates().hash + rates().read) * data;
    phase("read", ns, std::min(weights_, looked_at));
  }

  void steps() {
    for (const ForecastSweep& sweep : in_.forecast.sweeps) price(sweep);
    // What every step looks at: links, shapes, what changed.
    phase("look", rates().node_look * nodes_ * static_cast<double>(in_.steps), 0);
    const double rewritten = constant_bytes(in_.decided, constants_of(in_.original));
    held_ += rewritten;
    phase("rewrite weights", rates().rewrite * rewritten / 4, weights_ == 0 ? 0 : rewritten);
    double ns = 0, largest = 0;
    for (const ForecastWeights& w : in_.forecast.weights) {
      const auto n = static_cast<double>(w.elements);
      ns += n * (w.kind == "search" ? rates().search : rates().round);
      if (w.kind == "search") largest = std::max(largest, n * 13);
    }
    held_ += codes_bytes();
    if (ns > 0) phase("round weights", shared(ns), largest * in_.threads);
  }

  /// Codes and scales that decisions hold.
  double codes_bytes() const {
    std::set<const QuantSpec*> seen;
    double sum = 0;
    for (const NodeId n : in_.decided.nodes()) {
      for (const Use& use : in_.decided[n].inputs) {
        if (!use.quant || !seen.insert(use.quant.get()).second) continue;
        sum += static_cast<double>(use.quant->scale.size_bytes() + use.quant->zero_point.size_bytes());
        if (runs()) sum += static_cast<double>(use.quant->codes.size_bytes());
      }
    }
    return sum;
  }

  void price(const ForecastSweep& sweep) {
    const Graph bound = calib_.bound(sweep.graph);
    const RunPrice one = price_run(bound, sweep.reading, rates());
    double seen = 0;
    for (const ValueId v : sweep.observed) seen += elements_of(bound, v);
    const bool histogram = sweep.method != "minmax" && sweep.method != "moving_average" && sweep.method != "sum";
    const double each = histogram ? rates().histogram : sweep.method == "sum" ? rates().element : rates().range;
    const double runs = calib_.count(sweep.samples) * static_cast<double>(sweep.times);
    const double rewritten = constant_bytes(sweep.graph, constants_of(in_.original));
    if (sweep.times == 0) return solve(sweep, bound, one);
    phase(std::string(sweep.pass),
          shared(runs * (one.ns + seen * each)) + begin_ns(one) * static_cast<double>(sweep.times),
          resident(one) * side_by_side(one, runs) + static_cast<double>(one.kept) + rewritten);
    if (!sweep.solved.empty()) solve(sweep, bound, one);
  }

  /// Layers whose codes come of the error of their outputs: T n^2 for a Hessian, n^3 / 3 for each factor, m n^2 for
  /// each time that the columns are gone through (gptq.md section 8), and what goes with every number beside them.
  void solve(const ForecastSweep& sweep, const Graph& bound, const RunPrice& one) {
    constexpr double most_patches = 4096;                 // passes/solve/layer.h
    constexpr double of_weight = 5500, of_element = 600;  // in multiply-adds: rounding, fitting; copying in order
    constexpr double rows_laid_out = 1024;                // calib/hessian.cpp
    const double batches = sweep.times == 0 ? 0.0 : calib_.count(sweep.samples);
    constexpr double plenty = 256 * mebi;  // passes/solve/stages.cpp
    // What goes past a layer is as wide as the narrowest.
    double past = 0;
    for (const ForecastSolve& s : sweep.solved) {
      if (!s.spatial)
        past = past == 0 ? static_cast<double>(s.columns) : std::min(past, static_cast<double>(s.columns));
    }
    double ns = 0, most = 0;
    for (const ForecastSolve& s : sweep.solved) {
      const auto m = static_cast<double>(s.rows), n = static_cast<double>(s.columns);
      const auto matrices = static_cast<double>(s.matrices);
      const Shape& shape = bound[s.seen].type.shape;
      double rows = elements_of(bound, s.seen) / static_cast<double>(s.elements);
      if (s.spatial && !shape.empty()) rows = std::min(rows, most_patches * static_cast<double>(shape[0]));
      if (!s.shares) {
        // Of two different matrices all of the product is formed.
        const double products = s.crossed && sweep.reading == Reading::reference ? 2 : 1;
        ns += matrices * n * n *
              (rates().gram * products * rows * batches + rates().factor * s.factors * (n / 3 + of_element));
      }
      ns += matrices * s.tries * m * n * (n + of_weight) * rates().column;
      const double sums = 4 * n * n + 2 * sizeof(float) * rows_laid_out * n;
      const double solving = 16 * n * n + 8 * s.factors * n * n + 40 * m * n;  // H, what is factored, factors; W and Q
      const double solvers = std::min(matrices, static_cast<double>(in_.threads));
      // Patches overlap, which stands for what goes past.
      const double live = sizeof(float) * (n * matrices + (s.spatial ? 0 : past)) * rows * batches;
      const double inputs = std::min(live, std::max(plenty, live / 2));
      const double beside = 8 * n * n + solvers / matrices * (16 * n * n + 16 * m * n);  // sums; C, factor and targets
      most =
          std::max(most, (s.crossed ? 2 * inputs + matrices * beside : inputs) + matrices * sums + solvers * solving);
    }
    phase(std::string(sweep.pass) + ": codes", shared(ns), most + static_cast<double>(one.kept));
  }

  /// What the values of one run take.
  static double resident(const RunPrice& one) {
    const auto alive = static_cast<double>(one.alive);
    return in_place * alive + std::min(apart, 2 * alive);
  }

  /// Before the first batch: the graph is laid out, kernels are transformed, memory is fetched.
  double begin_ns(const RunPrice& one) const {
    return rates().node_look * nodes_ + rates().prepare * static_cast<double>(one.kept) / sizeof(float) +
           rates().touch * static_cast<double>(one.alive + one.kept);
  }

  double side_by_side(const RunPrice& one, double runs) const {
    constexpr double most = 1 << 30;  // calib/side_by_side.h
    const double fits = most / std::max(1.0, static_cast<double>(one.alive));
    return std::max(1.0, std::min({static_cast<double>(in_.threads), runs, fits}));
  }

  void write() {
    std::set<const std::byte*> known = constants_of(in_.decided);
    for (const NodeId n : in_.decided.nodes()) {  // codes that are written as they are held
      for (const Use& use : in_.decided[n].inputs) {
        if (use.quant && !use.quant->codes.empty()) known.insert(use.quant->codes.bytes().data());
      }
    }
    const double made = constant_bytes(in_.lowered, known);
    const double beside = runs() ? made : constant_bytes(in_.lowered, known, /*only_floats=*/true);  // scales
    const auto bytes = static_cast<double>(in_.output_bytes);
    const double ns = made * rates().pack + bytes * (rates().write + rates().read + 2 * rates().hash) +
                      4 * rates().node_look * nodes_;  // emitter, lock, reader, verifier
    phase("write", ns, beside);
    // As it was made, where it was held, as it is hashed, and as the reader maps it.
    const double looks = 2.75 * (runs() ? std::min(bytes, looked_at) : std::min(bytes, looked_at / 2));
    phase("verify", rates().read * bytes, beside + looks);
    written_ = bytes;
  }

  void compare() {
    if (!in_.calib && !in_.eval && in_.samples == 0) return;
    constexpr std::int64_t sanity_samples = 4, ranked_samples = 2;
    const RunPrice before = price_run(judged_.bound(in_.original), Reading::reference, rates());
    const RunPrice after = price_run(judged_.bound(in_.decided), Reading::quantized, rates());
    const RunPrice floats = price_run(judged_.bound(in_.decided), Reading::reference, rates());
    const double runs = judged_.count(in_.eval ? 0 : sanity_samples), ranked = judged_.count(ranked_samples);
    const auto kept = [](const RunPrice& r) { return static_cast<double>(r.kept); };
    // The second model runs when the first one has come to its outputs; layers are compared as both go.
    phase("compare", shared(runs * (before.ns + after.ns)) + begin_ns(before) + begin_ns(after),
          written_ + std::max(resident(before), resident(after)) * side_by_side(before, runs) + kept(before) +
              kept(after));
    phase("rank layers",
          ranked * (floats.ns + after.ns + after.elements * rates().compare) + begin_ns(floats) + begin_ns(after),
          resident(floats) + resident(after) + kept(floats) + kept(after));
    if (in_.calib) phase("layer inputs", before.ns + begin_ns(before), resident(before) + kept(before));
  }

  const PriceInput& in_;
  const Batches calib_, judged_;
  const double nodes_, weights_;
  double held_ = 0, written_ = 0;
  Price price_;
};

}  // namespace

Price price_job(const PriceInput& input) { return Pricer(input).run(); }

std::uint64_t bytes_beside_files(const Graph& model, int threads) {
  Small small;
  count(model, small);
  const double folding = small.folds ? 2 * small.largest : 0;  // a weight in double
  return static_cast<std::uint64_t>(program_bytes + kernel_bytes * threads + 2 * node_bytes * small.nodes + folding);
}

}  // namespace qtool
