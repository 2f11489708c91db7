// SPDX-License-Identifier: Apache-2.0
// NumPy's .npy: one array (format 1.0 to 3.0, numpy/lib/format.py). Little-endian; C or Fortran order; booleans,
// integers, float16 to float64, complex. Everything else is refused by name: object arrays are pickles.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "formats/ir/tensor.h"

namespace qtool {

/// The array in `bytes`, which must hold exactly one. With an `owner`, aligned data in C order are not copied but
/// seen in place. `source` names the file in messages; Error(Code::input).
Tensor read_npy(std::span<const std::byte> bytes, const std::string& source, std::shared_ptr<const void> owner = {});

/// The bytes of a .npy file (format 1.0, C order). Types that NumPy lacks (bf16, minifloats, sub-byte integers) are
/// written as float32. Error(Code::input) for strings.
std::string npy_bytes(const Tensor&);

}  // namespace qtool
