// SPDX-License-Identifier: Apache-2.0
#include "calib/compare.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "calib/data/npz.h"
#include "formats/base/error.h"
#include "formats/base/rng.h"
#include "formats/ir/quant.h"
#include "tests/support.h"

using namespace qtool;

namespace {

ValueId add_value(Graph& g, const std::string& name, Shape shape) {
  Value v;
  v.name = name;
  v.type.known_dtype = v.type.known_rank = true;
  v.type.shape = std::move(shape);
  return g.add_value(v);
}

/// x -> Relu -> inner -> Add delta -> y, all [n, columns].
Graph chain(std::int64_t columns, const Tensor& delta) {
  Graph g;
  auto info = std::make_shared<ModelInfo>();
  info->opsets[""] = 17;
  g.model = info;
  const ValueId x = add_value(g, "x", {-1, columns}), inner = add_value(g, "inner", {-1, columns});
  const ValueId y = add_value(g, "y", {-1, columns}), d = add_value(g, "delta", delta.shape());
  g[d].data = delta;
  g.inputs = {x};
  Node relu, add;
  relu.name = relu.op = "Relu";
  relu.inputs = {{x, nullptr}};
  relu.outputs = {inner};
  add.name = add.op = "Add";
  add.inputs = {{inner, nullptr}, {d, nullptr}};
  add.outputs = {y};
  g.add_node(relu);
  g.add_node(add);
  g.outputs = {{y, nullptr}};
  return g;
}

std::unique_ptr<Dataset> data_of(const Graph& g, const test::ScratchFolder& folder, const Tensor& x,
                                 const Tensor& labels, std::int64_t batch) {
  write_npz(folder / "d.npz", {{"x", x}, {"labels", labels}});
  DataOptions o;
  o.path = (folder / "d.npz").string();
  o.batch = batch;
  return open_dataset(g, o);
}

}  // namespace

TEST_CASE("error of one value: known numbers") {
  ErrorStats s;
  // computed with NumPy: 10 log10(sum x^2 / sum (x-y)^2), sum x y / sqrt(sum x^2 sum y^2)
  s.add(Tensor::of<float>({2, 3}, {1, 2, 3, 0, 0, 5}), Tensor::of<float>({2, 3}, {1, 2, 2.5f, 0, 6, 5}));
  s.add(Tensor::of<float>({3}, {2, 1, 0}), Tensor::of<float>({3}, {2, 1, 0}));
  CHECK(s.sqnr_db() == doctest::Approx(0.8414466557917493));
  CHECK(s.cosine() == doctest::Approx(0.7289761971212796));
  CHECK(s.max_abs == 6);
  CHECK(s.max_signal == 5);
  CHECK(s.count == 9);
  CHECK(s.low == 0);
  CHECK(s.high == 6);
}

TEST_CASE("error of one value: equal, zero, not finite, other shapes") {
  const Tensor zero = Tensor::of<float>({2}, {0, 0}), one = Tensor::of<float>({2}, {1, 1});
  ErrorStats equal, only, masked, broken;
  equal.add(one, one);
  CHECK(equal.sqnr_db() == INFINITY);
  only.add(zero, one);
  CHECK(only.sqnr_db() == -INFINITY);
  CHECK(only.cosine() == 0);
  masked.add(Tensor::of<float>({3}, {1, -INFINITY, NAN}), Tensor::of<float>({3}, {1, -INFINITY, NAN}));
  CHECK(masked.not_finite == 0);
  CHECK(masked.sqnr_db() == INFINITY);
  broken.add(one, Tensor::of<float>({2}, {1, NAN}));
  CHECK(broken.not_finite == 1);
  CHECK(broken.sqnr_db() == -INFINITY);
  CHECK_THROWS_AS(equal.add(one, Tensor::of<float>({3}, {1, 2, 3})), Error);
  ErrorStats integers;
  integers.add(Tensor::of<std::int64_t>({2}, {3, 4}), Tensor::of<std::int64_t>({2}, {3, 3}));
  CHECK(integers.noise() == 1);
}

