// SPDX-License-Identifier: Apache-2.0
// The file held against the float model that it was made from: every weight that is held as codes must be the nearest
// codes of what the model's weight became, every bias likewise, and what stayed float must have stayed the same.
#pragma once

#include "backends/verify/scene.h"
#include "backends/verify/verify.h"
#include "formats/base/threads.h"
#include "formats/lock.h"

namespace qtool::verify {

/// Without a lock folds are read from what the graphs do not have in common, and changes that leave no trace
/// there (equalize_layers, bias_correct) are not known. `every`: see nearness().
void check_against(const FileView& file, const FileView& model, const VerifyRequest&, std::int64_t every,
                   Findings& findings, Verification& out, Threads& threads);

}  // namespace qtool::verify
