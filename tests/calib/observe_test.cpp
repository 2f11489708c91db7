// SPDX-License-Identifier: Apache-2.0
#include "calib/observe.h"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "calib/clip.h"
#include "calib/data/npz.h"
#include "calib/histogram.h"
#include "calib/statistics.h"
#include "formats/base/error.h"
#include "formats/base/rng.h"
#include "formats/ir/quant.h"
#include "tests/support.h"

using namespace qtool;

namespace {

std::filesystem::path files() { return test::source_dir() / "tests/calib/files"; }

/// Inputs gauss, outliers, relu of 128 columns, and y = Relu(gauss).
Graph model() {
  Graph g;
  auto info = std::make_shared<ModelInfo>();
  info->opsets[""] = 17;
  g.model = info;
  const auto value = [&](const char* name) {
    Value v;
    v.name = name;
    v.type.known_dtype = v.type.known_rank = true;
    v.type.shape = {-1, 128};
    return g.add_value(v);
  };
  for (const char* name : {"gauss", "outliers", "relu"}) g.inputs.push_back(value(name));
  Node relu;
  relu.name = relu.op = "Relu";
  relu.inputs = {{g.inputs[0], nullptr}};
  relu.outputs = {value("y")};
  g.outputs = {{relu.outputs[0], nullptr}};
  g.add_node(relu);
  return g;
}

struct Rig {
  explicit Rig(std::int64_t batch = 0, int thread_count = 1)
      : threads(thread_count), calibration(open(batch), threads, journal) {}
  std::shared_ptr<const Dataset> open(std::int64_t batch) const {
    DataOptions o;
    o.path = (files() / "ranges.npz").string();
    o.batch = batch;
    return open_dataset(graph, o);
  }
  Range range(const char* value, ObserverOptions o) {
    const Calibration::Request request{*graph.find_value(value), o};
    return calibration.ranges(graph, Reading::reference, {&request, 1}).front();
  }
  Graph graph = model();
  Threads threads;
  Journal journal;
  Calibration calibration;
};

ObserverOptions with(const char* method, const NumberFormat& format, bool symmetric) {
  ObserverOptions o;
  o.method = method;
  o.format = &format;
  o.symmetric = symmetric;
  return o;
}

/// Mean squared error of the numbers of ranges.npz under a range.
double error_under(const char* name, const Range& r, const NumberFormat& format, bool symmetric) {
  const Tensor x = NpzFile(files() / "ranges.npz").read(name);
  QuantSpec s;
  s.format = &format;
  s.symmetric = symmetric;
  set_scales(s, r.low, r.high, x.shape());
  const Tensor y = fake_quantize(x, s);
  double sum = 0;
  for (std::size_t i = 0; i < x.read<float>().size(); ++i) {
    const double d = static_cast<double>(x.read<float>()[i]) - y.read<float>()[i];
    sum += d * d;
  }
  return sum / static_cast<double>(x.count());
}

double expected(const std::string& name, std::size_t i = 0) {
  return NpzFile(files() / "ranges_expected.npz").read(name).read<double>()[i];
}

}  // namespace

TEST_CASE("min and max, per tensor and per channel, and the mean") {
  Rig rig;
  const Tensor x = NpzFile(files() / "ranges.npz").read("outliers");
  const Range all = rig.range("outliers", {});
  CHECK(all.low[0] == -42.0f);
  CHECK(all.high[0] == 60.0f);
  CHECK(all.count == x.count());
  ObserverOptions columns;
  columns.axis = 1;
  const Range each = rig.range("outliers", columns);
  REQUIRE(each.low.size() == 128);
  const Tensor numpy = NpzFile(files() / "ranges_expected.npz").read("outliers_columns");
  for (std::size_t c = 0; c < 128; ++c) {
    CHECK(each.low[c] == numpy.read<float>()[c]);
    CHECK(each.high[c] == numpy.read<float>()[128 + c]);
  }
  CHECK(rig.range("y", {}).low[0] == 0);
  ChannelSums sums;
  REQUIRE(sums.add(x.reshaped({1, x.count()}), 1, 0, rig.threads));
  CHECK(sums.means()[0] == doctest::Approx(expected("outliers_mean")).epsilon(1e-6));
}

TEST_CASE("percentiles agree with NumPy to the width of a bin") {
  Rig rig;
  for (const std::string name : {"gauss", "outliers", "relu"}) {
    CAPTURE(name);
    ObserverOptions o = with("percentile", number::int8, true);
    o.percentile = 99.9;
    const Range r = rig.range(name.c_str(), o);
    CHECK(std::max(-r.low[0], r.high[0]) == doctest::Approx(expected(name + "_p999")).epsilon(0.01));
    o.symmetric = false;
    o.percentile = 99;
    const Range t = rig.range(name.c_str(), o);
    CHECK(t.low[0] == doctest::Approx(expected(name + "_tails", 0)).epsilon(0.01));
    CHECK(t.high[0] == doctest::Approx(expected(name + "_tails", 1)).epsilon(0.01));
    o.percentile = 100;
    CHECK(rig.range(name.c_str(), o).high == rig.range(name.c_str(), {}).high);
  }
}

