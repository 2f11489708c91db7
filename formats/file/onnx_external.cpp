// SPDX-License-Identifier: Apache-2.0
// Tensors whose bytes lie in other files. Every byte of the reference is hostile: the path is judged before any
// file is opened, the range before any byte is read.
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <charconv>

#include "formats/base/error.h"
#include "formats/base/memory.h"
#include "formats/file/onnx_internal.h"

namespace qtool::onnx_file {
namespace fs = std::filesystem;
namespace {

std::uint64_t read_decimal(const std::string& text, const char* key, const std::string& where) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value > (std::uint64_t{1} << 62)) {
    throw Error(Code::input, where + " has the external " + key + " \"" + text + "\", which is no size in bytes");
  }
  return value;
}

/// The path of `location` below `folder`, judged without opening anything.
fs::path judge(const std::string& location, const fs::path& folder, const std::string& where) {
  const auto refuse = [&](const std::string& why) {
    throw Error(Code::input, where + " has its data in \"" + location + "\", " + why,
                "external data must be a file in the folder of the model");
  };
  if (location.find('\0') != std::string::npos) {
    throw Error(Code::input, where + " has a zero byte in the name of its data file");
  }
  const fs::path relative(location);
  if (location.empty()) refuse("which names no file");
  if (relative.is_absolute()) refuse("which is an absolute path");
  for (const fs::path& part : relative) {
    if (part == "..") refuse("which leaves the folder of the model");
  }
  std::error_code error;
  const fs::path base = fs::canonical(folder.empty() ? fs::path(".") : folder, error);
  if (error) refuse("but the folder of the model cannot be read");
  fs::path path = fs::canonical(base / relative, error);
  if (error) refuse("which does not exist beside the model");
  const auto mismatch = std::mismatch(base.begin(), base.end(), path.begin(), path.end());
  if (mismatch.first != base.end()) refuse("a link that leaves the folder of the model");
  if (!fs::is_regular_file(path, error)) refuse("which is not a regular file");
  return path;
}

}  // namespace

std::shared_ptr<Buffer> ExternalFiles::find(const onnx::TensorProto& proto, std::size_t size,
                                            const std::string& where) {
  std::string location;
  std::uint64_t offset = 0;
  std::optional<std::uint64_t> length;
  for (const auto& entry : proto.external_data()) {
    if (entry.key() == "location") location = entry.value();
    if (entry.key() == "offset") offset = read_decimal(entry.value(), "offset", where);
    if (entry.key() == "length") length = read_decimal(entry.value(), "length", where);
  }
  if (length && *length != size) {
    throw Error(Code::input, where + " needs " + std::to_string(size) + " bytes, its external data has length " +
                                 std::to_string(*length));
  }
  auto found = files_.find(location);
  if (found == files_.end()) found = files_.emplace(location, MappedFile(judge(location, folder_, where))).first;
  const auto bytes = found->second.bytes();
  if (offset > bytes.size() || size > bytes.size() - offset) {
    throw Error(Code::input, where + " needs bytes " + std::to_string(offset) + " to " + std::to_string(offset + size) +
                                 " of \"" + location + "\", which has " + std::to_string(bytes.size()));
  }
  const auto part = bytes.subspan(static_cast<std::size_t>(offset), size);
  if (size == 0) return Buffer::allocate(0);
  return Buffer::view(part, found->second);
}

std::shared_ptr<Buffer> ExternalFiles::left_in_file(const onnx::TensorProto& proto) const {
  if (!model_) return nullptr;
  const auto found = model_->elements.find(&proto);
  return found == model_->elements.end() ? nullptr : Buffer::view(found->second, model_->file);
}

}  // namespace qtool::onnx_file
