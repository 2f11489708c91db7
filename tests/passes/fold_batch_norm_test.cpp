// SPDX-License-Identifier: Apache-2.0
// The pipeline runs every case here with and without the fold and compares the outputs; the numbers below are worked
// by hand.
#include "tests/passes/bench.h"

using namespace qtool;
using namespace qtool::test;

namespace {

/// Two channels with a = {2, 0.5} and b = {1, -1} (variance 0.25 and 4 less epsilon 0).
const std::string batch_norm = R"(float[2] gamma = {1.0, 1.0}, float[2] beta = {5.0, 0.5}, float[2] mean = {2.0, 3.0},
  float[2] var = {0.25, 4.0})";

struct Result {
  Graph graph;
  std::string skips;
};

Result folded(const std::string& text, int opset = 17, const Knobs& knobs = {}) {
  PassBench bench;
  Graph g = bench.run("fold_batch_norm", graph_of(text, opset), knobs);
  return {std::move(g), bench.skips()};
}

void check_stays(const std::string& text, const std::string& why, int opset = 17,
                 const std::string& op = "BatchNormalization") {
  const Result r = folded(text, opset);
  CHECK(count_op(r.graph, op) == 1);
  if (!why.empty()) CHECK_MESSAGE(contains(r.skips, why), r.skips);
}

}  // namespace

TEST_CASE("fold_batch_norm: into the Conv before it, with and without bias") {
  const Result r = folded("g (float[1, 1, 2, 2] x) => (float[1, 2, 2, 2] y) < float[2, 1, 1, 1] w = {1.0, 2.0}, " +
                          batch_norm + R"( > {
    c = Conv (x, w)
    y = BatchNormalization <epsilon = 0.0> (c, gamma, beta, mean, var)
  })");
  CHECK(
      difference(r.graph, R"(g (float[1, 1, 2, 2] x) => (float[1, 2, 2, 2] y)
    < float[2, 1, 1, 1] w = {2.0, 1.0}, float[2] c_bias = {1.0, -1.0} > { y = Conv (x, w, c_bias) })") ==
      "-  float[2] c_bias = {1.0, -1.0}\n+  float[2] \"c.bias\" = {1.0, -1.0}\n-  y = Conv (x, w, c_bias)\n+  y = Conv "
      "(x, w, \"c.bias\")\n");

  const Result with = folded(
      "g (float[1, 1, 2, 2] x) => (float[1, 2, 2, 2] y) < float[2, 1, 1, 1] w = {1.0, 2.0}, "
      "float[2] k = {3.0, 4.0}, " +
      batch_norm + R"( > {
    c = Conv (x, w, k)
    b = BatchNormalization <epsilon = 0.0> (c, gamma, beta, mean, var)
    y = Relu (b)
  })");
  CHECK(floats_of(with.graph, "k") == std::vector<float>{7, 1});
  CHECK(count_op(with.graph, "BatchNormalization") == 0);
  CHECK(with.graph.values().size() == 5);
}

TEST_CASE("fold_batch_norm: into ConvTranspose, channels counted within groups") {
  const Result r = folded("g (float[1, 2, 2, 2] x) => (float[1, 2, 2, 2] y) < float[2, 1, 1, 1] w = {1.0, 2.0}, " +
                          batch_norm + R"( > {
    c = ConvTranspose <group = 2> (x, w)
    y = BatchNormalization <epsilon = 0.0> (c, gamma, beta, mean, var)
  })");
  CHECK(count_op(r.graph, "BatchNormalization") == 0);
  CHECK(floats_of(r.graph, "w") == std::vector<float>{2, 1});
  const Result one = folded("g (float[1, 1, 2, 2] x) => (float[1, 2, 2, 2] y) < float[1, 2, 1, 1] w = {1.0, 2.0}, " +
                            batch_norm + R"( > {
    c = ConvTranspose (x, w)
    y = BatchNormalization <epsilon = 0.0> (c, gamma, beta, mean, var)
  })");
  CHECK(floats_of(one.graph, "w") == std::vector<float>{2, 1});
}

