// SPDX-License-Identifier: Apache-2.0
// Operators large enough to be cut into many pieces give the same bytes on one thread and on several, and agree with
// the definition where that is short to write down.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "calib/executor.h"
#include "formats/base/rng.h"

namespace qtool {
namespace {

Tensor random_tensor(Shape shape, const char* name) {
  Tensor t(DType::f32, std::move(shape));
  const Rng rng(3, "kernel_threads_test", name);
  const auto values = t.write<float>();
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(rng.normal(i)) * 0.25F;
  return t;
}

/// Outputs of one node whose inputs are constants.
std::vector<Tensor> run_node(const std::string& op, const std::vector<Tensor>& inputs, Attrs attrs, std::size_t outputs,
                             int thread_count) {
  auto info = std::make_shared<ModelInfo>();
  info->opsets[""] = 19;
  Graph g;
  g.model = info;
  Node node;
  node.op = op;
  node.name = op;
  node.attrs = std::move(attrs);
  for (const Tensor& x : inputs) {
    Value v;
    v.name = "input" + std::to_string(node.inputs.size());
    v.data = x;
    v.type.dtype = x.dtype();
    v.type.known_dtype = v.type.known_rank = true;
    v.type.shape = x.shape();
    node.inputs.push_back({g.add_value(std::move(v)), nullptr});
  }
  for (std::size_t i = 0; i < outputs; ++i) {
    Value v;
    v.name = "output" + std::to_string(i);
    node.outputs.push_back(g.add_value(std::move(v)));
    g.outputs.push_back({node.outputs.back(), nullptr});
  }
  g.add_node(std::move(node));
  Threads threads(thread_count);
  const Executor executor(g, Reading::reference, threads);
  return executor.run({});
}

Tensor same_on_any_threads(const std::string& op, const std::vector<Tensor>& inputs, const Attrs& attrs,
                           std::size_t outputs = 1) {
  const std::vector<Tensor> one = run_node(op, inputs, attrs, outputs, 1);
  for (const int count : {2, 3}) {
    const std::vector<Tensor> many = run_node(op, inputs, attrs, outputs, count);
    for (std::size_t i = 0; i < outputs; ++i) {
      CAPTURE(op);
      CAPTURE(count);
      CHECK(many[i].same_bytes(one[i]));
    }
  }
  return one[0];
}

using Ints = std::vector<std::int64_t>;

double convolution_at(const Tensor& x, const Tensor& w, std::int64_t m, std::int64_t oy, std::int64_t ox,
                      std::int64_t stride, std::int64_t pad, std::int64_t group_inputs, std::int64_t first_input) {
  const Shape &xs = x.shape(), &ws = w.shape();
  double sum = 0;
  for (std::int64_t c = 0; c < group_inputs; ++c) {
    for (std::int64_t ky = 0; ky < ws[2]; ++ky) {
      for (std::int64_t kx = 0; kx < ws[3]; ++kx) {
        const std::int64_t iy = oy * stride + ky - pad, ix = ox * stride + kx - pad;
        if (iy < 0 || iy >= xs[2] || ix < 0 || ix >= xs[3]) continue;
        sum +=
            static_cast<double>(
                x.read<float>()[static_cast<std::size_t>(((first_input + c) * xs[2] + iy) * xs[3] + ix)]) *
            static_cast<double>(w.read<float>()[static_cast<std::size_t>(((m * ws[1] + c) * ws[2] + ky) * ws[3] + kx)]);
      }
    }
  }
  return sum;
}

}  // namespace

TEST_CASE("convolutions: same bytes on any number of threads, and right where they are cut") {
  struct Case {
    std::int64_t inputs, outputs, size, kernel, stride, pad, groups;
  };
  for (const Case& k : {Case{16, 48, 40, 3, 1, 1, 1}, Case{64, 128, 7, 3, 1, 1, 1}, Case{32, 32, 33, 3, 2, 1, 32},
                        Case{48, 96, 20, 1, 1, 0, 1}, Case{24, 36, 21, 5, 2, 2, 3}}) {
    const Tensor x = random_tensor({1, k.inputs, k.size, k.size}, "x");
    const Tensor w = random_tensor({k.outputs, k.inputs / k.groups, k.kernel, k.kernel}, "w");
    Attrs attrs;
    attrs.set("group", k.groups);
    attrs.set("strides", Ints{k.stride, k.stride});
    attrs.set("pads", Ints{k.pad, k.pad, k.pad, k.pad});
    const Tensor y = same_on_any_threads("Conv", {x, w}, attrs);
    const std::int64_t rows = y.shape()[2], columns = y.shape()[3], each = k.inputs / k.groups;
    double worst = 0;
    for (std::int64_t i = 0; i < y.count(); i += 37) {
      const std::int64_t m = i / (rows * columns), first = m / (k.outputs / k.groups) * each;
      const double expected = convolution_at(x, w, m, i / columns % rows, i % columns, k.stride, k.pad, each, first);
      worst = std::max(worst, std::abs(expected - static_cast<double>(y.read<float>()[static_cast<std::size_t>(i)])));
    }
    CHECK(worst < 2e-6 * std::sqrt(static_cast<double>(each * k.kernel * k.kernel)) + 1e-6);
  }
}

TEST_CASE("products, transposed convolutions and recurrences: same bytes on any number of threads") {
  same_on_any_threads("MatMul", {random_tensor({6, 70, 90}, "a"), random_tensor({6, 90, 80}, "b")}, {});
  same_on_any_threads("MatMul", {random_tensor({2, 300, 200}, "a"), random_tensor({200, 700}, "b")}, {});
  Attrs stride;
  stride.set("strides", Ints{2, 2});
  same_on_any_threads("ConvTranspose", {random_tensor({1, 24, 20, 20}, "x"), random_tensor({24, 16, 3, 3}, "w")},
                      stride);
  for (const char* direction : {"forward", "bidirectional"}) {
    const std::int64_t d = direction == std::string("forward") ? 1 : 2;
    Attrs attrs;
    attrs.set("hidden_size", std::int64_t{96});
    attrs.set("direction", std::string(direction));
    const Tensor x = random_tensor({9, 20, 40}, "x");
    same_on_any_threads("LSTM", {x, random_tensor({d, 384, 40}, "w"), random_tensor({d, 384, 96}, "r")}, attrs, 3);
    same_on_any_threads("GRU", {x, random_tensor({d, 288, 40}, "w"), random_tensor({d, 288, 96}, "r")}, attrs, 2);
  }
}

TEST_CASE("a sequence of a recurrent operator is its steps, one run each") {
  struct Kind {
    const char* op;
    std::int64_t gates;
  };
  constexpr std::int64_t steps = 6, inputs = 5, hidden = 20;
  for (const Kind& kind : {Kind{"LSTM", 4}, Kind{"GRU", 3}, Kind{"RNN", 1}}) {
    for (const std::int64_t batch : {1, 3, 11}) {
      CAPTURE(kind.op);
      CAPTURE(batch);
      const Tensor x = random_tensor({steps, batch, inputs}, "x"), b = random_tensor({1, 2 * kind.gates * hidden}, "b");
      const Tensor w = random_tensor({1, kind.gates * hidden, inputs}, "w");
      const Tensor r = random_tensor({1, kind.gates * hidden, hidden}, "r");
      Attrs attrs;
      attrs.set("hidden_size", hidden);
      const std::size_t states = kind.gates == 4 ? 2 : 1;
      const std::vector<Tensor> whole = run_node(kind.op, {x, w, r, b}, attrs, 1 + states, 1);
      std::vector<Tensor> state(states, Tensor(DType::f32, {1, batch, hidden}));
      double worst = 0;
      for (std::int64_t t = 0; t < steps; ++t) {
        Tensor one(DType::f32, {1, batch, inputs});
        std::copy_n(x.read<float>().data() + t * batch * inputs, batch * inputs, one.write<float>().data());
        Tensor length(DType::i32, {batch});
        for (std::int32_t& n : length.write<std::int32_t>()) n = 1;
        std::vector<Tensor> operands{one, w, r, b, length};
        operands.insert(operands.end(), state.begin(), state.end());
        const std::vector<Tensor> step = run_node(kind.op, operands, attrs, 1 + states, 1);
        state.assign(step.begin() + 1, step.end());
        for (std::int64_t i = 0; i < batch * hidden; ++i) {
          const auto at = static_cast<std::size_t>(i), there = static_cast<std::size_t>(t * batch * hidden + i);
          const double apart = static_cast<double>(step[0].read<float>()[at]) - whole[0].read<float>()[there];
          worst = std::max(worst, std::abs(apart));
        }
      }
      CHECK(worst < 1e-6);
    }
  }
}

TEST_CASE("usual recurrent cells, written in one loop, give the bytes of the general way") {
  constexpr std::int64_t steps = 7, inputs = 5, hidden = 40;
  for (const char* op : {"LSTM", "GRU"}) {
    for (const std::int64_t batch : {1, 3}) {
      CAPTURE(op);
      CAPTURE(batch);
      const std::int64_t width = (op == std::string("LSTM") ? 4 : 3) * hidden;
      Tensor lengths(DType::i32, {batch});
      for (std::int32_t& n : lengths.write<std::int32_t>()) n = 4;
      lengths.write<std::int32_t>()[0] = steps;
      const std::vector<Tensor> operands{random_tensor({steps, batch, inputs}, "x"),
                                         random_tensor({2, width, inputs}, "w"), random_tensor({2, width, hidden}, "r"),
                                         random_tensor({2, 2 * width}, "b"), lengths};
      Attrs attrs;
      attrs.set("hidden_size", hidden);
      attrs.set("direction", std::string("bidirectional"));
      if (op == std::string("GRU")) attrs.set("linear_before_reset", std::int64_t{1});
      const std::vector<Tensor> usual = run_node(op, operands, attrs, 2, 1);
      attrs.set("clip", 1e30F);
      const std::vector<Tensor> general = run_node(op, operands, attrs, 2, 1);
      CHECK(usual[0].same_bytes(general[0]));
      CHECK(usual[1].same_bytes(general[1]));
    }
  }
}

TEST_CASE("Softmax and Where of rows that end within a vector are what the definition says") {
  for (const std::int64_t n : {1, 7, 16, 63, 96, 100}) {
    CAPTURE(n);
    const Tensor x = random_tensor({9, n}, "x"), other = random_tensor({9, n}, "other");
    Attrs attrs;
    attrs.set("axis", std::int64_t{1});
    const Tensor y = run_node("Softmax", {x}, attrs, 1, 1)[0];
    Tensor first(DType::boolean, {n});
    for (std::int64_t i = 0; i < n; i += 3) first.write<bool>()[static_cast<std::size_t>(i)] = true;
    const Tensor one = Tensor::scalar(2.5F);
    const Tensor both = run_node("Where", {first, x, other}, {}, 1, 1)[0],
                 left = run_node("Where", {first, one, x}, {}, 1, 1)[0],
                 right = run_node("Where", {first, x, one}, {}, 1, 1)[0];
    for (std::int64_t row = 0; row < 9; ++row) {
      double sum = 0;
      const auto element = [&](const Tensor& t, std::int64_t i) {
        return static_cast<double>(t.read<float>()[static_cast<std::size_t>(row * n + i)]);
      };
      for (std::int64_t i = 0; i < n; ++i) sum += std::exp(element(x, i));
      for (std::int64_t i = 0; i < n; ++i) {
        const bool taken = i % 3 == 0;
        CHECK(element(y, i) == doctest::Approx(std::exp(element(x, i)) / sum).epsilon(1e-6));
        CHECK(element(both, i) == element(taken ? x : other, i));
        CHECK(element(left, i) == (taken ? 2.5 : element(x, i)));
        CHECK(element(right, i) == (taken ? element(x, i) : 2.5));
      }
    }
  }
}

TEST_CASE("pools and resizes: same bytes on any number of threads") {
  const Tensor x = random_tensor({2, 24, 40, 40}, "x");
  Attrs pool;
  pool.set("kernel_shape", Ints{3, 3});
  pool.set("strides", Ints{2, 2});
  for (const char* op : {"MaxPool", "AveragePool"}) same_on_any_threads(op, {x}, pool);
  Attrs resize;
  resize.set("mode", std::string("linear"));
  same_on_any_threads("Resize", {x, Tensor(DType::f32, {0}), Tensor::of<float>({4}, {1, 1, 2, 1.7F})}, resize);
}

TEST_CASE("max pools: the largest of every window, for shapes around the width of vectors") {
  for (const std::int64_t size : {3, 7, 15, 16, 17, 33, 40}) {
    for (const std::int64_t kernel : {2, 3, 5}) {
      for (const std::int64_t stride : {1, 2, 3}) {
        for (const std::int64_t dilation : {1, 2}) {
          if ((kernel - 1) * dilation >= size + 1) continue;
          const Tensor x = random_tensor({1, 2, size, size + 1}, "x");
          Attrs attrs;
          attrs.set("kernel_shape", Ints{kernel, kernel});
          attrs.set("strides", Ints{stride, stride});
          attrs.set("dilations", Ints{dilation, dilation});
          attrs.set("pads", Ints{1, 1, 0, 1});
          const Tensor y = run_node("MaxPool", {x}, attrs, 1, 1)[0];
          const std::int64_t rows = y.shape()[2], columns = y.shape()[3];
          bool right = true;
          for (std::int64_t i = 0; i < y.count(); ++i) {
            float top = -INFINITY;
            for (std::int64_t k = 0; k < kernel * kernel; ++k) {
              const std::int64_t iy = i / columns % rows * stride + k / kernel * dilation - 1,
                                 ix = i % columns * stride + k % kernel * dilation - 1;
              if (iy < 0 || iy >= size || ix < 0 || ix > size) continue;
              const std::int64_t plane = i / (rows * columns) * size * (size + 1);
              top = std::max(top, x.read<float>()[static_cast<std::size_t>(plane + iy * (size + 1) + ix)]);
            }
            right = right && y.read<float>()[static_cast<std::size_t>(i)] == top;
          }
          CAPTURE(size);
          CAPTURE(kernel);
          CAPTURE(stride);
          CAPTURE(dilation);
          CHECK(right);
        }
      }
    }
  }
}

}  // namespace qtool
