// SPDX-License-Identifier: Apache-2.0
// Whether codes are those of float numbers: every one the nearest, as far as the range of codes goes.
#pragma once

#include <optional>
#include <string>

#include "backends/verify/coded.h"
#include "backends/verify/numbers.h"
#include "backends/verify/pages.h"
#include "formats/base/threads.h"

namespace qtool::verify {

struct Nearness {
  std::int64_t count = 0, wrong = 0;  // of those looked at
  std::vector<std::int64_t> at;       // indices of the first wrong one, in the shape of the float tensor
  double number = 0, scale = 0;       // there
  std::int64_t code = 0, nearest = 0;
  std::string range;  // not empty: what is wrong with where numbers were cut off
  // Where they are asked for, sums of squares: of the numbers, and of what codes make of them less the numbers.
  double signal = 0, noise = 0;
};

/// Nearest means |x / scale + zero - code| <= 1/2 + 4 steps of the type of x, for x cut off where codes end. Empty when
/// the shapes are neither the same nor (two dimensions) those of a transposed tensor.
/// `every`: 1 for all rows; n for one of n pieces of 65,536 elements or more, the first one always.
/// `lowest`, `highest`: codes of the format; empty: the outermost codes in use, which must then be the ends of one.
struct CodeRange {
  std::int64_t lowest = 0, highest = 0;
};
std::optional<Nearness> nearness(const Coded&, const Numbers&, std::optional<CodeRange>, bool transposed, bool errors,
                                 std::int64_t every, Pages&, Threads&);

/// Whether a file's weight lies transposed in its codes: by their shapes, and where those are square by `square`.
std::optional<bool> is_transposed(const Coded&, const Numbers&, bool square);

/// One byte per code, in the order of the float tensor; `shift` is added to each.
std::vector<std::uint8_t> plain_codes(const Coded&, bool transposed, std::int64_t shift);

}  // namespace qtool::verify
