// SPDX-License-Identifier: Apache-2.0
// The pipeline compares the outputs with and without the pass in every case here (layerwise-optimizers section 10:
// equal to 1e-5); ranges are worked by hand.
#include <cmath>

#include "tests/passes/bench.h"

using namespace qtool;
using namespace qtool::test;

namespace {

Graph evened(const std::string& text, const Knobs& knobs = {}) {
  PassBench bench;
  return bench.run("equalize_layers", graph_of(text), knobs);
}

void check_floats(const Graph& g, const char* name, const std::vector<double>& wanted) {
  const std::vector<float> got = floats_of(g, name);
  REQUIRE(got.size() == wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == doctest::Approx(wanted[i]).epsilon(1e-3));
}

/// No weight has changed.
void check_stays(const std::string& text) {
  const Graph before = graph_of(text);
  CHECK(print_graph(evened(text)) == print_graph(before));
}

}  // namespace

TEST_CASE("layerwise-optimizers 10: a pair gets the geometric mean of its ranges, per channel") {
  // Rows of w: 8 and 1 (largest), columns of v: 2 and 4; the means are 4 and 2.
  const Graph g = evened(R"(g (float[1, 2] x) => (float[1, 2] y)
    < float[2, 2] w = {8.0, 1.0, -2.0, 0.5}, float[2] b = {4.0, 3.0}, float[2, 2] v = {2.0, -1.0, 1.0, 4.0} > {
    h = Gemm (x, w, b)
    r = Relu (h)
    y = Gemm (r, v)
  })");
  check_floats(g, "w", {4, 2, -1, 1});
  check_floats(g, "b", {2, 6});
  check_floats(g, "v", {4, -2, 0.5, 2});
}

TEST_CASE("layerwise-optimizers 10: a triple with a depthwise layer gets the cube root of the product") {
  const Graph g = evened(R"(g (float[1, 1, 3, 3] x) => (float[1, 1, 3, 3] y)
    < float[2, 1, 1, 1] u = {8.0, 1.0}, float[2, 1, 1, 1] d = {1.0, 27.0}, float[1, 2, 1, 1] w = {1.0, 1.0} > {
    a = Conv (x, u)
    p = Relu (a)
    b = Conv <group = 2> (p, d)
    q = LeakyRelu <alpha = 0.25> (b)
    y = Conv (q, w)
  })");
  check_floats(g, "u", {2, 3});
  check_floats(g, "d", {2, 3});
  check_floats(g, "w", {2, 3});
}

TEST_CASE("equalize_layers: groups, pools, added biases and transposed weights") {
  // Two groups of two: input channel 2 and 3 of the second layer are columns 0 and 1 of its second half.
  const Graph grouped = evened(R"(g (float[1, 1, 2, 2] x) => (float[1, 2, 1, 1] y)
    < float[4, 1, 1, 1] u = {4.0, 4.0, 4.0, 1.0}, float[2, 2, 1, 1] w = {1.0, 4.0, 16.0, 4.0} > {
    a = Conv (x, u)
    p = MaxPool <kernel_shape = [2, 2]> (a)
    y = Conv <group = 2> (p, w)
  })");
  check_floats(grouped, "u", {2, 4, 8, 2});
  check_floats(grouped, "w", {2, 4, 8, 2});
  const Graph added = evened(R"(g (float[2, 3, 1] x) => (float[2, 3, 1] y)
    < float[1, 2] u = {16.0, 1.0}, float[2] b = {2.0, 1.0}, float[2, 1] v = {1.0, 4.0} > {
    a = MatMul (x, u)
    s = Add (a, b)
    r = Relu (s)
    y = MatMul (r, v)
  })");
  check_floats(added, "u", {4, 2});
  check_floats(added, "b", {0.5, 2});
  check_floats(added, "v", {4, 2});
  const Graph turned = evened(R"(g (float[1, 1] x) => (float[1, 1] y)
    < float[2, 1] u = {16.0, 1.0}, float[1, 2] v = {1.0, 4.0} > {
    a = Gemm <transB = 1> (x, u)
    y = Gemm <transB = 1> (a, v)
  })");
  check_floats(turned, "u", {4, 2});
  check_floats(turned, "v", {4, 2});
}

TEST_CASE("equalize_layers: what is not homogeneous, or seen by others, stays") {
  const std::string weights = R"(< float[2, 2] w = {8.0, 1.0, 2.0, 1.0}, float[2, 2] v = {1.0, 1.0, 1.0, 1.0} > {)";
  const std::string head = "g (float[1, 2] x) => (float[1, 2] y) " + weights;
  check_stays(head + " h = Gemm (x, w)  r = Sigmoid (h)  y = Gemm (r, v) }");
  check_stays(head + " h = Gemm (x, w)  r = Clip (h)  y = Gemm (r, v) }");
  check_stays(head + " h = Gemm (x, w)  r = Gemm (h, v)  y = Add (h, r) }");
  check_stays("g (float[1, 2] x) => (float[1, 2] y, float[1, 2] h) " + weights + " h = Gemm (x, w)  y = Gemm (h, v) }");
  check_stays(head + " h = Gemm (x, w)  y = Gemm <transA = 1> (h, v) }");
}

TEST_CASE("equalize_layers: a channel that one side does not use keeps its numbers") {
  const Graph g = evened(R"(g (float[1, 1] x) => (float[1, 1] y)
    < float[1, 2] w = {5.0, 4.0}, float[2, 1] v = {0.0, 1.0} > {
    h = Gemm (x, w)
    y = Gemm (h, v)
  })");
  check_floats(g, "w", {5, 2});
  check_floats(g, "v", {0, 2});
}
