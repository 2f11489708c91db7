// SPDX-License-Identifier: Apache-2.0
// Models without the elements of their weights: reading them in the time that their headers take, and telling what a
// written file would weigh.
#pragma once

#include <cstdint>
#include <filesystem>

#include "formats/file/reader.h"
#include "formats/ir/graph.h"

namespace qtool {

/// What read_headers() leaves out: float initializers with more elements than this, vectors excepted (a bias, a scale
/// per channel), and integers above 4 MiB.
struct Headers {
  std::int64_t most_elements = 1 << 14;
};

/// A model as its headers tell it: large weights are absent (formats/ir/absent.h), and their pages are not touched. The
/// same checks as read_model(), but for the elements.
Graph read_headers(const std::filesystem::path&, const Headers& = {});
/// The same of what is known to be no text.
Graph read_onnx_headers(const std::filesystem::path&, const Headers& = {});

/// The bytes that write_onnx() would write there, data file included. Weights may be absent.
std::uint64_t written_bytes(const Graph&, const std::filesystem::path&, const OnnxWriteOptions& = {});

}  // namespace qtool