TEST_CASE("mse finds what an exhaustive search over the raw numbers finds") {
  Rig rig;
  for (const std::string name : {"gauss", "outliers", "relu"}) {
    CAPTURE(name);
    const bool is_signed = name != "relu";
    const NumberFormat& format = is_signed ? number::int8 : number::uint8;
    const Range r = rig.range(name.c_str(), with("mse", format, is_signed));
    CHECK(error_under(name.c_str(), r, format, is_signed) <= expected(name + "_mse") * 1.01);
  }
  // four bits clip more than eight, and gain by it
  const Range four = rig.range("gauss", with("mse", number::int4, true));
  const Range minmax = rig.range("gauss", {});
  CHECK(four.high[0] < 0.8f * minmax.high[0]);
  CHECK(error_under("gauss", four, number::int4, true) < 0.8 * error_under("gauss", minmax, number::int4, true));
  const Range fp4 = rig.range("gauss", with("mse", number::e2m1, true));
  CHECK(error_under("gauss", fp4, number::e2m1, true) <= error_under("gauss", minmax, number::e2m1, true));
}

TEST_CASE("special-models 1: steps found by squared error follow few outliers, by absolute error hardly") {
  // ReLU(N(0,1)) with one value in a thousand times 100: how much the step grows.
  const Rng rng(1, "relu");
  std::vector<float> clean, dirty;
  for (std::uint64_t i = 0; i < 200000; ++i) {
    const auto x = static_cast<float>(std::max(0.0, rng.normal(i)));
    clean.push_back(x);
    dirty.push_back(i % 1000 == 0 ? x * 100 : x);
  }
  const auto step = [](const std::vector<float>& x, const NumberFormat& format, int power) {
    Histogram h(2048);
    h.add(x);
    return clip_least_error(h, format, false, power).second;
  };
  const struct {
    const NumberFormat* format;
    double squared, absolute;
  } rows[] = {{&number::uint8, 60, 1.21}, {&number::uint6, 45, 1.03}, {&number::uint4, 85, 1.03}};
  for (const auto& row : rows) {
    CAPTURE(row.format->name);
    CHECK(step(dirty, *row.format, 2) / step(clean, *row.format, 2) == doctest::Approx(row.squared).epsilon(0.35));
    CHECK(step(dirty, *row.format, 1) / step(clean, *row.format, 1) == doctest::Approx(row.absolute).epsilon(0.1));
  }
}

TEST_CASE("moving averages: the first samples count alike, later ones by the smoothing") {
  const auto average = [](double smoothing, const std::vector<float>& highest) {
    Statistics s("v", Statistics::whole, 0, smoothing);
    Threads threads(1);
    for (const float x : highest) s.add(Tensor::of<float>({1, 2}, {x, -x / 2}), threads);
    return std::pair(s.channels().front().average_low, s.channels().front().average_high);
  };
  const auto mean = average(0, {1, 2, 9});
  CHECK(mean.first == doctest::Approx(-2));
  CHECK(mean.second == doctest::Approx(4));
  // 1; then 1 + 0.5 (2 - 1) = 1.5; then, by 1/2 and no longer 1/3, 1.5 + 0.5 (9 - 1.5) = 5.25.
  CHECK(average(0.5, {1, 2, 9}).second == doctest::Approx(5.25));
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(average(0, {1, inf, 3}).second == doctest::Approx(2));
}

TEST_CASE("entropy clips outliers, at its defaults, where NumPy finds the least divergence") {
  Rig rig;
  for (const std::string name : {"gauss", "outliers", "relu"}) {
    CAPTURE(name);
    const bool is_signed = name != "relu";
    const Range r = rig.range(name.c_str(), with("entropy", is_signed ? number::int8 : number::uint8, is_signed));
    const double threshold = std::max(-static_cast<double>(r.low[0]), static_cast<double>(r.high[0]));
    CHECK(threshold == doctest::Approx(expected(name + "_entropy")).epsilon(0.1));
  }
  const Range clipped = rig.range("outliers", with("entropy", number::int8, true));
  CHECK(clipped.high[0] < 0.2f * rig.range("outliers", {}).high[0]);
  const Range one_sided = rig.range("relu", with("entropy", number::uint8, false));
  CHECK(one_sided.low[0] == 0);
  CHECK(one_sided.high[0] < 0.5f * rig.range("relu", {}).high[0]);
}

TEST_CASE("ranges do not depend on threads, batch or company") {
  Rig one(1, 1), many(32, 3);
  for (const char* method : {"minmax", "moving_average", "percentile", "entropy", "mse", "mae"}) {
    CAPTURE(std::string(method));
    std::vector<Calibration::Request> requests;
    for (const char* name : {"gauss", "outliers", "relu", "y"}) {
      requests.push_back({*many.graph.find_value(name), with(method, number::uint8, false)});
    }
    const auto together = many.calibration.ranges(many.graph, Reading::reference, requests);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      const auto alone = one.calibration.ranges(one.graph, Reading::reference, {&requests[i], 1}).front();
      CHECK(alone.low == together[i].low);
      CHECK(alone.high == together[i].high);
    }
  }
}

