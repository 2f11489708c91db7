// SPDX-License-Identifier: Apache-2.0
#include "passes/importance.h"

#include <cmath>

#include "formats/base/file.h"
#include "formats/ir/quant.h"
#include "tests/passes/layers.h"
#include "tests/support.h"

using namespace qtool;
using namespace qtool::test;

namespace {

std::shared_ptr<const Dataset> batches(const Graph& g, const std::vector<Tensor>& all) {
  std::vector<Feeds> feeds;
  for (const Tensor& x : all) feeds.push_back({{g.inputs[0], x}});
  return std::make_shared<FixedData>(feeds);
}

/// Squares of x by its channels along `axis`, summed one by one.
std::vector<double> squares(const std::vector<Tensor>& all, std::size_t axis) {
  std::vector<double> sums(static_cast<std::size_t>(all[0].shape()[axis]));
  for (const Tensor& x : all) {
    std::size_t inner = 1;
    for (std::size_t a = axis + 1; a < x.shape().size(); ++a) inner *= static_cast<std::size_t>(x.shape()[a]);
    const auto v = x.read<float>();
    for (std::size_t i = 0; i < v.size(); ++i) sums[i / inner % sums.size()] += static_cast<double>(v[i]) * v[i];
  }
  return sums;
}

void write(const std::filesystem::path& path, const Imatrix& all) {
  OutputFile file(path);
  file.write(imatrix_bytes(all, path.extension() == ".dat" ? Imatrix::Kind::dat : Imatrix::Kind::gguf));
  file.publish();
}

/// A MatMul of 64 inputs with small codes, whose inputs weigh very differently.
Graph uneven() {
  Graph g = product("MatMul", "", {8, 64}, {64, 12});
  auto spec = std::make_shared<QuantSpec>();
  spec->format = &number::uint3;
  spec->grain = {Grain::Kind::groups, 0, 32, 0};
  spec->symmetric = false;
  g[g.nodes()[0]].inputs[1].quant = spec;
  return g;
}

std::vector<double> uneven_means() {
  std::vector<double> means(64);
  for (std::size_t i = 0; i < means.size(); ++i) means[i] = std::exp2(static_cast<double>(i * 29 % 64) / 8.0 - 4.0);
  return means;
}

/// Sum over the inputs k of means[k] times the squared error of the weights of k.
double weighed_error(const Graph& g, const std::vector<double>& means) {
  const Use& use = g[g.nodes()[0]].inputs[1];
  const Tensor w = g[use.value].data, q = fake_quantize(w, *use.quant);
  const auto a = w.read<float>(), b = q.read<float>();
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += means[i / 12] * std::pow(static_cast<double>(a[i]) - b[i], 2);
  return sum;
}

std::string refusal(const std::string& pass, const Graph& g, const Knobs& knobs) {
  try {
    PassBench().run(pass, g, knobs);
  } catch (const Error& e) {
    CHECK(e.code() == Code::input);
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("importance is the sum of squares of each input channel, whatever the batches and threads") {
  struct Row {
    const char *op, *attributes;
    Shape x, w;
    std::size_t axis;
    std::int64_t matrices, tokens;
  };
  const Row rows[] = {
      {"MatMul", "", {4, 3, 5}, {5, 4}, 2, 1, 12},
      {"Gemm", "<transB = 1>", {6, 5}, {4, 5}, 1, 1, 6},
      {"Gemm", "<transA = 1>", {5, 6}, {5, 4}, 0, 1, 6},
      {"Conv", "<group = 2>", {2, 4, 7, 6}, {6, 2, 3, 3}, 1, 2, 84},
      {"ConvTranspose", "", {2, 3, 5, 4}, {3, 4, 3, 3}, 1, 1, 40},
  };
  for (const Row& row : rows) {
    CAPTURE(row.op);
    CAPTURE(row.attributes);
    const Graph g = product(row.op, row.attributes, row.x, row.w);
    const std::vector<Tensor> all{normal(row.x, "a"), normal(row.x, "b")};
    std::vector<std::string> written;
    for (const int threads : {1, 3}) {
      Threads own(threads);
      Journal journal;
      Calibration calibration(batches(g, all), own, journal);
      const Imatrix m = collect_importance(g, calibration, journal);
      REQUIRE(m.entries.size() == 1);
      CHECK(m.entries[0].name == "w");
      CHECK(m.entries[0].sums == squares(all, row.axis));
      const double tokens = static_cast<double>(2 * row.tokens);
      CHECK(m.entries[0].counts == std::vector<double>(static_cast<std::size_t>(row.matrices), tokens));
      CHECK(m.chunks == 2);
      CHECK(m.chunk_size == row.tokens);
      written.push_back(imatrix_bytes(m, Imatrix::Kind::gguf));
    }
    CHECK(written[0] == written[1]);
  }
}

TEST_CASE("a weight that two nodes use has the inputs of both; what says nothing is refused") {
  Graph g = graph_of(R"(g (float[2, 3] x) => (float[2, 3] y) < float[3, 3] w = {2, 0, 0, 0, 2, 0, 0, 0, 2} >
                       { h = MatMul (x, w) y = MatMul (h, w) })");
  Threads threads(1);
  Journal journal;
  Calibration calibration(batches(g, {Tensor::of<float>({2, 3}, {1, 2, 3, 4, 5, 6})}), threads, journal);
  const Imatrix m = collect_importance(g, calibration, journal);
  CHECK(m.entries[0].sums == std::vector<double>{5 * 17, 5 * 29, 5 * 45});
  CHECK(m.entries[0].counts == std::vector<double>{4});
  Calibration broken(batches(g, {Tensor::of<float>({2, 3}, {1, 2, 3, 4, NAN, 6})}), threads, journal);
  Graph none = graph_of("g (float[2, 3] x) => (float[2, 3] y) { y = Neg (x) }");
  Calibration data(batches(none, {Tensor(DType::f32, {2, 3})}), threads, journal);
  CHECK_THROWS_AS(collect_importance(none, data, journal), Error);
  CHECK_THROWS_WITH_AS(collect_importance(g, broken, journal), "the inputs of weight \"w\" hold NaN or infinity",
                       Error);
}

TEST_CASE("round_nearest and gptq weigh errors by importance, and end below those that do not") {
  const test::ScratchFolder folder;
  const std::vector<double> means = uneven_means();
  std::vector<double> sums;
  for (const double m : means) sums.push_back(m * 16);
  for (const char* name : {"m.gguf", "m.dat"}) {
    const std::string path = folder / name;
    write(path, {{{"w", sums, {16}}}, {"known"}, 16, 1});
    const Graph plain = PassBench().run("round_nearest", uneven(), {{"clip", "mse"}});
    const Graph weighed = PassBench().run("round_nearest", uneven(), {{"clip", "mse"}, {"importance", path}});
    const Graph solved = PassBench().run("gptq", uneven(), {{"importance", path}});
    CHECK(weighed_error(weighed, means) < 0.97 * weighed_error(plain, means));
    // Both choose ranges by the same error, on other grids of ranges.
    CHECK(weighed_error(solved, means) < 1.02 * weighed_error(weighed, means));
  }
  const std::string even = folder / "even.gguf";
  write(even, {{{"w", std::vector<double>(64, 3.0), {3}}}, {}, 1, 3});
  const auto codes = [](const Graph& g) { return g[g.nodes()[0]].inputs[1].quant->codes; };
  CHECK(codes(PassBench().run("round_nearest", uneven(), {{"clip", "mse"}, {"importance", even}}))
            .same_bytes(codes(PassBench().run("round_nearest", uneven(), {{"clip", "mse"}}))));
}

TEST_CASE("all taps of a kernel weigh as their channel, in every layout") {
  const Graph conv = product("Conv", "<group = 2>", {1, 4, 5, 5}, {2, 2, 1, 2});
  const Graph turned = product("ConvTranspose", "<group = 2>", {1, 4, 5, 5}, {4, 1, 1, 2});
  const std::vector<double> by_channel{1, 2, 3, 4};
  for (const Graph& g : {conv, turned}) {
    const Tensor w = weight_of_elements(g, *product_of(g, g.nodes()[0]), by_channel);
    const auto v = w.read<float>();
    CHECK(std::vector<float>(v.begin(), v.end()) == std::vector<float>{1, 1, 2, 2, 3, 3, 4, 4});
  }
}

TEST_CASE("files that do not fit are refused; weights without entry are named and count 1") {
  const test::ScratchFolder folder;
  const std::string narrow = folder / "narrow.gguf", other = folder / "other.gguf", part = folder / "part.gguf";
  write(narrow, {{{"w", {1, 2, 3}, {1}}}, {}, 1, 1});
  write(other, {{{"blk.0.attn_q.weight", {1}, {1}}}, {}, 1, 1});
  for (const char* pass : {"round_nearest", "gptq"}) {
    const auto knobs = [&](const std::string& file) {
      Knobs all{{"importance", file}};
      if (std::string_view(pass) == "round_nearest") all.emplace_back("clip", "mse");
      return all;
    };
    CHECK(refusal(pass, uneven(), knobs(narrow)).ends_with("the entry of \"w\" has 3 inputs, and the weight 64"));
    CHECK(refusal(pass, uneven(), knobs(other))
              .ends_with("there is no entry for any of the weights \"w\"; it has \"blk.0.attn_q.weight\""));
    Graph two = graph_of(R"(g (float[2, 4] x) => (float[2, 4] y)
      < float[4, 4] a = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2},
        float[4, 4] b = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2} > { h = MatMul (x, a) y = MatMul (h, b) })");
    auto spec = std::make_shared<QuantSpec>();
    spec->format = &number::int4;
    spec->grain = {Grain::Kind::axis, 1, 0, 0};
    for (const NodeId n : two.nodes()) two[n].inputs[1].quant = std::make_shared<QuantSpec>(*spec);
    write(part, {{{"a", {1, 1, 1, 1}, {1}}}, {}, 1, 1});
    PassBench bench;
    const Graph done = bench.run(pass, two, knobs(part));
    for (const NodeId n : done.nodes()) CHECK_FALSE(done[n].inputs[1].quant->codes.empty());
    CHECK(bench.count("importance") == 1);
    CHECK(bench.count("warning") == 1);
  }
  PassBench bench;
  bench.run("round_nearest", uneven(), {{"importance", other}});
  CHECK(bench.count("warning") == 1);  // nothing is searched
}
