// SPDX-License-Identifier: Apache-2.0
#include "calib/unquantized.h"

#include <doctest/doctest.h>

#include "formats/base/error.h"
#include "formats/ir/text.h"
#include "formats/ir/verify.h"

using namespace qtool;

namespace {

Graph model(const std::string& body) {
  return parse_graph("<ir_version: 8, opset_import: [\"\" : 17, \"com.microsoft\" : 1]> g " + body);
}

std::string nodes_of(const Graph& graph) {
  std::string text;
  for (const NodeId n : graph.order()) text += (text.empty() ? "" : " ") + graph[n].op;
  return text;
}

constexpr const char* scales = "float s, uint8 z";

}  // namespace

TEST_CASE("unquantized: pairs go, also around operators that only move codes; what computes in float stays") {
  const Graph g = model(std::string("(float[1,4] x, ") + scales + R"() => (float[4] y) {
    q = QuantizeLinear(x, s, z)
    m = Transpose <perm = [1, 0]> (q)
    d = DequantizeLinear(m, s, z)
    r = Relu(d)
    q2 = QuantizeLinear(r, s, z)
    y = DequantizeLinear(q2, s, z)
  })");
  const Graph plain = without_activation_quantizers(g);
  verify(plain);
  CHECK(nodes_of(plain) == "Transpose Relu Identity");
  CHECK(plain[plain.outputs[0].value].name == "y");
}

TEST_CASE("unquantized: kernels on codes with float results multiply dequantized weights") {
  const Graph g = model(std::string("(float[1,4] x, int8[4,3] w, float[3] ws, int8[3] wz, float[3] b, ") + scales +
                        R"() => (float[1,3] y, float[1,3] v) {
    q = QuantizeLinear(x, s, z)
    y = com.microsoft.MatMulIntegerToFloat(q, w, s, ws, z, wz, b)
    v = com.microsoft.DynamicQuantizeMatMul(x, w, ws, wz)
  })");
  const Graph plain = without_activation_quantizers(g);
  verify(plain);
  CHECK(nodes_of(plain) == "DequantizeLinear MatMul Add DequantizeLinear MatMul");
}

TEST_CASE("unquantized: an operator that computes on codes is named, a float graph stays what it is") {
  const Graph g = model(std::string("(float[1,4] x, ") + scales + R"() => (uint8[1,4] y) {
    q = QuantizeLinear(x, s, z)
    y = com.microsoft.QLinearSigmoid(q, s, z, s, z)
  })");
  CHECK_THROWS_WITH_AS(without_activation_quantizers(g), doctest::Contains("QLinearSigmoid"), Error);
  const Graph plain = model("(float[2] x) => (float[2] y) { y = Relu(x) }");
  CHECK(diff_graphs(plain, without_activation_quantizers(plain)).empty());
}
