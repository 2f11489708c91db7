// SPDX-License-Identifier: Apache-2.0
#include "passes/normals.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>

#include "formats/ir/absent.h"
#include "formats/lock.h"
#include "passes/rewrite.h"

namespace qtool {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr const char* kind = "normals";

std::vector<double> exact_in(const Json& fact, const char* name) { return exact_numbers(fact.find(name)->as_string()); }

/// Numbers behind a batch normalization: beta and |gamma|.
std::optional<Normals> normalized(const Graph& graph, const Links& links, const Node& node, Threads& threads) {
  if (!is_op(node, "BatchNormalization")) return std::nullopt;
  const Tensor gamma = resolve_constant(graph, links, input_of(node, 1), threads);
  const Tensor beta = resolve_constant(graph, links, input_of(node, 2), threads);
  if (gamma.empty() || beta.empty() || gamma.count() != beta.count()) return std::nullopt;
  return normals_behind(to_doubles(beta), to_doubles(gamma));
}

std::optional<Normals> put_out(const Graph& graph, const Links& links, NodeId id,
                               const std::map<std::string, Normals>& noted, Threads& threads) {
  if (auto n = normalized(graph, links, graph[id], threads)) return n;
  const auto of_product = [&](NodeId product, NodeId end) -> std::optional<Normals> {
    const auto p = product == NodeId::none ? std::nullopt : product_of(graph, product);
    const auto found = p ? noted.find(label(graph, product)) : noted.end();
    if (found == noted.end()) return std::nullopt;
    const auto added = added_bias(graph, links, *p);
    return (added ? added->node : product) == end ? std::optional(found->second) : std::nullopt;
  };
  if (auto n = of_product(id, id)) return n;
  if (!is_op(graph[id], "Add")) return std::nullopt;
  for (const Use& use : graph[id].inputs) {
    if (auto n = of_product(links.producer(use.value), id)) return n;
  }
  return std::nullopt;
}

/// Bounds of a ReLU or a Clip; empty: neither, or they are not known.
std::optional<std::pair<double, double>> clamp_of(const Graph& graph, const Links& links, const Node& node,
                                                  Threads& threads) {
  if (is_op(node, "Relu")) return std::pair(0.0, infinity);
  if (!is_op(node, "Clip")) return std::nullopt;
  std::pair<double, double> bounds(-infinity, infinity);
  if (node.attrs.has("min")) bounds.first = static_cast<double>(node.attrs.get("min", 0.0F));
  if (node.attrs.has("max")) bounds.second = static_cast<double>(node.attrs.get("max", 0.0F));
  for (const auto& [i, bound] : {std::pair(1, &bounds.first), std::pair(2, &bounds.second)}) {
    const ValueId v = input_of(node, static_cast<std::size_t>(i));
    if (v == ValueId::none) continue;
    const Tensor data = resolve_constant(graph, links, v, threads);
    if (data.count() != 1 || is_absent(data)) return std::nullopt;
    *bound = to_doubles(data)[0];
  }
  if (!(bounds.first <= bounds.second)) return std::nullopt;
  return bounds;
}

/// Whether means pass through the node as they are.
bool keeps_means(const Node& node) {
  if (is_op(node, "Identity") || is_op(node, "GlobalAveragePool")) return true;
  if (is_op(node, "Flatten")) return node.attrs.get("axis", std::int64_t{1}) == 1;
  return is_op(node, "AveragePool") && node.attrs.get("count_include_pad", std::int64_t{0}) == 0;
}

}  // namespace

Normals normals_behind(std::vector<double> beta, std::vector<double> gamma) {
  for (double& g : gamma) g = std::fabs(g);
  return {std::move(beta), std::move(gamma)};
}

double clamped_mean(double mean, double deviation, double low, double high) {
  if (!(deviation > 0)) return std::clamp(mean, low, high);
  // At infinite bounds both vanish, or are one.
  const auto below = [&](double x) { return 0.5 * std::erfc(-(x - mean) / deviation / std::numbers::sqrt2); };
  const auto density = [&](double x) {
    const double z = (x - mean) / deviation;
    return std::exp(-z * z / 2) * std::numbers::inv_sqrtpi / std::numbers::sqrt2;
  };
  double out = mean * (below(high) - below(low)) + deviation * (density(low) - density(high));
  if (std::isfinite(low)) out += low * below(low);
  if (std::isfinite(high)) out += high * (1 - below(high));
  return out;
}

void note_normals(Journal& journal, const std::string& node, const Normals& n) {
  Json fact = Json::object();
  fact.set("node", node).set("mean", exact_text(n.mean)).set("deviation", exact_text(n.deviation));
  journal.fact(kind, std::move(fact));
}

std::map<std::string, Normals> noted_normals(const Journal& journal) {
  std::map<std::string, Normals> noted;
  for (const Json& fact : journal.facts()) {
    if (*fact.find("kind") == Json(kind)) {
      noted[fact.find("node")->as_string()] = {exact_in(fact, "mean"), exact_in(fact, "deviation")};
    }
    const Json* pass = fact.find("pass");
    if (*fact.find("kind") != Json("fold") || pass == nullptr || *pass != Json("equalize_layers")) continue;
    const auto found = noted.find(fact.find("node")->as_string());
    if (found == noted.end()) continue;
    const std::vector<double> factors = exact_in(fact, "outputs");
    for (std::vector<double>* v : {&found->second.mean, &found->second.deviation}) {
      if (v->size() == factors.size())
        std::transform(v->begin(), v->end(), factors.begin(), v->begin(), std::multiplies<>());
    }
  }
  return noted;
}

std::optional<std::vector<double>> normal_means(const Graph& graph, const Links& links, const Product& p,
                                                const std::map<std::string, Normals>& noted, Threads& threads,
                                                std::string& why) {
  std::vector<NodeId> between;
  std::optional<Normals> known;
  ValueId v = graph[p.node].inputs[0].value;
  for (;;) {
    const NodeId n = links.producer(v);
    if (n != NodeId::none) known = put_out(graph, links, n, noted, threads);
    if (known) break;
    if (n == NodeId::none || (!clamp_of(graph, links, graph[n], threads) && !keeps_means(graph[n]))) {
      why = "no batch normalization tells the means of its input";
      if (n != NodeId::none) why += ": they come from " + graph[n].op;
      return std::nullopt;
    }
    between.push_back(n);
    v = graph[n].inputs[0].value;
  }
  std::vector<double> mean = known->mean;
  bool normal = true;  // as long as nothing but the normalization was there
  bool flat = false;
  for (auto n = between.rbegin(); n != between.rend(); ++n) {
    const Node& node = graph[*n];
    const auto bounds = clamp_of(graph, links, node, threads);
    if (bounds && !normal) {
      why = "its input is clamped more than once, or behind a pooling";
      return std::nullopt;
    }
    for (std::size_t c = 0; bounds && c < mean.size(); ++c) {
      mean[c] = clamped_mean(known->mean[c], known->deviation[c], bounds->first, bounds->second);
    }
    flat = flat || is_op(node, "Flatten");
    normal = normal && (is_op(node, "Identity") || is_op(node, "Flatten"));
  }
  // Flattened, each channel is as many neighbouring inputs as it has positions.
  const auto channels = static_cast<std::size_t>(p.in_channels());
  const std::size_t times = mean.empty() ? 0 : channels / mean.size();
  if (times == 0 || times * mean.size() != channels || (times > 1 && !flat)) {
    why = "the channels of its normalization are not its own";
    return std::nullopt;
  }
  std::vector<double> all;
  for (const double m : mean) all.insert(all.end(), times, m);
  return all;
}

}  // namespace qtool
