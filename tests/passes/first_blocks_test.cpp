// SPDX-License-Identifier: Apache-2.0
#include "passes/first_blocks.h"

#include <doctest/doctest.h>

#include <string>

#include "formats/ir/text.h"
#include "formats/ir/verify.h"

using namespace qtool;

namespace {

Graph parse(const std::string& signature, const std::string& body) {
  return parse_graph("<ir_version: 8, opset_import: [\"\" : 17]>\n" + signature +
                     "\n<float[2, 2] w = {1, 2, 3, 4}> {\n" + body + "\n}\n");
}

/// Residual blocks: x + relu(x w) w.
std::string block(const std::string& x, const std::string& y) {
  return y + "a = MatMul(" + x + ", w)\n" + y + "b = Relu(" + y + "a)\n" + y + "c = MatMul(" + y + "b, w)\n" + y +
         " = Add(" + y + "c, " + x + ")\n";
}

std::string output_of(const std::optional<Graph>& cut) {
  if (!cut) return "none";
  verify(*cut);
  REQUIRE(cut->outputs.size() == 1);
  return (*cut)[cut->outputs[0].value].name;
}

}  // namespace

TEST_CASE("first blocks: the cut is behind a whole block, where one value goes on") {
  const Graph graph = parse("g (float[n, 2] x) => (float[n, 2] p)",
                            block("x", "k") + block("k", "l") + block("l", "m") + block("m", "p"));
  CHECK(weighted_nodes(graph) == 8);
  // Inside a block its input is still wanted; that of the first one is the model's, which is there anyway.
  CHECK(output_of(first_blocks(graph, 1)) == "ka");
  CHECK(output_of(first_blocks(graph, 2)) == "kc");
  CHECK(output_of(first_blocks(graph, 3)) == "l");
  CHECK(output_of(first_blocks(graph, 4)) == "l");
  const auto cut = first_blocks(graph, 4);
  CHECK(weighted_nodes(*cut) == 4);
  CHECK(cut->nodes().size() == 8);
  CHECK(output_of(first_blocks(graph, 5)) == "none");  // the next waist is behind more than half of the model
  CHECK(output_of(first_blocks(graph, 5, 0.8)) == "m");
}

TEST_CASE("first blocks: values that no weight has touched do not count") {
  // A mask made of the input goes around everything.
  const Graph graph = parse("g (float[n, 2] x) => (float[n, 2] p)",
                            "mask = Sign(x)\n" + block("x", "k") + block("k", "l") + "p = Mul(l, mask)");
  CHECK(output_of(first_blocks(graph, 3)) == "none");
  CHECK(output_of(first_blocks(graph, 3, 1.0)) == "l");
}

TEST_CASE("first blocks: no waist, no cut") {
  const Graph two = parse("g (float[n, 2] x) => (float[n, 2] p, float[n, 2] q)", block("x", "p") + block("x", "q"));
  CHECK(output_of(first_blocks(two, 1, 1.0)) == "none");
  const Graph early = parse("g (float[n, 2] x) => (float[n, 2] k, float[n, 2] p)", block("x", "k") + block("k", "p"));
  CHECK(output_of(first_blocks(early, 3, 1.0)) == "none");  // an output is wanted to the end
}