TEST_CASE("error of one value: the same bits for every cut into batches, and the sums of a plain loop") {
  const Rng rng(3, "compare_test");
  constexpr std::size_t n = 4099;
  std::vector<float> a(n), b(n);
  double signal = 0, noise = 0, dot = 0, norm2 = 0, most = 0, low = INFINITY, high = -INFINITY;
  std::int64_t usable = 0, differ = 0;
  for (std::size_t i = 0; i < n; ++i) {
    a[i] = static_cast<float>(rng.normal(i));
    b[i] = i % 5 == 0 ? a[i] : static_cast<float>(rng.normal(n + i));
    if (i % 97 == 0) a[i] = i % 2 == 0 ? NAN : -INFINITY;
    if (i % 193 == 0) b[i] = i % 2 == 0 ? NAN : INFINITY;
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) {
      differ += a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])) ? 0 : 1;
      continue;
    }
    const double u = a[i], v = b[i];
    ++usable;
    signal += u * u;
    noise += (u - v) * (u - v);
    dot += u * v;
    norm2 += v * v;
    most = std::max(most, std::fabs(u - v));
    low = std::min(low, v);
    high = std::max(high, v);
  }
  ErrorStats whole;
  whole.add(Tensor::of<float>({n}, std::span<const float>(a)), Tensor::of<float>({n}, std::span<const float>(b)));
  CHECK(whole.signal() == doctest::Approx(signal).epsilon(1e-12));
  CHECK(whole.noise() == doctest::Approx(noise).epsilon(1e-12));
  CHECK(whole.max_abs == most);
  CHECK(whole.low == low);
  CHECK(whole.high == high);
  CHECK(whole.compared == usable);
  CHECK(whole.not_finite == differ);
  for (const std::size_t cut : {std::size_t{1}, std::size_t{7}, std::size_t{32}, std::size_t{1000}}) {
    CAPTURE(cut);
    ErrorStats parts;
    for (std::size_t at = 0; at < n; at += cut) {
      const auto size = std::min(cut, n - at);
      const Shape shape{static_cast<std::int64_t>(size)};
      parts.add(Tensor::of<float>(shape, std::span<const float>(a).subspan(at, size)),
                Tensor::of<float>(shape, std::span<const float>(b).subspan(at, size)));
    }
    CHECK(parts.signal() == whole.signal());
    CHECK(parts.noise() == whole.noise());
    CHECK(parts.cosine() == whole.cosine());
    CHECK(parts.low == whole.low);
    CHECK(parts.compared == whole.compared);
    CHECK(parts.not_finite == whole.not_finite);
  }
  ErrorStats finite;
  finite.add(Tensor::of<float>({2}, {3, 4}), Tensor::of<float>({2}, {4, 3}));
  CHECK(finite.cosine() == doctest::Approx(24.0 / 25));
  CHECK(dot < signal + norm2);
}

TEST_CASE("logits: divergence, agreement, accuracy, whatever the batch") {
  const test::ScratchFolder folder;
  const Graph reference = chain(3, Tensor::of<float>({3}, {0, 0, 0}));
  const Graph candidate = chain(3, Tensor::of<float>({3}, {0, 1, -0.5f}));
  const Tensor x = Tensor::of<float>({3, 3}, {1, 2, 3, 0, 0, 5, 2, 1, 0});
  const Tensor labels = Tensor::of<std::int64_t>({3}, {1, 2, -100});
  Threads threads(2);
  std::string first;
  for (const std::int64_t batch : {1, 2, 3}) {
    const auto data = data_of(reference, folder, x, labels, batch);
    const Comparison c = compare(reference, candidate, Reading::reference, *data, reference, threads, true);
    REQUIRE(c.outputs.size() == 1);
    const ClassStats& s = c.outputs[0].classes;
    CHECK(c.outputs[0].scores);
    CHECK(s.samples == 3);
    CHECK(s.agree == 2);  // in the first row 3 beats 2.5; in the last a tie goes to the first
    CHECK(s.labelled == 2);
    CHECK(s.reference_right == 1);
    CHECK(s.candidate_right == 2);
    CHECK(c.samples == 3);
    CHECK(c.worst_layers.size() == 2);
    CHECK(c.worst_layers[0].first == "y");
    CHECK(c.worst_layers[1].second == INFINITY);
    const std::string json = c.json().dump();
    if (first.empty()) first = json;
    CHECK(json == first);
  }
}

