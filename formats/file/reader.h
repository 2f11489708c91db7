// SPDX-License-Identifier: Apache-2.0
// Opening models by their first bytes, and writing them. The only door to Protobuf and ONNX is in
// onnx_*.cpp and ir/text.cpp; no header of ours shows their types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "formats/base/file.h"
#include "formats/base/threads.h"
#include "formats/ir/graph.h"

namespace qtool {

/// Reads any model format that qtool knows; verify() holds for the graph, as for all that are read here.
/// Error(Code::input) in one sentence for anything broken.
Graph read_model(const std::filesystem::path&);

/// An ONNX model. Weights in other files stay there, mapped, and so do raw data of the model file that take more than
/// `least_mapped` bytes. A location that leaves the folder of the model, or does not exist, or is too short is refused
/// before it is opened.
Graph read_onnx(const std::filesystem::path&, std::size_t least_mapped = std::size_t{64} << 10);
/// A serialized ModelProto in memory; `source` names it in messages. External data is looked up in `folder`.
Graph read_onnx_bytes(std::span<const std::byte>, const std::string& source, const std::filesystem::path& folder = {});

/// A serialized TensorProto (the .pb files of ONNX test data). `source` names it in messages. Error(Code::input).
Tensor read_tensor_proto(std::span<const std::byte>, const std::string& source);

/// Element types by their number in TensorProto.DataType, as attributes (Cast, output_dtype) give them. Empty: not a
/// type that qtool knows.
std::optional<DType> dtype_of_onnx(std::int32_t data_type);
std::int32_t onnx_of_dtype(DType);

/// The message of an attribute that qtool does not model (OpaqueAttr), for hashing.
std::string_view opaque_bytes(const Attr&);

struct OnnxWriteOptions {
  /// Initializers go to a data file when the model would pass this many bytes (protobuf ends at 2 GiB).
  std::uint64_t external_above = std::uint64_t{1} << 31;
  Sync sync = Sync::now;
  Threads* threads = nullptr;  // make what is made when it is read while the rest is written; null: nobody does
};

/// Serializes `graph` as a ModelProto: an untouched graph gives back the message it was read from; only what a
/// pass changed is written anew. Quant annotations on uses are not written: emitters turn them into nodes first.
std::string write_onnx_bytes(const Graph&);
/// Writes aside, then renames. Weights that are external go first, to `<file>.<16 digits of their SHA-256>.data`: an
/// older model of the same name keeps the data that it refers to.
void write_onnx(const Graph&, const std::filesystem::path&, const OnnxWriteOptions& = {});
/// Whether a file is one that write_onnx() puts beside `model`.
bool is_data_file_of(const std::filesystem::path& model, const std::filesystem::path& file);

/// Rewrites every node so that the graph means the same at ai.onnx opset `version` (up or down). Error(Code::input)
/// naming the node when a construct has no exact equivalent. Renumbering alone never happens.
void convert_opset(Graph&, std::int64_t version);

/// The graph with every call of a local function replaced by the function's body, names made unique.
Graph inline_functions(const Graph&);

}  // namespace qtool