TEST_CASE("statistics are cached under what the value depends on") {
  Rig rig;
  std::int64_t runs = 0;
  Journal journal({}, [&](const Progress&) { ++runs; });
  Calibration c(rig.open(0), rig.threads, journal);
  const Calibration::Request y{*rig.graph.find_value("y"), {}};
  c.ranges(rig.graph, Reading::reference, {&y, 1});
  const std::int64_t sweep = runs;
  CHECK(sweep == rig.open(0)->batches());
  c.ranges(rig.graph, Reading::reference, {&y, 1});
  CHECK(runs == sweep);
  rig.graph[rig.graph.nodes().front()].op = "Abs";
  const Range changed = c.ranges(rig.graph, Reading::reference, {&y, 1}).front();
  CHECK(runs == 2 * sweep);
  CHECK(changed.high[0] > 3);
}

TEST_CASE("infinities are left out with a warning, NaN is an error that names the value") {
  const test::ScratchFolder folder;
  Graph g = model();
  g.inputs.resize(1);
  Threads threads(1);
  const auto run = [&](float bad, Journal& journal) {
    Tensor x(DType::f32, {2, 128});
    x.write<float>()[5] = bad;
    x.write<float>()[6] = 3;
    write_npz(folder / "x.npz", {{"gauss", x}});
    DataOptions o;
    o.path = (folder / "x.npz").string();
    Calibration c(open_dataset(g, o), threads, journal);
    ObserverOptions mse = with("mse", number::int8, true);
    const Calibration::Request r{*g.find_value("gauss"), mse};
    return c.ranges(g, Reading::reference, {&r, 1}).front();
  };
  Journal journal;
  const Range r = run(-INFINITY, journal);
  CHECK(r.low[0] == 0);
  CHECK(r.high[0] == doctest::Approx(3).epsilon(0.01));
  CHECK(r.infinite == 1);
  CHECK(journal.facts().size() == 1);
  CHECK_THROWS_WITH_AS(run(NAN, journal), doctest::Contains("\"gauss\" becomes NaN"), Error);
}

TEST_CASE("without data, asking for ranges is an error") {
  Threads threads(1);
  Journal journal;
  Calibration c(nullptr, threads, journal);
  CHECK_FALSE(c.has_data());
  CHECK_THROWS_AS(c.data(), Error);
}

TEST_CASE("a histogram of many numbers at once is that of one after the other") {
  const Rng rng(7, "observe_test");
  for (const float scale : {1.0F, 1e-30F, 1e-42F, 1e30F}) {
    CAPTURE(scale);
    std::vector<float> x(70001);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<float>(rng.normal(i)) * scale;
      if (i % 3 == 0) x[i] = i % 2 == 0 ? 0.0F : -0.0F;
      if (i % 5 == 0) x[i] *= 1e-6F;
      if (i % 7 == 0) x[i] *= 1e-12F;
    }
    x[40000] = 100 * scale;  // a larger exponent than any before
    x[60000] = INFINITY;
    Histogram one(256), many(256);
    for (const float v : x) {
      if (std::isfinite(v)) one.add(v);
    }
    many.add(x);
    CHECK(many.count() == one.count());
    CHECK(many.zeros() == one.zeros());
    CHECK(many.low() == one.low());
    CHECK(many.high() == one.high());
    const auto a = one.list(), b = many.list();
    REQUIRE(a.size() == b.size());
    bool same = true;
    for (std::size_t i = 0; i < a.size(); ++i) {
      same = same && a[i].low == b[i].low && a[i].high == b[i].high && a[i].count == b[i].count;
    }
    CHECK(same);
  }
}

TEST_CASE("a histogram keeps its precision beside an outlier, whatever the order") {
  Histogram up(2048), down(2048);
  for (int i = 1; i <= 10000; ++i) {
    up.add(static_cast<float>(i) * 1e-3f);
    down.add(static_cast<float>(10001 - i) * 1e-3f);
  }
  up.add(3e4f);
  down.add(3e4f);
  const auto a = up.list(), b = down.list();
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].low == b[i].low);
    CHECK(a[i].count == b[i].count);
  }
  CHECK(Histogram::quantile(a, 0.5) == doctest::Approx(5).epsilon(0.002));
  Histogram wide(64);
  wide.add(1e30f);
  wide.add(-1e-30f);
  wide.add(0);
  wide.add(1e-3f);
  std::int64_t total = 0;
  for (const auto& bin : wide.list()) total += bin.count;
  CHECK(total == 4);
  CHECK(wide.list().size() == 4);
  CHECK(wide.low() == -1e-30f);
  const Limits none = clip_least_error(Histogram(64), number::int8, true, 2);
  CHECK(none == Limits{0, 0});
  CHECK(clip_entropy(Histogram(64), number::int8, true) == Limits{0, 0});
  CHECK(clip_percentile(Histogram(64), 99, false) == Limits{0, 0});
}
