// SPDX-License-Identifier: Apache-2.0
// Broken and malicious files end in one sentence, never in a crash, a hang or a large allocation.
#include <doctest/doctest.h>

#include "formats/base/file.h"
#include "formats/base/rng.h"
#include "formats/ir/text.h"
#include "tests/formats/onnx_build.h"
#include "tests/support.h"

using namespace qtool;
using namespace qtool::test;
namespace fs = std::filesystem;

namespace {

/// A model with something of everything.
std::string rich_bytes() {
  const Graph graph = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
g (bool b, float[N, 2] x) => (float[N, 2] y)
< float[2] w = {1.0, 2.0}, int64[3] i = {1, 2, 3} >
{
  h = Neg (x)
  t = LeakyRelu <alpha = 0.5, many = [1, 2], words = ["a", "b"], k = float[2] {1.0, 2.0}> (h)
  y = If (b) < then_branch = p () => (float[N, 2] p) { p = Add (h, w) },
               else_branch = q () => (float[N, 2] q) { q = Abs (t) } >
})");
  return write_onnx_bytes(graph);
}

/// Reads; what is accepted must be writable.
void try_bytes(const std::string& bytes) {
  try {
    const Graph graph = read_onnx_bytes(std::as_bytes(std::span(bytes.data(), bytes.size())), "m.onnx");
    write_onnx_bytes(graph);
    print_graph(graph);
  } catch (const Error& e) {
    CHECK(e.code() == Code::input);
    const std::string message = e.what();
    CHECK(message.starts_with("m.onnx: "));
    CHECK(message.find('\n') == std::string::npos);
  }
}

}  // namespace

TEST_CASE("onnx: every truncation ends in one sentence") {
  const std::string bytes = rich_bytes();
  for (std::size_t n = 0; n < bytes.size(); ++n) try_bytes(bytes.substr(0, n));
}

TEST_CASE("onnx: flipped bits end in one sentence or in a graph that can be written") {
  const std::string bytes = rich_bytes();
  const Rng rng(1, "onnx_hostile");
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (std::uint64_t k = 0; k < 4; ++k) {
      std::string broken = bytes;
      broken[at] = static_cast<char>(broken[at] ^ static_cast<char>(1U << (rng.bits(4 * at + k) % 8)));
      if (k == 3) broken[at] = static_cast<char>(rng.bits(at));
      try_bytes(broken);
    }
  }
}

TEST_CASE("onnx: names that clash, hang in the air or are missing are refused") {
  const auto says = [](const onnx::ModelProto& model, const char* text) {
    const std::string message = refusal(model);
    CAPTURE(message);
    CHECK(message.find(text) != std::string::npos);
  };
  auto model = small_model();
  add_node(model.mutable_graph(), "Relu", {"x"}, {"y"});
  says(model, "has the name of another value");
  model = small_model();
  add_node(model.mutable_graph(), "Relu", {"nowhere"}, {"z"});
  says(model, "reads \"nowhere\", which nothing provides");
  model = small_model();
  add_node(model.mutable_graph(), "Relu", {"b"}, {"a"});
  add_node(model.mutable_graph(), "Relu", {"a"}, {"b"});
  says(model, "cycle");
  model = small_model();
  set_info(model.mutable_graph()->add_output(), "z", 1, {2});
  says(model, "output \"z\"");
  model = small_model();
  set_info(model.mutable_graph()->add_input(), "x", 1, {2});
  says(model, "another value");
  model = small_model();
  set_info(model.mutable_graph()->add_input(), "", 1, {2});
  says(model, "no name");
  model = small_model();
  add_raw(model.mutable_graph(), "w", 1, {1}, "abcd");
  add_raw(model.mutable_graph(), "w", 1, {1}, "abcd");
  says(model, "another value");
  model = small_model();
  add_raw(model.mutable_graph(), "y", 1, {1}, "abcd");
  says(model, "another value");
  model = small_model();
  for (int i = 0; i < 2; ++i) {
    auto* attr = model.mutable_graph()->mutable_node(0)->add_attribute();
    attr->set_name("a");
    attr->set_i(1);
  }
  says(model, "twice");
  model = small_model();
  add_raw(model.mutable_graph(), "w", 1, {1}, "abcd");
  set_info(model.mutable_graph()->add_input(), "w", 7, {1});
  says(model, "is f32 and is declared as i64");
}

TEST_CASE("onnx: versions outside the range are refused by number") {
  auto model = small_model();
  model.set_ir_version(15);
  CHECK(refusal(model).find("IR version 15, qtool reads 3 to 14") != std::string::npos);
  model.set_ir_version(2);
  CHECK(refusal(model).find("IR version 2") != std::string::npos);
  model.set_ir_version(14);
  model.mutable_opset_import(0)->set_version(28);
  CHECK(refusal(model).empty());
  model.mutable_opset_import(0)->set_version(29);
  CHECK(refusal(model).find("operator set 29, qtool reads 7 to 28") != std::string::npos);
  model.mutable_opset_import(0)->set_version(6);
  CHECK(refusal(model).find("operator set 6") != std::string::npos);
  model.mutable_opset_import(0)->set_domain("org.example");
  CHECK(refusal(model).find("ai.onnx") != std::string::npos);
  model.mutable_graph()->mutable_node(0)->set_domain("org.example");
  CHECK(refusal(model).empty());
  model.mutable_graph()->mutable_node(0)->set_domain("org.other");
  CHECK(refusal(model).find("an operator of \"org.other\", of which no version is imported") != std::string::npos);
  model.clear_opset_import();
  CHECK(refusal(model).find("imports no operator set") != std::string::npos);
  model.clear_graph();
  CHECK(refusal(model).find("holds no graph") != std::string::npos);
}

TEST_CASE("onnx: names out of the file cannot swell or break the message") {
  auto model = small_model();
  add_node(model.mutable_graph(), "Relu", {std::string(100000, 'n') + "\n"}, {"z"});
  const std::string message = refusal(model);
  CHECK(message.size() < 700);
  CHECK(message.find('\n') == std::string::npos);
}

TEST_CASE("read_model: other formats are named") {
  const ScratchFolder folder;
  const auto says = [&](const std::string& bytes, const char* text) {
    {
      OutputFile file(folder / "m");
      file.write(bytes);
      file.publish();
    }
    try {
      read_model(folder / "m");
      FAIL("was read");
    } catch (const Error& e) {
      CHECK(e.code() == Code::input);
      CHECK_MESSAGE(std::string(e.what()).find(text) != std::string::npos, e.what());
    }
  };
  says("GGUF....", "GGUF");
  says(std::string("\x08\0\0\0\0\0\0\0{\"a\":1}", 15), "safetensors");
  says("PK\x03\x04rest", "zip");
  says("hello world, no model", "no ONNX model");
  says("", "empty");
  CHECK_THROWS_AS(read_model(folder.path()), Error);
  CHECK_THROWS_AS(read_model(folder / "missing"), Error);
}

TEST_CASE("onnx: the odd file of the data set is refused in one sentence") {
  if (data_dir().empty()) return skip("odd files", "no shared data here");
  try {
    read_model(data_dir() / "models/odd/super_resolution_ir1_no_opset.onnx");
    FAIL("was read");
  } catch (const Error& e) {
    CHECK(e.code() == Code::input);
    CHECK(std::string(e.what()).find("IR version 1") != std::string::npos);
  }
  CHECK(read_model(data_dir() / "models/odd/espcn_brevitas_quant.onnx").nodes().size() > 5);
}
