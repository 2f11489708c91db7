// SPDX-License-Identifier: Apache-2.0
#include "cli/memory.h"

#include "cli/price.h"
#include "formats/base/error.h"

namespace qtool {

std::optional<MemoryLimit> ceiling_asked(const JobRequest& request) {
  if (request.max_ram != 0) return MemoryLimit{request.max_ram, "--max-ram"};
  std::optional<MemoryLimit> limit = container_limit();
  if (limit) limit->bytes = limit->bytes / 10 * 9;  // other processes of the container, and pages that the system keeps
  return limit;
}

std::optional<MemoryCeiling> ceiling_of(const JobRequest& request, const std::filesystem::path& folder,
                                        Journal& journal) {
  const std::optional<MemoryLimit> asked = ceiling_asked(request);
  if (!asked) return std::nullopt;
  Json fact = Json::object();
  journal.fact("memory_ceiling", std::move(fact.set("bytes", asked->bytes).set("source", asked->source)));
  return std::make_optional<MemoryCeiling>(asked->bytes, folder);
}

std::uint64_t least_ceiling(const Graph& model, int threads) {
  constexpr std::uint64_t mib = std::uint64_t{1} << 20;
  return (bytes_beside_files(model, threads) + mib - 1) / mib * mib;
}

void check_ceiling(std::uint64_t bytes, const Graph& model, int threads) {
  const std::uint64_t least = least_ceiling(model, threads);
  if (bytes >= least) return;
  const std::string named = std::to_string(least >> 20) + "M";
  throw Error(
      Code::no_fit,
      "the job does not fit into " + size_text(bytes) + " of memory; the smallest ceiling that it can keep is " + named,
      "give it that much with --max-ram " + named + ", or use fewer --threads");
}

}  // namespace qtool
