// SPDX-License-Identifier: Apache-2.0
// Every operator with a backward against central differences: loss = sum(seed * y), (loss(x + h) - loss(x - h)) / 2h.
// Forward is float32, so h = 2^-7 balances its rounding (about 1e-7 / h) against the h^2 / 6 of the third derivative;
// agreement to 2e-3 of the largest gradient.
#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "calib/executor.h"
#include "calib/op.h"
#include "formats/base/error.h"
#include "formats/base/rng.h"
#include "formats/ir/quant.h"
#include "formats/ir/text.h"

namespace qtool::test {
namespace {

struct Case {
  const char* op;
  const char* inputs;  // declarations in ONNX text; float inputs are drawn and checked
  const char* body;
  double low = -1, high = 1;
  int opset = 17;
};

const Case cases[] = {
    // Functions of one operand; ranges keep away from kinks and poles by more than h.
    {"Abs", "float[7] x", "y = Abs(x)"},
    {"Acos", "float[7] x", "y = Acos(x)", -0.8, 0.8},
    {"Acosh", "float[7] x", "y = Acosh(x)", 1.5, 3},
    {"Affine", "float[7] x", "y = Affine<alpha = 1.5, beta = 0.3>(x)"},
    {"Asin", "float[7] x", "y = Asin(x)", -0.8, 0.8},
    {"Asinh", "float[7] x", "y = Asinh(x)"},
    {"Atan", "float[7] x", "y = Atan(x)"},
    {"Atanh", "float[7] x", "y = Atanh(x)", -0.8, 0.8},
    {"Celu", "float[9] x", "y = Celu<alpha = 0.7>(x)"},
    {"Cos", "float[7] x", "y = Cos(x)"},
    {"Cosh", "float[7] x", "y = Cosh(x)"},
    {"Elu", "float[9] x", "y = Elu<alpha = 0.7>(x)"},
    {"Erf", "float[7] x", "y = Erf(x)"},
    {"Exp", "float[7] x", "y = Exp(x)"},
    {"Gelu", "float[9] x", "y = Gelu(x)", -2, 2, 20},
    {"Gelu", "float[9] x", "y = Gelu<approximate = \"tanh\">(x)", -2, 2, 20},
    {"HardSigmoid", "float[9] x", "y = HardSigmoid(x)", -4, 4},
    {"HardSwish", "float[9] x", "y = HardSwish(x)", -5, 5},
    {"LeakyRelu", "float[9] x", "y = LeakyRelu<alpha = 0.3>(x)"},
    {"Log", "float[7] x", "y = Log(x)", 0.5, 2},
    {"Mish", "float[9] x", "y = Mish(x)", -2, 2, 18},
    {"Neg", "float[7] x", "y = Neg(x)"},
    {"Reciprocal", "float[7] x", "y = Reciprocal(x)", 0.5, 2},
    {"Relu", "float[9] x", "y = Relu(x)"},
    {"Selu", "float[9] x", "y = Selu(x)"},
    {"Shrink", "float[9] x", "y = Shrink<lambd = 0.4, bias = 0.2>(x)"},
    {"Sigmoid", "float[7] x", "y = Sigmoid(x)", -3, 3},
    {"Sin", "float[7] x", "y = Sin(x)"},
    {"Sinh", "float[7] x", "y = Sinh(x)"},
    {"Softplus", "float[7] x", "y = Softplus(x)", -3, 3},
    {"Softsign", "float[7] x", "y = Softsign(x)", 0.1, 2},
    {"Sqrt", "float[7] x", "y = Sqrt(x)", 0.5, 2},
    {"Swish", "float[7] x", "y = Swish<alpha = 1.5>(x)", -2, 2, 24},
    {"Tan", "float[7] x", "y = Tan(x)"},
    {"Tanh", "float[7] x", "y = Tanh(x)"},
    {"ThresholdedRelu", "float[9] x", "y = ThresholdedRelu<alpha = 0.3>(x)"},
    {"ImageScaler", "float[1, 2, 2, 2] x", "y = ImageScaler<scale = 1.5, bias = [0.5, -0.5]>(x)"},
    {"Identity", "float[5] x", "y = Identity(x)"},
    {"Dropout", "float[5] x", "y = Dropout(x)"},
    {"Cast", "float[5] x", "d = Cast<to = 11>(x) y = Cast<to = 1>(d)"},
    {"CastLike", "float[5] x", "y = CastLike(x, x)"},
    {"Clip", "float[9] x", "a = Constant<value_float = -0.4>() b = Constant<value_float = 0.6>() y = Clip(x, a, b)"},
    // Two and more operands, broadcast.
    {"Add", "float[2, 3, 4] a, float[3, 1] b", "y = Add(a, b)"},
    {"Sub", "float[4] a, float[2, 3, 4] b", "y = Sub(a, b)"},
    {"Mul", "float[2, 1, 4] a, float[3, 1] b", "y = Mul(a, b)"},
    {"Div", "float[2, 3] a, float[3] b", "y = Div(a, b)", 0.5, 2},
    {"Pow", "float[2, 3] a, float[3] b", "y = Pow(a, b)", 0.5, 2},
    {"PRelu", "float[2, 3, 4] x, float[3, 1] s", "y = PRelu(x, s)"},
    {"SwiGLU", "float[3, 4] a, float[3, 4] b", "y = SwiGLU<alpha = 1.5>(a, b)", -2, 2, 28},
    {"Max", "float[3, 4] a, float[4] b, float[3, 1] c", "y = Max(a, b, c)"},
    {"Min", "float[3, 4] a, float[4] b, float[3, 1] c", "y = Min(a, b, c)"},
    {"Sum", "float[3, 4] a, float[4] b, float[3, 1] c", "y = Sum(a, b, c)"},
    {"Mean", "float[3, 4] a, float[4] b, float[3, 1] c", "y = Mean(a, b, c)"},
    {"Where", "float[3, 4] a, float[4] b", "z = Constant<value_float = 0.0>() c = Greater(a, z) y = Where(c, a, b)"},
    // Products.
    {"MatMul", "float[2, 3, 4] a, float[4, 5] b", "y = MatMul(a, b)"},
    {"Gemm", "float[4, 3] a, float[5, 4] b, float[5] c",
     "y = Gemm<transA = 1, transB = 1, alpha = 0.5, beta = 2.0>(a, b, c)"},
    {"Einsum", "float[2, 3, 4] a, float[2, 4, 5] b", "y = Einsum<equation = \"bij,bjk->bik\">(a, b)"},
    {"ConvTranspose", "float[2, 4, 3, 3] x, float[4, 3, 3, 2] w, float[6] b",
     "y = ConvTranspose<group = 2, strides = [2, 1], pads = [1, 0, 0, 1], output_padding = [1, 0]>(x, w, b)"},
    {"Conv", "float[1, 4, 5, 5] x, float[6, 2, 3, 3] w, float[6] b",
     "y = Conv<group = 2, strides = [2, 1], pads = [1, 0, 1, 1], dilations = [1, 2]>(x, w, b)"},
    {"AveragePool", "float[1, 2, 5, 5] x",
     "y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)"},
    {"GlobalAveragePool", "float[2, 2, 3, 3] x", "y = GlobalAveragePool(x)"},
    {"MaxPool", "float[1, 2, 5, 5] x", "y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)"},
    {"Attention", "float[2, 4, 3, 2] q, float[2, 2, 5, 2] k, float[2, 2, 5, 3] v, float[3, 5] m",
     "n = Constant<value_float = -0.6>() t = Greater(m, n) y = Attention<softcap = 1.5>(q, k, v, t)", -1, 1, 23},
    {"Attention", "float[1, 4, 6] q, float[1, 4, 6] k, float[1, 4, 4] v",
     "y = Attention<is_causal = 1, q_num_heads = 2, kv_num_heads = 2, scale = 1.3>(q, k, v)", -1, 1, 23},
    {"RotaryEmbedding", "float[1, 3, 8] x",
     "c = Constant<value = float[1, 3, 2] {0.9, 0.3, -0.2, 0.5, 1.0, 0.0}>() "
     "s = Constant<value = float[1, 3, 2] {0.4, 0.95, 0.98, 0.87, 0.0, 1.0}>() "
     "y = RotaryEmbedding<num_heads = 2, interleaved = 1>(x, c, s)",
     -1, 1, 23},
    {"RotaryEmbedding", "float[1, 2, 3, 4] x",
     "c = Constant<value = float[2, 1] {0.9, 0.3}>() s = Constant<value = float[2, 1] {0.4, 0.95}>() "
     "f = Constant<value_ints = [1, 0, 1]>() r = Constant<value_ints = [1, 3]>() i = Reshape(f, r) "
     "y = com.microsoft.RotaryEmbedding<rotary_embedding_dim = 2, num_heads = 2>(x, i, c, s)"},
    {"Resize", "float[1, 2, 3, 4] x",
     "r = Constant<value_floats = [1.0, 1.0, 2.0, 0.6]>() y = Resize<mode = \"linear\">(x, , r)"},
    {"Resize", "float[1, 2, 3, 4] x",
     "r = Constant<value_floats = [1.0, 1.0, 0.7, 1.5]>() y = Resize<mode = \"cubic\", antialias = 1>(x, , r)", -1, 1,
     18},
    {"Resize", "float[1, 1, 3, 4] x", "s = Constant<value_ints = [1, 1, 5, 3]>() y = Resize(x, , , s)"},
    {"Resize", "float[3, 4] x",
     "o = Constant<value_floats = [0.2, -0.3, 0.9, 1.2]>() s = Constant<value_ints = [4, 6]>() y = Resize<mode = "
     "\"linear\", coordinate_transformation_mode = \"tf_crop_and_resize\", extrapolation_value = 3.0>(x, o, , s)"},
    {"Upsample", "float[1, 1, 2, 3] x",
     "s = Constant<value_floats = [1.0, 1.0, 2.0, 3.0]>() y = Upsample<mode = \"nearest\">(x, s)", -1, 1, 9},
    // Recurrent layers.
    {"LSTM", "float[3, 2, 2] x, float[2, 8, 2] w, float[2, 8, 2] r, float[2, 16] b, float[2, 2, 2] h, float[2, 2, 2] c",
     "n = Constant<value_ints = [3, 2]>() l = Cast<to = 6>(n) "
     "y, p, q = LSTM<hidden_size = 2, direction = \"bidirectional\">(x, w, r, b, l, h, c)"},
    {"LSTM", "float[3, 2, 2] x, float[1, 8, 2] w, float[1, 8, 2] r",
     "p, q, y = LSTM<hidden_size = 2, direction = \"reverse\">(x, w, r)"},
    {"GRU", "float[3, 2, 2] x, float[2, 6, 2] w, float[2, 6, 2] r, float[2, 12] b, float[2, 2, 2] h",
     "n = Constant<value_ints = [2, 3]>() l = Cast<to = 6>(n) "
     "y, p = GRU<hidden_size = 2, direction = \"bidirectional\">(x, w, r, b, l, h)"},
    {"GRU", "float[2, 3, 2] x, float[1, 6, 2] w, float[1, 6, 2] r, float[1, 12] b, float[2, 1, 2] h",
     "y, p = GRU<hidden_size = 2, linear_before_reset = 1, layout = 1>(x, w, r, b, , h)"},
    {"GRU", "float[3, 2, 2] x, float[1, 6, 2] w, float[1, 6, 2] r, float[1, 12] b",
     "p, y = GRU<hidden_size = 2, linear_before_reset = 1>(x, w, r, b)"},
    {"RNN", "float[3, 2, 2] x, float[1, 2, 2] w, float[1, 2, 2] r, float[1, 4] b, float[1, 2, 2] h",
     "y, p = RNN<hidden_size = 2>(x, w, r, b, , h)"},
    // Rows.
    {"Softmax", "float[2, 3, 4] x", "y = Softmax<axis = 1>(x)"},
    {"Softmax", "float[2, 3, 4] x", "y = Softmax<axis = 1>(x)", -1, 1, 11},
    {"LogSoftmax", "float[2, 3, 4] x", "y = LogSoftmax<axis = -1>(x)"},
    {"LayerNormalization", "float[2, 3, 4] x, float[3, 4] w, float[3, 4] b",
     "y = LayerNormalization<axis = 1>(x, w, b)"},
    {"RMSNormalization", "float[3, 5] x, float[5] w", "y = RMSNormalization(x, w)", 0.2, 1, 23},
    {"SimplifiedLayerNormalization", "float[3, 5] x, float[5] w", "y = SimplifiedLayerNormalization(x, w)", 0.2, 1},
    {"InstanceNormalization", "float[2, 3, 6] x, float[3] w, float[3] b", "y = InstanceNormalization(x, w, b)"},
    {"GroupNormalization", "float[2, 4, 3] x, float[4] w, float[4] b",
     "y = GroupNormalization<num_groups = 2>(x, w, b)", -1, 1, 21},
    {"GroupNormalization", "float[2, 4, 3] x, float[2] w, float[2] b",
     "y = GroupNormalization<num_groups = 2>(x, w, b)", -1, 1, 18},
    {"BatchNormalization", "float[2, 3, 4] x, float[3] w, float[3] b, float[3] m, float[3] v",
     "y = BatchNormalization(x, w, b, m, v)", 0.5, 1.5},
    {"ReduceSum", "float[2, 3, 4] x", "a = Constant<value_ints = [0, 2]>() y = ReduceSum<keepdims = 0>(x, a)"},
    {"ReduceMean", "float[2, 3, 4] x", "y = ReduceMean<axes = [1]>(x)"},
    {"ReduceMax", "float[2, 3, 4] x", "y = ReduceMax<axes = [-1], keepdims = 0>(x)"},
    {"ReduceMin", "float[2, 3, 4] x", "y = ReduceMin<axes = [0]>(x)"},
    {"ReduceL1", "float[2, 3, 4] x", "y = ReduceL1<axes = [1]>(x)"},
    {"ReduceL2", "float[2, 3, 4] x", "y = ReduceL2<axes = [1]>(x)", 0.3, 1},
    {"ReduceLogSum", "float[2, 3, 4] x", "y = ReduceLogSum<axes = [1]>(x)", 0.5, 2},
    {"ReduceLogSumExp", "float[2, 3, 4] x", "y = ReduceLogSumExp<axes = [1]>(x)"},
    {"ReduceProd", "float[2, 3, 4] x", "y = ReduceProd<axes = [1]>(x)", 0.5, 1.5},
    {"ReduceSumSquare", "float[2, 3, 4] x", "y = ReduceSumSquare(x)"},
    {"CumSum", "float[2, 4] x", "a = Constant<value_int = 1>() y = CumSum<exclusive = 1, reverse = 1>(x, a)"},
    {"TopK", "float[3, 6] x", "k = Constant<value_ints = [2]>() y, i = TopK(x, k)"},
    // Shapes.
    {"Reshape", "float[2, 6] x", "s = Constant<value_ints = [3, -1]>() y = Reshape(x, s)"},
    {"Flatten", "float[2, 3, 2] x", "y = Flatten<axis = 2>(x)"},
    {"Squeeze", "float[2, 1, 3] x", "a = Constant<value_ints = [1]>() y = Squeeze(x, a)"},
    {"Unsqueeze", "float[2, 3] x", "a = Constant<value_ints = [0, -1]>() y = Unsqueeze(x, a)"},
    {"Transpose", "float[2, 3, 4] x", "y = Transpose<perm = [2, 0, 1]>(x)"},
    {"Expand", "float[3, 1] x", "s = Constant<value_ints = [2, 1, 4]>() y = Expand(x, s)"},
    {"Tile", "float[2, 3] x", "r = Constant<value_ints = [2, 2]>() y = Tile(x, r)"},
    {"Concat", "float[2, 3] a, float[2, 1] b, float[2, 2] c", "y = Concat<axis = 1>(a, b, c)"},
    {"Split", "float[5, 2] x", "s = Constant<value_ints = [2, 3]>() y, z = Split<axis = 0>(x, s)"},
    {"Split", "float[5, 2] x", "s = Constant<value_ints = [2, 3]>() z, y = Split<axis = 0>(x, s)"},
    {"Slice", "float[4, 5] x",
     "s = Constant<value_ints = [3, -5]>() e = Constant<value_ints = [0, 9]>() a = Constant<value_ints = [0, 1]>() "
     "p = Constant<value_ints = [-2, 2]>() y = Slice(x, s, e, a, p)"},
    {"Pad", "float[2, 3] x", "p = Constant<value_ints = [1, 0, -1, 2]>() y = Pad(x, p)"},
    {"Pad", "float[2, 3] x", "p = Constant<value_ints = [0, 2, 1, 2]>() y = Pad<mode = \"reflect\">(x, p)"},
    {"Gather", "float[3, 4] x", "i = Constant<value_ints = [2, 0, 2, -1]>() y = Gather<axis = 1>(x, i)"},
    {"GatherElements", "float[2, 3] x",
     "f = Constant<value_ints = [1, 0, 0, 1]>() s = Constant<value_ints = [2, 2]>() i = Reshape(f, s) "
     "y = GatherElements<axis = 1>(x, i)"},
    {"GatherND", "float[3, 4] x",
     "f = Constant<value_ints = [2, 0, 2]>() s = Constant<value_ints = [3, 1]>() i = Reshape(f, s) y = GatherND(x, i)"},
    {"Scatter", "float[2, 3] x, float[1, 2] u",
     "f = Constant<value_ints = [2, 0]>() s = Constant<value_ints = [1, 2]>() i = Reshape(f, s) "
     "y = Scatter<axis = 1>(x, i, u)",
     -1, 1, 10},
    {"ScatterElements", "float[2, 3] x, float[1, 2] u",
     "f = Constant<value_ints = [2, 0]>() s = Constant<value_ints = [1, 2]>() i = Reshape(f, s) "
     "y = ScatterElements<axis = 1>(x, i, u)"},
    {"ScatterND", "float[3, 2] x, float[2, 2] u",
     "f = Constant<value_ints = [2, 0]>() s = Constant<value_ints = [2, 1]>() i = Reshape(f, s) y = ScatterND(x, i, "
     "u)"},
    {"DepthToSpace", "float[1, 8, 2, 3] x", "y = DepthToSpace<blocksize = 2, mode = \"CRD\">(x)"},
    {"SpaceToDepth", "float[1, 2, 4, 2] x", "y = SpaceToDepth<blocksize = 2>(x)"},
    {"Trilu", "float[3, 4] x", "y = Trilu<upper = 0>(x)"},
    {"FusedMatMul", "float[2, 4, 3] a, float[5, 4] b",
     "y = com.microsoft.FusedMatMul<transA = 1, transB = 1, alpha = 0.5>(a, b)"},
};

Tensor drawn(const Case& c, const std::string& name, const Shape& shape) {
  const Rng rng(7, c.op, name);
  Tensor t(DType::f32, shape);
  std::uint64_t i = 0;
  for (float& v : t.write<float>()) {
    do {
      v = static_cast<float>(c.low + (c.high - c.low) * rng.uniform(i++));
    } while (std::abs(v) < 0.05f);  // most kinks are at zero
  }
  return t;
}

double loss(const Tensor& y, const Tensor& seed) {
  double sum = 0;
  for (std::size_t i = 0; i < seed.read<float>().size(); ++i) {
    sum += static_cast<double>(y.read<float>()[i]) * static_cast<double>(seed.read<float>()[i]);
  }
  return sum;
}

void check(const Case& c) {
  const std::string what = std::string(c.op) + ": " + c.body;
  CAPTURE(what);
  const Graph graph =
      parse_graph("<ir_version: 8, opset_import: [\"com.microsoft\" : 1, \"\" : " + std::to_string(c.opset) +
                  ", \"com.microsoft\" : 1]>\ng (" + c.inputs + ") => (float y) { " + c.body + " }");
  Threads threads(1);
  const Executor executor(graph, Reading::reference, threads);
  Feeds feeds;
  for (const ValueId v : graph.inputs) feeds.emplace(v, drawn(c, graph[v].name, graph[v].type.shape));
  const ValueId y = *graph.find_value("y");
  const ValueId wanted[] = {y};
  const Tensor value = executor.run(feeds, wanted)[0];
  const Tensor seed = drawn(c, "seed", value.shape());
  const std::vector<Tensor> gradients = executor.gradients(feeds, {{y, seed}}, graph.inputs);
  REQUIRE(gradients.size() == graph.inputs.size());
  for (std::size_t k = 0; k < graph.inputs.size(); ++k) {
    const ValueId input = graph.inputs[k];
    CAPTURE(graph[input].name);
    REQUIRE(gradients[k].shape() == feeds.at(input).shape());
    float largest = 0.1f;
    for (const float g : gradients[k].read<float>()) largest = std::max(largest, std::abs(g));
    for (std::size_t i = 0; i < gradients[k].read<float>().size(); ++i) {
      const float h = 0x1p-7f, x = feeds.at(input).read<float>()[i];
      double ends[2];
      for (const int side : {0, 1}) {
        Feeds moved = feeds;
        moved.at(input).write<float>()[i] = side == 0 ? x - h : x + h;
        ends[side] = loss(executor.run(moved, wanted)[0], seed);
      }
      const double difference = (ends[1] - ends[0]) / (2 * static_cast<double>(h));
      CAPTURE(i);
      CHECK(std::abs(static_cast<double>(gradients[k].read<float>()[i]) - difference) <
            2e-3 * static_cast<double>(largest));
    }
  }
}

}  // namespace

TEST_CASE("gradients agree with central differences") {
  for (const Case& c : cases) {
    try {
      check(c);
    } catch (const Error& e) {
      FAIL_CHECK(c.op << ": " << e.what());
    }
  }
}

TEST_CASE("every operator with a backward has a gradient case") {
  std::set<std::string_view> covered;
  for (const Case& c : cases) covered.insert(c.op);
  for (const OpDef* def : ops()) {
    CAPTURE(def->name);
    CHECK((def->backward == nullptr || covered.contains(def->name)));
  }
}

TEST_CASE("gradients add up over consumers and reach constants and values in between") {
  const Graph graph = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x) => (float[2] y) <float[2] w = {3.0, -2.0}> { t = Mul(x, w) a = Mul(t, t) y = Add(a, t) })");
  Threads threads(1);
  const Executor executor(graph, Reading::reference, threads);
  const ValueId x = *graph.find_value("x"), w = *graph.find_value("w"), t = *graph.find_value("t"),
                y = *graph.find_value("y");
  const ValueId wanted[] = {x, w, t};
  const auto g =
      executor.gradients({{x, Tensor::of<float>({2}, {1, 2})}}, {{y, Tensor::of<float>({2}, {1, 10})}}, wanted);
  // t = (3, -4); dy/dt = 2t + 1 = (7, -7)
  CHECK(g[2].same_bytes(Tensor::of<float>({2}, {7, -70})));
  CHECK(g[0].same_bytes(Tensor::of<float>({2}, {21, 140})));
  CHECK(g[1].same_bytes(Tensor::of<float>({2}, {7, -140})));
}

