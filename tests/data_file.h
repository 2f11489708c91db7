// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "formats/file/reader.h"

namespace qtool::test {

/// The data file that write_onnx() put beside `model`; empty where there is none.
inline std::filesystem::path data_file_beside(const std::filesystem::path& model) {
  for (const auto& entry : std::filesystem::directory_iterator(model.parent_path())) {
    if (is_data_file_of(model, entry.path())) return entry.path();
  }
  return {};
}

}  // namespace qtool::test
