// SPDX-License-Identifier: Apache-2.0
#include "calib/data/samples.h"
#include "tests/fuzz/scratch_path.h"
#include "tests/fuzz/targets.h"

namespace qtool::fuzz {

/// Lines for a model with token ids and a mask of free length.
void jsonl(std::span<const std::byte> bytes) {
  Wanted ids, mask;
  ids.name = "input_ids";
  ids.type.dtype = DType::i64;
  ids.type.known_dtype = ids.type.known_rank = true;
  ids.type.shape = {-1, -1};
  mask = ids;
  mask.name = "attention_mask";
  const ScratchPath file(bytes);
  refuses_with(Code::calibration, [&] {
    const auto samples = open_jsonl(file.path(), {ids, mask});
    for (std::int64_t i = 0; i < samples->count(); ++i) {
      for (const std::string& name : samples->names()) samples->sample(name, i);
    }
  });
}

}  // namespace qtool::fuzz
