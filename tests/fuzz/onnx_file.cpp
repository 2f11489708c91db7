// SPDX-License-Identifier: Apache-2.0
#include "formats/file/headers.h"
#include "formats/file/reader.h"
#include "formats/ir/text.h"
#include "formats/ir/verify.h"
#include "tests/fuzz/scratch_path.h"
#include "tests/fuzz/targets.h"

namespace qtool::fuzz {
namespace {

/// The model as it is written again; nothing: refused.
template <class Read>
std::optional<std::string> written_again(const Read& read) {
  std::optional<std::string> written;
  refuses_with(Code::input, [&] {
    const Graph graph = read();
    verify(graph);
    print_graph(graph);
    written = write_onnx_bytes(graph);
  });
  return written;
}

}  // namespace

/// A model whose weights stay in its mapped file, down to a few bytes, is that of the bytes, and its headers can be
/// read where it can.
void onnx_file(std::span<const std::byte> bytes) {
  const ScratchPath file(bytes);
  const std::filesystem::path path = file.path();
  constexpr std::size_t few = 8;
  const auto mapped = written_again([&] { return read_onnx(path, few); });
  const auto whole = written_again([&] { return read_onnx_bytes(bytes, path.string(), path.parent_path()); });
  if (mapped != whole) throw std::logic_error("the mapped file is another model than its bytes");
  bool has_headers = false;
  refuses_with(Code::input, [&] {
    Headers headers;
    headers.most_elements = few;
    verify(read_onnx_headers(path, headers));
    has_headers = true;
  });
  if (whole && !has_headers) throw std::logic_error("the headers of a model were refused");
}

}  // namespace qtool::fuzz
