// SPDX-License-Identifier: Apache-2.0
#include "cli/memory.h"

#include <algorithm>

#include "formats/base/error.h"

namespace qtool {
namespace {

constexpr std::uint64_t mib = std::uint64_t{1} << 20;

/// Nodes and values with their names, small constants, and what passes and the writer make of them: seen below 8 KiB.
constexpr std::uint64_t per_node = std::uint64_t{16} << 10;
constexpr std::uint64_t program = 24 * mib;    // the program, its libraries, their buffers
constexpr std::uint64_t per_thread = 6 * mib;  // working memory of kernels, with two samples side by side

struct Counts {
  std::uint64_t nodes = 0, largest = 0;
  bool folds = false;
};

void count(const Graph& graph, Counts& c) {
  for (const NodeId n : graph.nodes()) {
    ++c.nodes;
    c.folds = c.folds || graph[n].op == "BatchNormalization";
    for_each_body(graph[n], [&](const Graph& body) { count(body, c); });
  }
  for (const ValueId v : graph.values()) {
    if (graph.is_constant(v)) c.largest = std::max<std::uint64_t>(c.largest, graph[v].data.size_bytes());
  }
}

}  // namespace

std::optional<MemoryCeiling> ceiling_of(const JobRequest& request, const std::filesystem::path& folder,
                                        Journal& journal) {
  std::uint64_t bytes = request.max_ram;
  std::string source = "--max-ram";
  if (bytes == 0) {
    const std::optional<MemoryLimit> container = container_limit();
    if (!container) return std::nullopt;
    bytes = container->bytes / 10 * 9;  // other processes of the container, and pages that the system keeps
    source = container->source;
  }
  Json fact = Json::object();
  journal.fact("memory_ceiling", std::move(fact.set("bytes", bytes).set("source", source)));
  return std::make_optional<MemoryCeiling>(bytes, folder);
}

std::uint64_t least_memory(const Graph& model, int threads) {
  Counts c;
  count(model, c);
  const std::uint64_t folding = c.folds ? 2 * c.largest : 0;  // a weight in double
  return program + static_cast<std::uint64_t>(threads) * per_thread + c.nodes * per_node + folding;
}

void check_ceiling(const MemoryCeiling& ceiling, const Graph& model, int threads) {
  const std::uint64_t least = (least_memory(model, threads) + mib - 1) / mib;
  if (ceiling.bytes() / mib >= least) return;
  throw Error(Code::no_fit,
              "the job does not fit into " + size_text(ceiling.bytes()) +
                  " of memory; the smallest ceiling that it can keep is " + std::to_string(least) + "M",
              "give it that much with --max-ram " + std::to_string(least) + "M, or use fewer --threads");
}

}  // namespace qtool
