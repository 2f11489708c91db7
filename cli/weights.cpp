// SPDX-License-Identifier: Apache-2.0
#include "cli/weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <string>

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
Found scan(std::span<const std::byte> bytes, Word infinity) {
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
  return {most > infinity, infinite > 0};
}

Found scan(const Tensor& tensor) {
  switch (tensor.dtype()) {
    case DType::f32: return scan<std::uint32_t>(tensor.bytes(), 0x7f800000);
    case DType::f64: return scan<std::uint64_t>(tensor.bytes(), 0x7ff0000000000000);
    case DType::f16: return scan<std::uint16_t>(tensor.bytes(), 0x7c00);
    case DType::bf16: return scan<std::uint16_t>(tensor.bytes(), 0x7f80);
    default: return {};
  }
}

/// Position of the weight where `node` is a product; -1 elsewhere.
int weight_input(const Node& node, const Target& target) {
  for (const Role role : {Role::product, Role::weight_only, Role::dynamic}) {
    if (const Ability* ability = target.find(node, role)) return ability->weight_input;
  }
  return -1;
}

void check(const Graph& graph, const Target& target) {
  for (const NodeId id : graph.nodes()) {
    const Node& node = graph[id];
    const std::string at = "node \"" + std::string(label_of(graph, id)) + "\" (" + node.op + ")";
    const int weight = weight_input(node, target);
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId value = node.inputs[i].value;
      if (!graph.is_constant(value)) continue;
      const Found found = scan(graph[value].data);
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
    for_each_body(node, [&](const Graph& body) { check(body, target); });
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

void check_weights(const Graph& graph, const Target& target) { check(graph, target); }

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