TEST_CASE("no path means a gradient of zero") {
  const Graph graph = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x, float[3] z) => (float[2] y, float[3] r) { y = Exp(x) r = Round(z) })");
  Threads threads(1);
  const Executor executor(graph, Reading::reference, threads);
  const ValueId x = *graph.find_value("x"), z = *graph.find_value("z"), r = *graph.find_value("r");
  const ValueId wanted[] = {x, z};
  const auto g = executor.gradients({{x, Tensor(DType::f32, {2})}, {z, Tensor(DType::f32, {3})}},
                                    {{r, Tensor::of<float>({3}, {1, 1, 1})}}, wanted);
  CHECK(g[0].same_bytes(Tensor(DType::f32, {2})));
  CHECK(g[1].same_bytes(Tensor(DType::f32, {3})));  // Round has no slope
}

TEST_CASE("quantization is the identity for gradients inside the range, and stops them outside") {
  Graph graph =
      parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]> g (float[5] x) => (float[5] y) { y = Mul(x, x) })");
  QuantSpec spec;
  spec.format = find_number("int8");
  spec.scale = Tensor::scalar<float>(0.01f);  // codes reach -1.28 .. 1.27
  const auto quant = std::make_shared<const QuantSpec>(spec);
  for (Use& use : graph[graph.nodes()[0]].inputs) use.quant = quant;
  Threads threads(1);
  const Executor executor(graph, Reading::quantized, threads);
  const ValueId x = *graph.find_value("x"), y = *graph.find_value("y");
  const ValueId wanted[] = {x};
  const auto g = executor.gradients({{x, Tensor::of<float>({5}, {0.503f, 1.27f, 1.3f, -1.28f, -1.3f})}},
                                    {{y, Tensor::of<float>({5}, {1, 1, 1, 1, 1})}}, wanted);
  const auto v = g[0].read<float>();
  CHECK(v[0] == doctest::Approx(2 * 0.50));  // the operator saw 0.50
  CHECK(v[1] == doctest::Approx(2 * 1.27));
  CHECK(v[2] == 0);
  CHECK(v[3] == doctest::Approx(-2 * 1.28));
  CHECK(v[4] == 0);
}

}  // namespace qtool::test
