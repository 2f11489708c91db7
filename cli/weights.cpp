// SPDX-License-Identifier: Apache-2.0
#include "cli/weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/widest.h"
#include "recipes/reader/where.h"

namespace qtool {
namespace {

struct Found {
  bool nan = false, infinite = false;
};

/// Elements of a float format as unsigned words; `infinity`: the bits of it. They lie at any address.
template <class Word>
void scan(std::span<const std::byte> bytes, Word infinity, Found& found) {
  constexpr std::size_t together = 4096;
  std::array<Word, together> words;
  Word most = 0;
  std::size_t infinite = 0;
  for (std::size_t at = 0; at < bytes.size(); at += together * sizeof(Word)) {
    const std::size_t count = std::min(bytes.size() - at, together * sizeof(Word)) / sizeof(Word);
    std::memcpy(words.data(), bytes.data() + at, count * sizeof(Word));
    Word here = 0, any = 0;
    with_widest_vectors([&]() QTOOL_INLINE {
      for (std::size_t i = 0; i < count; ++i) {
        const Word magnitude = static_cast<Word>(words[i] & std::numeric_limits<Word>::max() / 2);
        here = std::max(here, magnitude);
        any = static_cast<Word>(any | (magnitude == infinity ? 1 : 0));
      }
    });
    most = std::max(most, here);
    infinite += any;
  }
  found.nan = found.nan || most > infinity;
  found.infinite = found.infinite || infinite > 0;
}

Found scan(const Tensor& tensor) {
  Found found;
  if (!is_float(tensor.dtype())) return found;
  tensor.for_each_piece([&](std::span<const std::byte> bytes) {
    switch (tensor.dtype()) {
      case DType::f32: return scan<std::uint32_t>(bytes, 0x7f800000, found);
      case DType::f64: return scan<std::uint64_t>(bytes, 0x7ff0000000000000, found);
      case DType::f16: return scan<std::uint16_t>(bytes, 0x7c00, found);
      default: return scan<std::uint16_t>(bytes, 0x7f80, found);
    }
  });
  return found;
}

/// What was found in large constants, by where they lie.
class Scanned {
 public:
  explicit Scanned(const Graph& graph) { collect(graph); }

  /// The largest first. On several threads their digests are computed as well: locks ask for them, and here there is
  /// nothing else to do but to wait for the file's.
  void run(Threads& threads, const std::function<void()>& beside) {
    std::stable_sort(large_.begin(), large_.end(),
                     [](const Tensor& a, const Tensor& b) { return a.size_bytes() > b.size_bytes(); });
    std::vector<Found> found(large_.size());
    threads.for_each(static_cast<std::int64_t>(large_.size()) + 1, 1, [&](std::int64_t i, std::int64_t) {
      if (i == 0) return beside();
      const auto at = static_cast<std::size_t>(i) - 1;
      found[at] = scan(large_[at]);
      if (threads.count() > 1) large_[at].digest();
    });
    for (std::size_t i = 0; i < found.size(); ++i) found_[large_[i].address()] = found[i];
  }

  Found operator()(const Tensor& t) const {
    const auto known = found_.find(t.address());
    return known == found_.end() ? scan(t) : known->second;
  }

 private:
  void collect(const Graph& graph) {
    constexpr std::size_t large = std::size_t{64} << 10;
    for (const ValueId v : graph.values()) {
      const Tensor& t = graph[v].data;
      if (is_float(t.dtype()) && t.size_bytes() >= large && found_.try_emplace(t.address()).second) large_.push_back(t);
    }
    for (const NodeId n : graph.nodes()) {
      for_each_body(graph[n], [&](const Graph& body) { collect(body); });
    }
  }

  std::vector<Tensor> large_;
  std::map<const std::byte*, Found> found_;
};

/// Position of the weight where `node` is a product; -1 elsewhere.
int weight_input(const Node& node, const Target& target) {
  for (const Role role : {Role::product, Role::weight_only, Role::dynamic}) {
    if (const Ability* ability = target.find(node, role)) return ability->weight_input;
  }
  return -1;
}

void check(const Graph& graph, const Target& target, const Scanned& scanned) {
  for (const NodeId id : graph.nodes()) {
    const Node& node = graph[id];
    const std::string at = "node \"" + std::string(label_of(graph, id)) + "\" (" + node.op + ")";
    const int weight = weight_input(node, target);
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId value = node.inputs[i].value;
      if (!graph.is_constant(value)) continue;
      const Found found = scanned(graph[value].data);
      if (found.nan || (found.infinite && static_cast<int>(i) == weight)) {
        throw Error(
            Code::input,
            "the weight \"" + graph[value].name + "\" of " + at + " holds " + (found.nan ? "NaN" : "infinities"),
            "repair the model: no scale fits such a weight");
      }
    }
    if (node.op == "Constant" && scan(node.attrs.get("value", Tensor())).nan) {
      throw Error(Code::input, "the value of " + at + " holds NaN", "repair the model: no scale fits such a weight");
    }
    for_each_body(node, [&](const Graph& body) { check(body, target, scanned); });
  }
}

void collect_domains(const Graph& graph, std::set<std::string>& domains) {
  for (const NodeId id : graph.nodes()) {
    domains.insert(graph[id].domain);
    for_each_body(graph[id], [&](const Graph& body) { collect_domains(body, domains); });
  }
}

std::uint64_t constant_bytes(const Graph& graph) {
  std::uint64_t sum = 0;
  for (const ValueId id : graph.values()) sum += graph[id].data.size_bytes();
  for (const NodeId id : graph.nodes()) {
    for_each_body(graph[id], [&](const Graph& body) { sum += constant_bytes(body); });
  }
  return sum;
}

}  // namespace

void check_weights(const Graph& graph, const Target& target, Threads& threads, const std::function<void()>& beside) {
  Scanned scanned(graph);
  scanned.run(threads, beside);
  check(graph, target, scanned);
}

void warn_of_domains(const Graph& graph, const Target& target, Journal& journal) {
  std::set<std::string> domains;
  collect_domains(graph, domains);
  for (const Function& function : graph.model->functions) domains.erase(function.domain);
  for (const std::string& domain : domains) {
    if (domain.empty() || domain == "ai.onnx") continue;
    if (std::find(target.domains.begin(), target.domains.end(), domain) != target.domains.end()) continue;
    journal.warn(domain, "the target runs no operators of this domain by itself; their nodes are kept as they are");
  }
}

std::uint64_t model_bytes(const std::filesystem::path& file, const Graph& graph) {
  const std::uint64_t message = std::filesystem::file_size(file), weights = constant_bytes(graph);
  return weights > message ? message + weights : message;  // inside the file they cannot be larger than it
}

}  // namespace qtool
