// SPDX-License-Identifier: Apache-2.0
// Statistics that outlive a run: the same numbers whether they are computed, found, or begun by a run that was stopped.
#include "calib/gather.h"

#include <doctest/doctest.h>

#include <vector>

#include "calib/observe.h"
#include "formats/base/error.h"
#include "formats/base/rng.h"
#include "formats/ir/quant.h"
#include "formats/ir/text.h"
#include "tests/support.h"

using namespace qtool;

namespace {

constexpr std::int64_t all_batches = 40;

Graph model(float weight = 2) {
  return parse_graph(
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[2, 3] x) => (float[2, 3] y) < float[1] w = {" +
      std::to_string(weight) + "} > { h = Mul (x, w) y = Relu (h) }");
}

/// Random batches; `sequences`: state is carried, and a new one starts every ten batches.
class Made final : public Dataset {
 public:
  Made(const Graph& graph, bool sequences) : input_(graph.inputs[0]) {
    if (sequences) state_[*graph.find_value("y")] = input_;
  }
  std::int64_t batches() const override { return all_batches; }
  std::int64_t samples() const override { return all_batches; }
  Feeds feeds(std::int64_t i) const override {
    const Rng rng(1, "gather");
    Tensor x(DType::f32, {2, 3});
    const auto out = x.write<float>();
    for (std::size_t k = 0; k < out.size(); ++k) {
      out[k] = static_cast<float>(rng.normal(static_cast<std::uint64_t>(i) * out.size() + k));
    }
    return {{input_, x}};
  }
  const std::map<ValueId, ValueId>& state() const override { return state_; }
  bool restarts(std::int64_t i) const override { return state_.empty() || i % 10 == 0; }
  std::string digest(Threads&) const override { return "made"; }

 private:
  ValueId input_;
  std::map<ValueId, ValueId> state_;
};

struct Result {
  std::vector<Range> ranges;
  std::vector<std::vector<double>> means;
  std::int64_t batches_run = 0;
  friend bool operator==(const Result& a, const Result& b) {
    for (std::size_t i = 0; i < a.ranges.size(); ++i) {
      if (a.ranges[i].low != b.ranges[i].low || a.ranges[i].high != b.ranges[i].high) return false;
    }
    return a.ranges.size() == b.ranges.size() && a.means == b.means;
  }
};

std::vector<Calibration::Request> requests(const Graph& graph) {
  std::vector<Calibration::Request> all;
  for (const char* method : {"minmax", "moving_average", "percentile", "mse"}) {
    ObserverOptions o;
    o.method = method;
    o.percentile = 90;
    for (const char* value : {"h", "y"}) all.push_back({*graph.find_value(value), o});
  }
  ObserverOptions per_channel;
  per_channel.axis = -1 + 2;
  all.push_back({*graph.find_value("h"), per_channel});
  return all;
}

struct Setup {
  bool sequences = false;
  int threads = 1;
  std::int64_t stop_after = 0;  // batches; 0: never
};

/// Measures, or is stopped by an Error.
Result measure(const Graph& graph, const Setup& setup, const std::filesystem::path& cache,
               const std::filesystem::path& work) {
  Result result;
  Journal journal({}, [&](const Progress&) {
    ++result.batches_run;
    if (setup.stop_after > 0 && result.batches_run >= setup.stop_after) throw Error(Code::interrupted, "enough");
  });
  Threads threads(setup.threads);
  Kept kept(cache, work, journal, std::chrono::seconds(0));
  Json origin = Json::object();
  origin.set("data", setup.sequences ? "sequences" : "made").set("build", "this");
  Calibration calibration(std::make_shared<Made>(graph, setup.sequences), threads, journal, {&kept, origin});
  try {
    result.ranges = calibration.ranges(graph, Reading::reference, requests(graph));
    const Calibration::MeanRequest mean{*graph.find_value("h"), nullptr, 3, -1};
    result.means = calibration.means(graph, Reading::reference, 0, {&mean, 1});
  } catch (const Error&) {
    kept.flush();
    throw;
  }
  return result;
}

}  // namespace

TEST_CASE("gather: computed, found in a cache, or taken up where a run was stopped: the same numbers") {
  for (const bool sequences : {false, true}) {
    for (const int threads : {1, 3}) {
      CAPTURE(sequences);
      CAPTURE(threads);
      const test::ScratchFolder folder;
      const Graph graph = model();
      const Result plain = measure(graph, {sequences, threads}, {}, {});
      CHECK(plain.batches_run == 2 * all_batches);  // one sweep for all ranges, one for the means
      CHECK(measure(graph, {sequences, threads}, folder / "cache", {}) == plain);
      const Result again = measure(graph, {sequences, threads}, folder / "cache", {});
      CHECK(again == plain);
      CHECK(again.batches_run == 0);
      CHECK(!(measure(model(3), {sequences, threads}, folder / "cache", {}) == plain));
      for (const std::int64_t stop : {1, 15, 39, 41, 65, 79}) {
        CAPTURE(stop);
        const test::ScratchFolder work;
        CHECK_THROWS_AS(measure(graph, {sequences, threads, stop}, {}, work.path()), Error);
        const Result rest = measure(graph, {sequences, threads}, {}, work.path());
        CHECK(rest == plain);
        CHECK(rest.batches_run <= plain.batches_run);
        // At most what lies between two rests is done twice: ten batches of a sequence, else a few.
        if (stop > 40) CHECK(rest.batches_run < all_batches + 2);
        if (stop == 39) CHECK(rest.batches_run < 2 * all_batches);
      }
      CHECK_THROWS_AS(measure(graph, {sequences, threads, 20}, {}, folder / "twice"), Error);
      CHECK_THROWS_AS(measure(graph, {sequences, threads, 12}, {}, folder / "twice"), Error);
      CHECK(measure(graph, {sequences, threads}, {}, folder / "twice") == plain);
    }
  }
}

TEST_CASE("gather: other data, another build, another value are other keys") {
  const test::ScratchFolder folder;
  const Graph graph = model();
  measure(graph, {}, folder / "cache", {});
  CHECK(measure(graph, {true}, folder / "cache", {}).batches_run > 0);
  const std::size_t before = Store(folder / "cache").list().size();
  CHECK(measure(model(5), {}, folder / "cache", {}).batches_run > 0);
  CHECK(Store(folder / "cache").list().size() > before);
  CHECK(measure(graph, {}, folder / "cache", {}).batches_run == 0);
}
