// SPDX-License-Identifier: Apache-2.0
#include "cli/measure_rates.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <ctime>
#include <string>

#include "calib/compare.h"
#include "calib/executor.h"
#include "calib/histogram.h"
#include "calib/op.h"
#include "cli/run_price.h"
#include "formats/base/hash.h"
#include "formats/base/rng.h"
#include "formats/ir/quant.h"
#include "formats/ir/text.h"

namespace qtool {
namespace {

/// Processor nanoseconds of a call, the median of a few: what else the machine does must not count, but for what it
/// takes away from caches, which it will take from jobs too. The first call, which fetches memory, does not count.
template <class F>
double typical(const F& f) {
  std::array<double, 7> times{};
  f();
  for (double& time : times) {
    const std::clock_t start = std::clock();
    f();
    time = static_cast<double>(std::clock() - start) * (1e9 / CLOCKS_PER_SEC);
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

Tensor numbers(const Shape& shape) {
  Tensor t(DType::f32, shape);
  const Rng rng(1, "rates");
  auto x = t.write<float>();
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i % 8191));
  return t;
}

/// A model of one operator many times over: what it takes per unit of its work.
struct Trial {
  const char *input, *weight;  // types; weight may be empty
  const char* node;            // what makes the next value of $ and w
  int times = 1;               // a chain of so many
  const char* other = "";      // type of a second weight r
};

Graph chain(const Trial& trial) {
  const std::string header = "<ir_version: 8, opset_import: [\"\" : 17]>\ng (" + std::string(trial.input) + " x0" +
                             (*trial.weight ? ", " + std::string(trial.weight) + " w" : "") +
                             (*trial.other ? ", " + std::string(trial.other) + " r" : "") + ") => (float[] x" +
                             std::to_string(trial.times) + ") {\n";
  std::string body;
  for (int i = 0; i < trial.times; ++i) {
    std::string line = trial.node;
    for (std::size_t at; (at = line.find('$')) != std::string::npos;) line.replace(at, 1, "x" + std::to_string(i));
    body += "x" + std::to_string(i + 1) + " = " + line + "\n";
  }
  Graph graph = parse_graph(header + body + "}\n");
  for (const Use& use : graph.outputs) graph[use.value].type = Type();
  for (const char* name : {"w", "r"}) {
    const auto w = graph.find_value(name);
    if (!w) continue;
    graph[*w].data = numbers(graph[*w].type.shape);
    std::erase(graph.inputs, *w);
  }
  infer_types(graph);
  return graph;
}

/// Decides 8-bit codes for activation and weight of every product.
void decide(Graph& graph) {
  QuantSpec x, w;
  x.format = &number::uint8;
  x.symmetric = false;
  w.format = &number::int8;
  w.narrow = true;
  const float low[] = {-1}, high[] = {1};
  set_scales(x, low, high, {});
  set_scales(w, low, high, {});
  const Quant activation = std::make_shared<const QuantSpec>(x);
  for (const NodeId n : graph.nodes()) {
    Node& node = graph[n];
    if (node.inputs.size() < 2) continue;
    QuantSpec weight = w;
    weight.codes = quantize(graph[node.inputs[1].value].data, w);
    node.inputs[0].quant = activation;
    node.inputs[1].quant = std::make_shared<const QuantSpec>(weight);
  }
}

double time_of(const Graph& graph, Reading reading, Threads& one) {
  const Executor executor(graph, reading, one);
  Feeds feeds;
  for (const ValueId v : graph.inputs) feeds[v] = numbers(graph[v].type.shape);
  return typical([&] { executor.run(feeds); });
}

/// What is left of the time of a trial when everything but `rate` has its price, per unit of it.
double solve(const Trial& trial, Reading reading, Rates rates, double Rates::*rate, Threads& one) {
  Graph graph = chain(trial);
  if (reading == Reading::quantized) decide(graph);
  rates.*rate = 0;
  const double others = price_run(graph, reading, rates).ns;
  rates.*rate = 1;
  const double units = price_run(graph, reading, rates).ns - others;
  const double measured = time_of(graph, reading, one);
  return std::max(measured - others, measured / 10) / units;
}

void measure_runs(Rates& r, Threads& one) {
  const auto take = [&](double Rates::*rate, const Trial& trial, Reading reading = Reading::reference) {
    r.*rate = solve(trial, reading, r, rate, one);
  };
  // In an order in which each needs only those before it. Values are of the size that they have in models of images:
  // rates of what stays in the nearest caches would promise too much.
  take(&Rates::node, {"float[1,1]", "float[1,1]", "Gemm($, w)", 1000});
  take(&Rates::element, {"float[64,16384]", "", "Neg($)", 8});
  take(&Rates::function, {"float[64,16384]", "", "Softmax($)", 2});
  take(&Rates::conv, {"float[1,64,112,112]", "float[64,64,1,1]", "Conv($, w)", 4});
  take(&Rates::conv_3x3, {"float[1,64,112,112]", "float[64,64,3,3]", "Conv<pads = [1, 1, 1, 1]>($, w)", 2});
  take(&Rates::conv_few, {"float[1,3,224,224]", "float[32,3,3,3]", "Conv<pads = [1, 1, 1, 1]>($, w)", 1});
  take(&Rates::depthwise, {"float[1,64,112,112]", "float[64,1,3,3]", "Conv<group = 64, pads = [1, 1, 1, 1]>($, w)", 4});
  take(&Rates::product, {"float[64,512]", "float[512,512]", "MatMul($, w)", 8});
  take(&Rates::recurrent,
       {"float[64,8,128]", "float[1,512,128]", "LSTM<hidden_size = 128>($, w, r)", 1, "float[1,512,128]"});
  take(&Rates::code, {"float[64,16384]", "float[16384,1]", "MatMul($, w)", 1}, Reading::quantized);
  take(&Rates::int_product, {"float[64,512]", "float[512,512]", "MatMul($, w)", 8}, Reading::quantized);
  take(&Rates::int_conv, {"float[1,64,112,112]", "float[64,64,3,3]", "Conv<pads = [1, 1, 1, 1]>($, w)", 2},
       Reading::quantized);
  take(&Rates::int_depthwise,
       {"float[1,64,112,112]", "float[64,1,3,3]", "Conv<group = 64, pads = [1, 1, 1, 1]>($, w)", 4},
       Reading::quantized);
}

void measure_weights(Rates& r) {
  constexpr std::int64_t rows = 512, columns = 512;
  const Tensor w = numbers({rows, columns});
  const auto elements = static_cast<double>(w.count());
  QuantSpec spec;
  spec.format = &number::int4;
  spec.grain = {Grain::Kind::groups, 0, 32, 0};
  std::vector<float> low, high;
  const auto round = [&] {
    ranges_of(w, spec.grain, low, high);
    set_scales(spec, low, high, w.shape());
    spec.codes = Tensor();
    spec.codes = quantize(w, spec);
  };
  r.round = typical(round) / elements;
  constexpr double steps = 25;  // of round_nearest's search
  const Tensor codes = spec.codes;
  spec.codes = Tensor();
  r.search = r.round + steps * typical([&] { squared_errors(w, fake_quantize(w, spec), spec.grain); }) / elements;
  spec.codes = codes;
  r.rewrite = 2 * typical([&] { from_f32(to_f32(from_f32(w, DType::f16)), DType::bf16); }) / elements;
}

void measure_looks(Rates& r) {
  const Tensor x = numbers({1 << 20}), y = numbers({1 << 20});
  const auto elements = static_cast<double>(x.count());
  std::vector<float> low, high;
  r.range = typical([&] { ranges_of(x, {}, low, high); }) / elements;
  r.compare = typical([&] {
                ErrorStats stats;
                stats.add(x, y);
              }) /
              elements;
  r.hash = typical([&] { Hasher().bytes(x.bytes()).finish(); }) / static_cast<double>(x.size_bytes());
}

/// What has no trial of its own is as much faster or slower than built in as the measured rates are on average.
void scale_others(Rates& r) {
  const Rates built_in;
  constexpr std::array measured{&Rates::node,  &Rates::element, &Rates::function, &Rates::product,
                                &Rates::round, &Rates::range,   &Rates::compare,  &Rates::hash};
  double logs = 0;
  for (const auto rate : measured) logs += std::log(r.*rate / built_in.*rate);
  const double ratio = std::exp(logs / measured.size());
  for (const auto rate :
       {&Rates::start, &Rates::node_look, &Rates::prepare, &Rates::touch, &Rates::histogram, &Rates::scan, &Rates::pack,
        &Rates::read, &Rates::write, &Rates::gram, &Rates::factor, &Rates::column}) {
    r.*rate *= ratio;
  }
}

}  // namespace

Rates measure_rates(Threads& one) {
  Rates rates;
  measure_runs(rates, one);
  measure_weights(rates);
  measure_looks(rates);
  scale_others(rates);
  return rates;
}

}  // namespace qtool