TEST_CASE("fold_batch_norm: into Gemm, with transB, alpha and beta") {
  const Result r =
      folded("g (float[3, 2] x) => (float[3, 2] y) < float[2, 2] w = {1.0, 2.0, 3.0, 4.0}, float[2] k = {1.0, 1.0}, " +
             batch_norm + R"( > {
    c = Gemm <transB = 1, alpha = 3.0, beta = 0.5> (x, w, k)
    y = BatchNormalization <epsilon = 0.0> (c, gamma, beta, mean, var)
  })");
  CHECK(count_op(r.graph, "BatchNormalization") == 0);
  CHECK(floats_of(r.graph, "w") == std::vector<float>{2, 4, 1.5, 2});
  CHECK(floats_of(r.graph, "k") == std::vector<float>{2, -0.75});
}

TEST_CASE("fold_batch_norm: MatMul keeps its bias in an Add") {
  const Result r = folded("g (float[3, 2] x) => (float[3, 2] y) < float[2, 2] w = {1.0, 2.0, 3.0, 4.0}, " + batch_norm +
                          R"( > {
    c = MatMul (x, w)
    y = BatchNormalization <epsilon = 0.0> (c, gamma, beta, mean, var)
  })");
  CHECK(count_op(r.graph, "BatchNormalization") == 0);
  CHECK(count_op(r.graph, "Add") == 1);
  CHECK(floats_of(r.graph, "w") == std::vector<float>{2, 1, 6, 2});
  const Result added =
      folded("g (float[3, 2] x) => (float[3, 2] y) < float[2, 2] w = {1.0, 2.0, 3.0, 4.0}, float[2] k = {1.0, 1.0}, " +
             batch_norm + R"( > {
    c = MatMul (x, w)
    a = Add (k, c)
    y = BatchNormalization <epsilon = 0.0> (a, gamma, beta, mean, var)
  })");
  CHECK(added.graph.nodes().size() == 2);
  CHECK(floats_of(added.graph, "k") == std::vector<float>{3, -0.5});
}

TEST_CASE("fold_batch_norm: constant Mul and Add behind a Conv, and a chain of all") {
  const std::string text =
      "g (float[1, 1, 2, 2] x) => (float[1, 2, 2, 2] y) < float[2, 1, 1, 1] w = {1.0, 2.0}, "
      "float[2] k = {0.0, 0.0}, float[1, 2, 1, 1] m = {2.0, 4.0}, float[2, 1, 1] a = {1.0, 2.0}, float h = {2.0}, " +
      batch_norm + R"( > {
    c = Conv (x, w, k)
    d = Mul (m, c)
    e = Add (d, a)
    f = Div (e, h)
    y = BatchNormalization <epsilon = 0.0> (f, gamma, beta, mean, var)
  })";
  const Result r = folded(text);
  CHECK(r.graph.nodes().size() == 1);
  CHECK(floats_of(r.graph, "w") == std::vector<float>{2, 2});
  CHECK(floats_of(r.graph, "k") == std::vector<float>{2, -0.5});
  CHECK(count_op(folded(text, 17, {{"affine", "false"}}).graph, "Mul") == 1);
}

TEST_CASE("fold_batch_norm: an affine step that is not per channel stays") {
  const auto with = [](const std::string& constant, const std::string& step) {
    return "g (float[1, 1, 2, 2] x) => (float[1, 2, 2, 2] y) < float[2, 1, 1, 1] w = {1.0, 2.0}, " + constant +
           " > { c = Conv (x, w) y = " + step + " }";
  };
  check_stays(with("float[2] m = {1.0, 2.0}", "Mul (c, m)"), "", 17, "Mul");
  check_stays(with("float[1, 1, 2, 1] m = {1.0, 2.0}", "Add (c, m)"), "", 17, "Add");
  check_stays(with("float[1] m = {3.0}", "Div (m, c)"), "", 17, "Div");
  check_stays(with("float[1] m = {0.0}", "Div (c, m)"), "", 17, "Div");
  check_stays(
      "g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2, 2] y) < float[2, 1, 1, 1] w = {1.0, 2.0}, "
      "float[1, 1, 1, 1, 1] m = {3.0} > { c = Conv (x, w) y = Mul (c, m) }",
      "", 17, "Mul");
}

