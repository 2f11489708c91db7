// SPDX-License-Identifier: Apache-2.0
// What a file is, judged by its first bytes; the name decides only between ONNX and its text form.
#include "formats/file/reader.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/file/headers.h"
#include "formats/ir/text.h"

namespace qtool {
namespace {

struct Foreign {
  std::size_t offset;
  std::string_view magic;
  const char* what;
};
constexpr Foreign foreign[] = {
    {0, "GGUF", "a GGUF checkpoint"},
    {0, "PK\x03\x04", "a zip archive (a PyTorch checkpoint or a .npz)"},
    {0, "\x89HDF", "an HDF5 file"},
    {4, "TFL3", "a TensorFlow Lite model"},
    {4, "ORTM", "an ONNX Runtime flatbuffer"},
    {0, "\x93NUMPY", "a NumPy array"},
    {0, "\x80\x02", "a Python pickle"},
    {8, "{\"", "a safetensors file"},
};

}  // namespace

namespace {

/// Refuses what is no ONNX message by name; text syntax is read here.
template <class Read>
Graph read_any(const std::filesystem::path& path, const Read& read) {
  const std::string name = path.string();
  if (std::filesystem::is_directory(path)) {
    throw Error(Code::input, name + " is a folder, and a model file is wanted", "give the path of an .onnx file");
  }
  if (name.ends_with(".onnx.txt")) return parse_graph(read_text(path));
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (text.empty()) throw Error(Code::input, name + " is empty", "download or export the model again");
  for (const Foreign& f : foreign) {
    if (text.size() >= f.offset + f.magic.size() && text.substr(f.offset, f.magic.size()) == f.magic) {
      throw Error(Code::input, name + " is " + f.what + ", which is not read as a model", "export the model to ONNX");
    }
  }
  return read(path);
}

}  // namespace

Graph read_model(const std::filesystem::path& path) {
  return read_any(path, [](const auto& file) { return read_onnx(file); });
}

Graph read_headers(const std::filesystem::path& path, const Headers& headers) {
  return read_any(path, [&](const auto& file) { return read_onnx_headers(file, headers); });
}

}  // namespace qtool
