// SPDX-License-Identifier: Apache-2.0
// Absent tensors: type and shape of elements that are not here. A job is planned on them, since what becomes of a
// weight does not depend on its elements, and reading those of a large model takes longer than a plan may. What makes
// tensors of tensors asks is_absent() where elements would cost time or decide something; elsewhere they read as zeros.
#pragma once

#include "formats/ir/quant.h"
#include "formats/ir/tensor.h"

namespace qtool {

/// Takes addresses, not memory. Strings: the empty ones, which are here. Error(Code::no_fit) when there are no more
/// addresses.
Tensor absent(DType, const Shape&);
bool is_absent(const Tensor&);

/// Stands in for set_scales() where the range is not known: the scales and zero points that positive numbers of some
/// range would give. Their shapes are right.
void set_some_scales(QuantSpec& spec, const Shape& x);

}  // namespace qtool