TEST_CASE("fold_batch_norm: a MatMul's own bias stays an Add, a step behind it folds") {
  const Result r = folded(R"(g (float[2, 3, 2] x) => (float[2, 3, 2] y)
    < float[2, 2] w = {1.0, 2.0, 3.0, 4.0}, float[2] k = {1.0, 1.0}, float s = {0.5} > {
    c = MatMul (x, w)
    a = Add (c, k)
    y = Mul (a, s)
  })");
  CHECK(r.graph.nodes().size() == 2);
  CHECK(floats_of(r.graph, "w") == std::vector<float>{0.5, 1, 1.5, 2});
}

TEST_CASE("fold_batch_norm: the channels of a MatMul of rank 3 are not those of the normalization") {
  check_stays(
      "g (float[3, 2, 2] x) => (float[3, 2, 2] y) < float[2, 2] w = {1.0, 2.0, 3.0, 4.0}, " + batch_norm + R"( > {
    c = MatMul (x, w)
    y = BatchNormalization (c, gamma, beta, mean, var)
  })",
      "");
}

TEST_CASE("fold_batch_norm: what somebody else reads stays") {
  check_stays(
      "g (float[1, 1, 2, 2] x) => (float[1, 2, 2, 2] y, float[1, 2, 2, 2] c) < float[2, 1, 1, 1] w = {1.0, 2.0}, " +
          batch_norm + R"( > {
    c = Conv (x, w)
    y = BatchNormalization (c, gamma, beta, mean, var)
  })",
      "");
  check_stays(
      "g (float[1, 1, 2, 2] x) => (float[1, 2, 2, 2] z) < float[2, 1, 1, 1] w = {1.0, 2.0}, " + batch_norm + R"( > {
    c = Conv (x, w)
    y = BatchNormalization (c, gamma, beta, mean, var)
    z = Add (y, c)
  })",
      "");
}

TEST_CASE("fold_batch_norm: a shared weight is copied, the other reader keeps the old one") {
  const Result r = folded(
      "g (float[1, 1, 2, 2] x) => (float[1, 2, 2, 2] y, float[1, 2, 2, 2] d) < float[2, 1, 1, 1] w = {1.0, 2.0}, " +
      batch_norm + R"( > {
    c = Conv (x, w)
    y = BatchNormalization <epsilon = 0.0> (c, gamma, beta, mean, var)
    d = Conv (x, w)
  })");
  CHECK(count_op(r.graph, "BatchNormalization") == 0);
  CHECK(floats_of(r.graph, "w") == std::vector<float>{1, 2});
  CHECK(floats_of(r.graph, "w_1") == std::vector<float>{2, 1});
}

TEST_CASE("fold_batch_norm: a weight that a caller may override stays, and one that is computed") {
  Graph g =
      graph_of("g (float[1, 1, 2, 2] x) => (float[1, 2, 2, 2] y) < float[2, 1, 1, 1] w = {1.0, 2.0}, " + batch_norm +
               R"( > {
    c = Conv (x, w)
    y = BatchNormalization (c, gamma, beta, mean, var)
  })");
  g.inputs.push_back(*g.find_value("w"));
  CHECK(count_op(PassBench().run("fold_batch_norm", g), "BatchNormalization") == 1);
  check_stays("g (float[1, 1, 2, 2] x, float[2, 1, 1, 1] w) => (float[1, 2, 2, 2] y) < " + batch_norm + R"( > {
    c = Conv (x, w)
    y = BatchNormalization (c, gamma, beta, mean, var)
  })",
              "");
}

TEST_CASE("fold_batch_norm: zero variance is epsilon's business; none at all is nobody's") {
  const auto text = [](const std::string& epsilon) {
    return R"(g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y) < float[1, 1, 1, 1] w = {1.0}, float[1] gamma = {1.0},
      float[1] beta = {0.0}, float[1] mean = {0.0}, float[1] var = {0.0} > {
      c = Conv (x, w)
      y = BatchNormalization <epsilon = )" +
           epsilon + "> (c, gamma, beta, mean, var) }";
  };
  const Result r = folded(text("0.0625"));
  CHECK(floats_of(r.graph, "w") == std::vector<float>{4});
  check_stays(text("0.0"), "");
}

