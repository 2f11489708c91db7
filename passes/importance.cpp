// SPDX-License-Identifier: Apache-2.0
#include "passes/importance.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "formats/base/error.h"
#include "passes/rewrite.h"

namespace qtool {
namespace {

ValueId weight_of(const Graph& graph, const Product& p) { return graph[p.node].inputs[Product::weight_input].value; }

/// Axis of the input that its channels lie on.
int channel_axis(const Graph& graph, const Product& p) {
  const Node& node = graph[p.node];
  if (p.spatial) return 1;
  return node.op == "Gemm" && node.attrs.get("transA", std::int64_t{0}) != 0 ? 0 : -1;
}

std::string some_of(const std::vector<std::string>& names) {
  constexpr std::size_t most = 3;
  std::string out;
  for (std::size_t i = 0; i < std::min(names.size(), most); ++i) out += (i ? ", \"" : "\"") + names[i] + "\"";
  return out + (names.size() > most ? ", ..." : "");
}

}  // namespace

Imatrix collect_importance(const Graph& graph, Calibration& calibration, Journal& journal) {
  std::vector<Product> products;
  std::vector<Calibration::MeanRequest> requests;
  for (const NodeId n : graph.order()) {
    const auto p = product_of(graph, n);
    if (!p) continue;
    products.push_back(*p);
    requests.push_back({graph[n].inputs[0].value, nullptr, p->in_channels(), channel_axis(graph, *p)});
  }
  const std::vector<ChannelSums> seen = calibration.squares(graph, Reading::reference, 0, requests);
  std::map<std::string, Imatrix::Entry> entries;
  for (std::size_t i = 0; i < products.size(); ++i) {
    const std::string& name = graph[weight_of(graph, products[i])].name;
    const std::vector<double>& sums = seen[i].sums();
    if (seen[i].count() == 0) {
      journal.skip("imatrix", label(graph, products[i].node), "no input of it was seen");
      continue;
    }
    const bool finite = std::all_of(sums.begin(), sums.end(), [](double s) { return std::isfinite(s); });
    if (!finite) {
      throw Error(Code::calibration, "the inputs of weight \"" + name + "\" hold NaN or infinity",
                  "look for broken samples, or for numbers that are masked with infinity");
    }
    Imatrix::Entry& entry = entries[name];
    entry.name = name;
    entry.sums.resize(sums.size());
    entry.counts.resize(static_cast<std::size_t>(products[i].groups));
    for (std::size_t c = 0; c < sums.size(); ++c) entry.sums[c] += sums[c];
    for (double& count : entry.counts) count += static_cast<double>(seen[i].count());
  }
  if (entries.empty()) {
    throw Error(Code::calibration, "no weight of a Conv, ConvTranspose, Gemm or MatMul saw an input",
                "importance is that of the inputs of such weights");
  }
  Imatrix all;
  double most = 0;
  for (auto& [name, entry] : entries) {
    most = std::max(most, *std::max_element(entry.counts.begin(), entry.counts.end()));
    all.entries.push_back(std::move(entry));
  }
  const auto samples = static_cast<double>(std::max<std::int64_t>(1, calibration.data().samples()));
  all.chunks = static_cast<std::uint32_t>(std::min(samples, 2147483647.0));
  all.chunk_size = static_cast<std::uint32_t>(std::clamp(std::round(most / samples), 1.0, 2147483647.0));
  return all;
}

Importance::Importance(const std::string& path, const Graph& graph, std::span<const Product> products,
                       std::string_view pass, Journal& journal)
    : all_(read_imatrix(path)) {
  std::vector<std::string> without;
  std::set<std::string> known;
  std::size_t with = 0;
  for (const Product& p : products) {
    const std::string& name = graph[weight_of(graph, p)].name;
    if (!known.insert(name).second) continue;
    const Imatrix::Entry* e = entry(graph, p);
    if (e == nullptr) {
      without.push_back(name);
      continue;
    }
    ++with;
    if (static_cast<std::int64_t>(e->sums.size()) != p.in_channels()) {
      throw Error(Code::input,
                  path + ": the entry of \"" + name + "\" has " + std::to_string(e->sums.size()) +
                      " inputs, and the weight " + std::to_string(p.in_channels()),
                  "use the importance matrix of this model");
    }
  }
  if (without.empty()) return;
  if (with == 0) {
    std::vector<std::string> names;
    for (const Imatrix::Entry& e : all_.entries) names.push_back(e.name);
    throw Error(Code::input,
                path + ": there is no entry for any of the weights " + some_of(without) + "; it has " + some_of(names),
                "use the importance matrix of this model; entries are found by the names of weights");
  }
  journal.warn(pass, path + " has no entry for " + std::to_string(without.size()) + " weights (" + some_of(without) +
                         "); all their inputs count 1");
  Json names = Json::array();
  for (const std::string& name : without) names.push(name);
  Json fact = Json::object();
  journal.fact("importance", std::move(fact.set("pass", pass).set("without", std::move(names))));
}

const Imatrix::Entry* Importance::entry(const Graph& graph, const Product& p) const {
  return all_.find(graph[weight_of(graph, p)].name);
}

std::vector<double> Importance::squares(const Graph& graph, const Product& p) const {
  const Imatrix::Entry* e = entry(graph, p);
  return e ? e->means() : std::vector<double>(static_cast<std::size_t>(p.in_channels()), 1.0);
}

double Importance::tokens(const Graph& graph, const Product& p) const {
  const Imatrix::Entry* e = entry(graph, p);
  return e ? *std::max_element(e->counts.begin(), e->counts.end()) : 1;
}

Tensor weight_of_elements(const Graph& graph, const Product& p, std::span<const double> squares) {
  Tensor out = Tensor::unset(DType::f32, graph[weight_of(graph, p)].data.shape());
  const auto to = out.write<float>();
  p.for_each([&](std::size_t, std::size_t in, std::size_t element) { to[element] = static_cast<float>(squares[in]); });
  return out;
}

}  // namespace qtool
