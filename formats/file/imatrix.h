// SPDX-License-Identifier: Apache-2.0
// Importance matrices of llama.cpp: for every weight, the sum of squares of each of its inputs over all tokens
// (llama.cpp, tools/imatrix; gguf.md section 7). sums / counts is half the diagonal of the Hessian of gptq.md
// section 2.
//
//   gguf   tensors X.in_sum2 [matrices, inputs] and X.counts [matrices, 1] for the weight X
//   dat    the older kind: means only, times the number of chunks; what is stacked in one weight is not told apart
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qtool {

struct Imatrix {
  enum class Kind : std::uint8_t { gguf, dat };

  struct Entry {
    std::string name;            // of the weight
    std::vector<double> sums;    // of squares, by input; those of one matrix behind those of the one before
    std::vector<double> counts;  // tokens, by matrix: one, or as many as are stacked in the weight
    /// Means by input, of all matrices; 1 where no token came, as llama.cpp has it.
    std::vector<double> means() const;
  };

  std::vector<Entry> entries;         // ascending by name
  std::vector<std::string> datasets;  // what was read, for people
  std::uint32_t chunks = 0;           // runs of the model
  std::uint32_t chunk_size = 1;       // tokens in each; 1 from older files, whose counts are chunks

  const Entry* find(std::string_view name) const;
};

/// Either kind. Error(Code::input) naming file, entry and rule.
Imatrix read_imatrix(const std::filesystem::path&);
/// `source` names the bytes in messages.
Imatrix read_imatrix_bytes(std::span<const std::byte>, const std::string& source);

/// Sums and counts as float32. Requires: entries ascending by name. Error(Code::input) for names that are too long for
/// the kind (gguf: 55 bytes). The older kind leaves out entries without tokens.
std::string imatrix_bytes(const Imatrix&, Imatrix::Kind);

}  // namespace qtool
