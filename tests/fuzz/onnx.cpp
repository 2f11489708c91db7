// SPDX-License-Identifier: Apache-2.0
#include "calib/op.h"
#include "formats/file/reader.h"
#include "formats/ir/text.h"
#include "formats/ir/verify.h"
#include "tests/fuzz/targets.h"

namespace qtool::fuzz {

/// What is accepted is well-formed, can be printed and typed, and is still itself when written and read again.
void onnx(std::span<const std::byte> bytes) {
  Graph graph;
  bool accepted = false;
  refuses_with(Code::input, [&] {
    graph = read_onnx_bytes(bytes, "m.onnx");
    verify(graph);
    accepted = true;
  });
  if (!accepted) return;
  print_graph(graph);
  const std::string written = write_onnx_bytes(graph);
  const Graph again = read_onnx_bytes(std::as_bytes(std::span(written.data(), written.size())), "again.onnx");
  if (write_onnx_bytes(again) != written) throw std::logic_error("writing and reading changed the model");
  refuses_with(Code::input, [&] {
    Graph flat = inline_functions(graph);
    verify(flat);
    infer_types(flat);
    verify(flat);
    print_graph(flat);
  });
}

}  // namespace qtool::fuzz