TEST_CASE("divergence: known numbers for logits and for probabilities") {
  const test::ScratchFolder folder;
  const Graph reference = chain(3, Tensor::of<float>({3}, {0, 0, 0}));
  Threads threads(1);
  // as if the candidate had added a constant per row: NumPy gives the sum over rows
  const Graph candidate = chain(3, Tensor::of<float>({2, 3}, {0, 0, -0.5f, 0, 6, 0}));
  const auto data = data_of(reference, folder, Tensor::of<float>({2, 3}, {1, 2, 3, 0, 0, 5}),
                            Tensor::of<std::int64_t>({2}, {0, 0}), 2);
  const Comparison c = compare(reference, candidate, Reading::reference, *data, reference, threads, false);
  CHECK(c.outputs[0].classes.kl == doctest::Approx(1.2909412508503648).epsilon(1e-6));
  CHECK(c.worst_layers.empty());

  const Graph shifted = chain(3, Tensor::of<float>({2, 3}, {-0.1f, 0.1f, 0, -0.1f, 0.4f, -0.3f}));
  const auto p = data_of(reference, folder, Tensor::of<float>({2, 3}, {0.7f, 0.2f, 0.1f, 0.1f, 0.1f, 0.8f}),
                         Tensor::of<std::int64_t>({2}, {0, 0}), 2);
  const Comparison d = compare(reference, shifted, Reading::reference, *p, reference, threads, false);
  CHECK(d.outputs[0].classes.kl == doctest::Approx(1.6751662904550908).epsilon(1e-5));
}

TEST_CASE("the quantized reading of the same graph") {
  const test::ScratchFolder folder;
  const Graph reference = chain(4, Tensor::of<float>({4}, {0, 0, 0, 0}));
  Graph candidate = reference;
  auto spec = std::make_shared<QuantSpec>();
  spec->format = &number::int8;
  spec->scale = Tensor::scalar(0.5f);
  const auto data = data_of(reference, folder, Tensor::of<float>({2, 4}, {1, 2.2f, 3, 4, 5, 6, 7, 8.3f}),
                            Tensor::of<std::int64_t>({2}, {0, 0}), 0);
  Threads threads(1);
  CHECK(compare(reference, candidate, Reading::quantized, *data, reference, threads, false).outputs[0].error.noise() ==
        0);
  candidate.outputs[0].quant = spec;  // seen at the output alone
  const ErrorStats e =
      compare(reference, candidate, Reading::quantized, *data, reference, threads, false).outputs[0].error;
  CHECK(e.max_abs == doctest::Approx(0.2));
  CHECK(e.noise() == doctest::Approx(0.08));
  CHECK(compare(reference, candidate, Reading::reference, *data, reference, threads, false).outputs[0].error.noise() ==
        0);
}

TEST_CASE("a candidate that breaks is seen") {
  const test::ScratchFolder folder;
  const Graph reference = chain(3, Tensor::of<float>({3}, {0, 0, 0}));
  const Graph candidate = chain(3, Tensor::of<float>({3}, {0, NAN, 0}));
  const auto data =
      data_of(reference, folder, Tensor::of<float>({1, 3}, {1, 2, 3}), Tensor::of<std::int64_t>({1}, {2}), 0);
  Threads threads(1);
  const Comparison c = compare(reference, candidate, Reading::reference, *data, reference, threads, false);
  CHECK(c.outputs[0].error.not_finite == 1);
  CHECK(c.outputs[0].classes.kl == INFINITY);
  CHECK(c.outputs[0].classes.candidate_right == 0);
  CHECK(Json::parse(c.json().dump(2), "t").find("outputs") != nullptr);
  Graph other = candidate;
  other[other.outputs[0].value].name = "z";
  CHECK_THROWS_WITH_AS(compare(reference, other, Reading::reference, *data, reference, threads, false),
                       doctest::Contains("the output \"y\""), Error);
}
