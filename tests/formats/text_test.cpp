// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/text.h"

#include <doctest/doctest.h>

#include "formats/base/error.h"
#include "formats/file/reader.h"

using namespace qtool;

namespace {

const char* const small = R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 2] y)
< float[4, 2] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.5}
>
{
  t = MatMul (x, w)
  y = LeakyRelu <alpha = 0.5> (t)
}
)";

std::string message_of(const std::string& text) {
  try {
    parse_graph(text);
  } catch (const Error& e) {
    CHECK(e.code() == Code::input);
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE("text: what is printed is parsed again") {
  const Graph graph = parse_graph(small);
  CHECK(graph.nodes().size() == 2);
  CHECK(graph.opset() == 17);
  CHECK(graph[*graph.find_value("w")].data.read<float>()[7] == 8.5F);
  CHECK(print_graph(graph) == small);
  CHECK(print_graph(parse_graph(print_graph(graph))) == print_graph(graph));
}

TEST_CASE("text: a difference names the lines") {
  const Graph before = parse_graph(small);
  Graph after = before;
  CHECK(diff_graphs(before, after).empty());
  after[after.nodes()[1]].attrs.set("alpha", 0.25F);
  CHECK(diff_graphs(before, after) == "-  y = LeakyRelu <alpha = 0.5> (t)\n+  y = LeakyRelu <alpha = 0.25> (t)\n");
}

TEST_CASE("text: mistakes carry the line") {
  CHECK(message_of("<ir_version: 8, opset_import: [\"\" : 17]>\ng (float[2] x) => (float[2] y) {\n y = Relu (x\n}")
            .find("line: 4") != std::string::npos);
  CHECK(message_of("<ir_version: 8, opset_import: [\"\" : 17]>\ng (float[2] x) => (float[2] \"y) {}").find("line 2") !=
        std::string::npos);
  CHECK(message_of("<ir_version: 99999999999999999999>").find("number") != std::string::npos);
  CHECK(message_of("").size() > 0);
}
