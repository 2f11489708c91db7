// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cctype>
#include <numeric>

#include "recipes/reader/recipe.h"

namespace qtool {
namespace {

std::string folded(std::string_view word) {
  std::string out;
  for (const char c : word) out += c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

/// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment, Damerau 1964).
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  constexpr std::size_t longest = 200;  // the table is quadratic, and names in models may be huge
  if (word.empty() || word.size() > longest) return {};
  const std::string wanted = folded(word);
  std::string best;
  std::size_t least = std::max<std::size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    if (candidate.size() > longest) continue;
    const std::size_t d = distance(wanted, folded(candidate));
    if (d < least) {
      least = d;
      best = candidate;
    }
  }
  if (!best.empty()) return best;
  // A word cut short, or written out: "percent" for "percentile".
  for (const std::string& candidate : candidates) {
    const std::string c = folded(candidate);
    if (wanted.size() >= 3 && (c.starts_with(wanted) || (c.size() >= 3 && wanted.starts_with(c)))) return candidate;
  }
  return {};
}

}  // namespace qtool