TEST_CASE("fold_batch_norm: training form stays") {
  check_stays(
      "g (float[1, 1, 2, 2] x) => (float[1, 2, 2, 2] y, float[2] m, float[2] v) < float[2, 1, 1, 1] w = {1.0, 2.0}, " +
          batch_norm + R"( > {
    c = Conv (x, w)
    y, m, v = BatchNormalization <training_mode = 1> (c, gamma, beta, mean, var)
  })",
      "");
}

TEST_CASE("fold_batch_norm: ahead of a Conv without padding, into its input channels") {
  const Result r = folded(
      "g (float[1, 2, 3, 3] x) => (float[1, 1, 2, 2] y) < float[1, 2, 2, 2] w = "
      "{1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0}, float[1] k = {0.5}, " +
      batch_norm + R"( > {
    b = BatchNormalization <epsilon = 0.0> (x, gamma, beta, mean, var)
    y = Conv (b, w, k)
  })");
  CHECK(r.graph.nodes().size() == 1);
  CHECK(floats_of(r.graph, "w") == std::vector<float>{2, 2, 2, 2, 1, 1, 1, 1});
  CHECK(floats_of(r.graph, "k") == std::vector<float>{0.5F + 4 - 8});
}

TEST_CASE("fold_batch_norm: through a Flatten into a Gemm, each channel as often as it has positions") {
  const Result r =
      folded("g (float[1, 2, 1, 2] x) => (float[1, 1] y) < float[4, 1] w = {1.0, 1.0, 2.0, 2.0}, float[1] k = {0.5}, " +
             batch_norm + R"( > {
    b = BatchNormalization <epsilon = 0.0> (x, gamma, beta, mean, var)
    f = Flatten (b)
    y = Gemm (f, w, k)
  })");
  CHECK(r.graph.nodes().size() == 2);
  CHECK(floats_of(r.graph, "w") == std::vector<float>{2, 2, 1, 1});
  CHECK(floats_of(r.graph, "k") == std::vector<float>{0.5F + 2 - 4});
  check_stays(
      "g (float[2, 2, 1, 2] x) => (float[1, 1] y) < float[8, 1] w = {1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0}, " +
          batch_norm + R"( > {
    b = BatchNormalization (x, gamma, beta, mean, var)
    f = Flatten <axis = 0> (b)
    y = Gemm (f, w)
  })",
      "no product");
}

TEST_CASE("fold_batch_norm: ahead of a padded Conv its shift would be lost at the border") {
  check_stays(
      "g (float[1, 2, 3, 3] x) => (float[1, 1, 4, 4] y) < float[1, 2, 2, 2] w = "
      "{1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0}, " +
          batch_norm + R"( > {
    b = BatchNormalization (x, gamma, beta, mean, var)
    y = Conv <pads = [1, 1, 1, 1]> (b, w)
  })",
      "padding");
}

TEST_CASE("fold_batch_norm: behind an Add it stays, with a reason") {
  check_stays("g (float[1, 2, 3, 3] x) => (float[1, 2, 3, 3] y) < " + batch_norm + R"( > {
    a = Add (x, x)
    b = BatchNormalization (a, gamma, beta, mean, var)
    y = Relu (b)
  })",
              "no product");
}

TEST_CASE("fold_batch_norm: half precision weights are folded in double and rounded once") {
  const auto text = [](const std::string& mean, const std::string& variance, const std::string& epsilon) {
    return in_half(
        graph_of("g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y) < float[1, 1, 1, 1] w = {3.0}, "
                 "float[1] gamma = {1.0}, float[1] beta = {1.0}, float[1] mean = {" +
                 mean + "}, float[1] var = {" + variance + R"(} > {
      c = Conv (x, w)
      y = BatchNormalization <epsilon = )" +
                 epsilon + "> (c, gamma, beta, mean, var) }"));
  };
  const Graph g = PassBench().run("fold_batch_norm", text("1.0", "9.0", "0.0"));
  CHECK(g.nodes().size() == 1);
  CHECK(g[*g.find_value("w")].data.dtype() == DType::f16);
  CHECK(floats_of(g, "w") == std::vector<float>{1});
  // A scale that half precision cannot hold: 3 / sqrt(1e-11) is beyond 65504.
  CHECK(PassBench().run("fold_batch_norm", text("0.0", "0.0", "1e-11")).nodes().size() == 2);
}
