// SPDX-License-Identifier: Apache-2.0
// Operator sets up and down: what changes, and what is refused. The facts of the versions come from
// tests/oracle/opset_facts.py.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "formats/base/error.h"
#include "formats/file/reader.h"
#include "formats/ir/text.h"
#include "formats/ir/verify.h"
#include "tests/support.h"

using namespace qtool;
namespace fs = std::filesystem;

namespace {

Graph model(int opset, const std::string& body) {
  return parse_graph("<ir_version: 8, opset_import: [\"\" : " + std::to_string(opset) + "]>\n" + body);
}

/// The lines of nodes, without comments.
std::string converted(int from, int to, const std::string& body) {
  Graph graph = model(from, body);
  convert_opset(graph, to);
  verify(graph);
  CHECK(graph.opset() == to);
  std::string text = print_graph(graph), out;
  const std::size_t start = text.rfind("{\n") + 2;
  for (std::size_t at = start; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    std::string line = text.substr(at, end - at);
    line = line.substr(0, line.find("  #"));
    if (line != "}" && !line.empty()) out += line.substr(2) + "\n";
    at = end + 1;
  }
  return out;
}

std::string refusal(int from, int to, const std::string& body) {
  Graph graph = model(from, body);
  const std::string before = print_graph(graph);
  try {
    convert_opset(graph, to);
  } catch (const Error& e) {
    CHECK(e.code() == Code::input);
    CHECK(print_graph(graph) == before);
    return e.what();
  }
  return {};
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("convert_opset: axes move between attribute and input") {
  const std::string old_form = "g (float[2,3] x) => (float[2] y) { y = ReduceSum <axes = [1], keepdims = 0> (x) }";
  CHECK(converted(12, 13, old_form) == "y = ReduceSum <keepdims = 0> (x, \"y/axes\")\n");
  CHECK(converted(11, 12, old_form) == "y = ReduceSum <axes = [1], keepdims = 0> (x)\n");
  const std::string mean = "g (float[2,3] x) => (float[2] y) { y = ReduceMean <axes = [1]> (x) }";
  CHECK(converted(13, 17, mean) == "y = ReduceMean <axes = [1]> (x)\n");
  CHECK(converted(13, 18, mean) == "y = ReduceMean (x, \"y/axes\")\n");
  const std::string new_form = "g (float[2,3] x) => (float[2,1,3] y) < int64[1] a = {1} > { y = Unsqueeze (x, a) }";
  CHECK(converted(17, 12, new_form) == "y = Unsqueeze <axes = [1]> (x)\n");
  CHECK(contains(refusal(17, 12, "g (float[2,3] x, int64[1] a) => (float[2,1,3] y) { y = Unsqueeze (x, a) }"),
                 "computed"));
}

TEST_CASE("convert_opset: Softmax keeps its meaning over 13") {
  CHECK(converted(12, 13, "g (float[2,3] x) => (float[2,3] y) { y = Softmax (x) }") == "y = Softmax <axis = 1> (x)\n");
  CHECK(converted(12, 13, "g (float[2,3,1,1] x) => (float[2,3,1,1] y) { y = Softmax (x) }") ==
        "y = Softmax <axis = 1> (x)\n");
  CHECK(converted(12, 13, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax (x) }") ==
        "\"y/Flatten\" = Flatten <axis = 1> (x)\n\"y/Reshape_input\" = Softmax <axis = 1> (\"y/Flatten\")\n"
        "\"y/Shape\" = Shape (x)\ny = Reshape (\"y/Reshape_input\", \"y/Shape\")\n");
  CHECK(converted(13, 12, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax <axis = 1> (x) }") ==
        "\"y/Transpose\" = Transpose <perm = [0, 2, 1]> (x)\n"
        "\"y/Transpose_input\" = Softmax <axis = 2> (\"y/Transpose\")\n"
        "y = Transpose <perm = [0, 2, 1]> (\"y/Transpose_input\")\n");
  CHECK(converted(13, 12, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax (x) }") ==
        "y = Softmax <axis = -1> (x)\n");
}

TEST_CASE("convert_opset: Clip, Pad, Slice, Split, TopK and Dropout move their parameters") {
  CHECK(converted(10, 11, "g (float[2] x) => (float[2] y) { y = Clip <min = 0.0, max = 6.0> (x) }") ==
        "y = Clip (x, \"y/min\", \"y/max\")\n");
  CHECK(converted(11, 10, "g (float[2] x) => (float[2] y) < float a = {0.5} > { y = Clip (x, a) }") ==
        "y = Clip <min = 0.5> (x)\n");
  CHECK(converted(10, 11, "g (float[2] x) => (float[4] y) { y = Pad <pads = [1, 1], value = 2.0> (x) }") ==
        "y = Pad (x, \"y/pads\", \"y/value\")\n");
  CHECK(converted(18, 17,
                  "g (float[2,3] x) => (float[2,5] y) < int64[2] p = {1, 1}, int64[1] a = {-1} > "
                  "{ y = Pad (x, p, , a) }") == "y = Pad (x, \"y/pads\", )\n");
  CHECK(converted(9, 10, "g (float[4] x) => (float[2] y) { y = Slice <starts = [1], ends = [3]> (x) }") ==
        "y = Slice (x, \"y/starts\", \"y/ends\")\n");
  CHECK(converted(17, 18, "g (float[4] x) => (float[2] a, float[2] b) { a, b = Split (x) }") ==
        "a, b = Split <num_outputs = 2> (x)\n");
  CHECK(converted(18, 17, "g (float[5] x) => (float[3] a, float[2] b) { a, b = Split <num_outputs = 2> (x) }") ==
        "a, b = Split (x, \"a/split\")\n");
  CHECK(converted(9, 13, "g (float[4] x) => (float[2] v, int64[2] i) { v, i = TopK <k = 2> (x) }") ==
        "v, i = TopK (x, \"v/k\")\n");
  CHECK(converted(11, 12, "g (float[4] x) => (float[4] y) { y = Dropout <ratio = 0.25> (x) }") ==
        "y = Dropout (x, \"y/ratio\")\n");
  CHECK(contains(refusal(13, 11, "g (float[4] x) => (float[4] y, bool[4] m) { y, m = Dropout (x) }"), "mask"));
}

TEST_CASE("convert_opset: Upsample becomes Resize with its own coordinates, and back") {
  const std::string old_form =
      "g (float[1,1,2,2] x) => (float[1,1,4,4] y) < float[4] s = {1.0, 1.0, 2.0, 2.0} > { y = Upsample (x, s) }";
  CHECK(converted(9, 10, old_form) == "y = Resize (x, s)\n");
  CHECK(converted(9, 11, old_form) ==
        "y = Resize <coordinate_transformation_mode = \"asymmetric\", nearest_mode = \"floor\"> (x, \"y/roi\", s)\n");
  CHECK(converted(9, 13, old_form) ==
        "y = Resize <coordinate_transformation_mode = \"asymmetric\", nearest_mode = \"floor\"> (x, , s)\n");
  Graph there = model(9, old_form);
  convert_opset(there, 18);
  convert_opset(there, 9);
  CHECK(diff_graphs(model(9, old_form), there).find("Upsample") == std::string::npos);
}

TEST_CASE("convert_opset: defaults that the older version lacks are dropped, other values refused") {
  CHECK(converted(14, 13, "g (float[2] x, int64[1] s) => (float[2] y) { y = Reshape <allowzero = 0> (x, s) }") ==
        "y = Reshape (x, s)\n");
  CHECK(contains(refusal(14, 13, "g (float[2] x, int64[1] s) => (float[2] y) { y = Reshape <allowzero = 1> (x, s) }"),
                 "computed"));
  CHECK(contains(refusal(15, 14, "g (float[2,3] x) => (int64[1] y) { y = Shape <start = 1> (x) }"), "\"start\""));
  CHECK(contains(refusal(18, 17, "g (float[2] x) => (float[2] y) { y = Mish (x) }"),
                 "does not exist in operator set 17"));
  CHECK(contains(refusal(17, 18, "g (float[2] x) => (float[2] y) { y = NoSuch (x) }"), "NoSuch"));
  CHECK(contains(refusal(14, 13, "g (int32[2] x) => (int32[2] y) { y = Relu (x) }"), "reads i32"));
}

TEST_CASE("convert_opset: modes, groups and transforms are renamed") {
  CHECK(converted(16, 20, "g (float[1,1,2,2] x, float[1,2,2,2] p) => (float[1,1,2,2] y) { y = GridSample (x, p) }") ==
        "y = GridSample <mode = \"linear\"> (x, p)\n");
  CHECK(converted(17, 20, "g (float[1,4,1] x) => (float[1,4,2] y) { y = DFT (x) }") == "y = DFT (x, , \"y/axis\")\n");
  const std::string norm = converted(18, 21,
                                     "g (float[1,4,2] x) => (float[1,4,2] y) < float[2] s = {1.0, 2.0}, "
                                     "float[2] b = {0.0, 0.0} > { y = GroupNormalization <num_groups = 2> (x, s, b) }");
  CHECK(contains(norm, "Expand"));
  CHECK(contains(refusal(21, 20,
                         "g (float[1,4,2] x) => (float[1,4,2] y) < float[4] s = {1.0, 1.0, 2.0, 2.0}, "
                         "float[4] b = {0.0, 0.0, 0.0, 0.0} > { y = GroupNormalization <num_groups = 2> (x, s, b) }"),
                 "does not exist in operator set 20"));
}

TEST_CASE("convert_opset: bodies are converted with what they capture") {
  Graph graph = model(12, R"(g (bool b, float[2,3] x) => (float[2,1] y) {
    y = If (b) < then_branch = t () => (float[2,1] p) { p = ReduceSum <axes = [1]> (x) },
                 else_branch = e () => (float[2,1] q) { q = ReduceMax <axes = [1]> (x) } > })");
  convert_opset(graph, 18);
  verify(graph);
  const std::string text = print_graph(graph);
  CHECK(contains(text, "ReduceSum (x, \"p/axes\")"));
  CHECK(contains(text, "ReduceMax (x, \"q/axes\")"));
  CHECK(graph[graph.nodes()[0]].attrs.graph("then_branch")->opset() == 18);
  // Up and down again: the same graph up to the constants that are left behind.
  convert_opset(graph, 12);
  CHECK(contains(print_graph(graph), "ReduceSum <axes = [1]> (x)"));
}

TEST_CASE("convert_opset: experimental operators are spelled out, before version 10 only") {
  const std::string scaler = "y = ImageScaler <scale = 0.5, bias = [1.0, 2.0]> (x) }";
  CHECK(converted(8, 13, "g (float[1,2,3,3] x) => (float[1,2,3,3] y) { " + scaler) ==
        "\"y/Add_input\" = Mul (x, \"y/scale\")\ny = Add (\"y/Add_input\", \"y/bias\")\n");
  CHECK(converted(9, 10, "g (float[1] x) => (float[1] y) { y = Affine <alpha = 2.0, beta = 1.0> (x) }") ==
        "\"y/Add_input\" = Mul (x, \"y/alpha\")\ny = Add (\"y/Add_input\", \"y/beta\")\n");
  // Left 1, top 0, right 2, bottom 2; or a height of 3 and a width of 2 from there on.
  const std::string cropped = "g (float[1,1,5,5] x) => (float[1,1,3,2] y) { y = Crop <border = [1, 0, 2, 2]";
  CHECK(converted(7, 9, cropped + "> (x) }") == "y = Slice <axes = [2, 3], ends = [-2, -2], starts = [0, 1]> (x)\n");
  CHECK(converted(7, 9, cropped + ", scale = [3, 2]> (x) }") ==
        "y = Slice <axes = [2, 3], ends = [3, 3], starts = [0, 1]> (x)\n");
  CHECK(contains(refusal(7, 8, "g (float[1,1,5,5] x) => (float[1,1,3,2] y) { y = Crop <border = [1]> (x) }"),
                 "no border of four numbers"));
  CHECK(contains(refusal(11, 13, "g (float[1] x) => (float[1] y) { y = Affine <alpha = 2.0> (x) }"), "no operator"));
}

TEST_CASE("convert_opset: padding of a transposed convolution that a formula gives") {
  const auto body = [](const std::string& attributes, const std::string& image = "1,1,4,4") {
    return "g (float[" + image +
           "] x, float[1,1,3,3] w) => (float[1,1,8,8] y) { y = ConvTranspose <strides = [2, 2], " + attributes +
           "> (x, w) }";
  };
  // 2 * 3 + 3 = 9 rows without padding: 7 are an even pad of 2, 10 need none, and 8 would lose one row at one end.
  CHECK(converted(7, 13, body("output_shape = [7, 10]")) ==
        "y = ConvTranspose <strides = [2, 2], output_shape = [7, 10]> (x, w)\n");
  CHECK(contains(refusal(7, 13, body("output_shape = [8, 7]")), "odd number"));
  CHECK(contains(refusal(7, 13, body("auto_pad = \"SAME_UPPER\"")), "odd number"));
  CHECK(contains(refusal(7, 13, body("output_shape = [7, 7]", "1,1,h,4")), "not known"));
  CHECK(contains(converted(7, 13, body("auto_pad = \"VALID\"", "1,1,h,4")), "VALID"));
}

TEST_CASE("convert_opset: real models go up") {
  if (test::data_dir().empty()) return test::skip("real models", "no shared data here");
  int done = 0;
  for (const auto& entry : fs::recursive_directory_iterator(test::data_dir() / "models")) {
    if (entry.path().extension() != ".onnx" || entry.path().parent_path().filename() == "odd") continue;
    Graph graph = inline_functions(read_onnx(entry.path()));
    try {
      convert_opset(graph, 21);
      verify(graph);
      ++done;
    } catch (const Error& e) {
      // An operator that another program added on its own, ahead of version 17; an odd pad whose side changed.
      const std::string what = e.what();
      CHECK_MESSAGE((contains(what, "LayerNormalization") || contains(what, "ConvTranspose")), what);
    }
  }
  CHECK(done >= 40);
}
