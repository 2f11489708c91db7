// SPDX-License-Identifier: Apache-2.0
// Models that carry their own answers: every input of the one or many nodes is an initializer, and for each graph
// output `y` the initializer `y.expected` holds what the oracle gave (and `y.tolerance`, if present, how far a float
// answer may be off, absolute and relative; integers: in codes).
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "calib/executor.h"
#include "formats/base/error.h"
#include "formats/file/reader.h"

namespace qtool::test {

/// Largest excess of |got - expected| over tolerance * (1 + |expected|); 0 when all are within.
inline double excess(const Tensor& got, const Tensor& expected, double tolerance) {
  const Tensor a = got.dtype() == DType::f64 ? got : to_f32(got),
               b = got.dtype() == DType::f64 ? expected : to_f32(expected);
  const auto value = [](const Tensor& t, std::size_t i) {
    return t.dtype() == DType::f64 ? t.read<double>()[i] : static_cast<double>(t.read<float>()[i]);
  };
  const bool relative = is_float(got.dtype());
  double worst = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(a.count()); ++i) {
    const double x = value(a, i), y = value(b, i);
    if (x == y || (std::isnan(x) && std::isnan(y))) continue;
    if (!std::isfinite(x) || !std::isfinite(y)) return INFINITY;
    worst = std::max(worst, std::abs(x - y) - tolerance * (relative ? 1 + std::abs(y) : 1));
  }
  return worst;
}

/// Sentences about the outputs that are not as expected; empty: all right.
inline std::vector<std::string> mismatches(const std::filesystem::path& path, int thread_count = 2) {
  std::vector<std::string> wrong;
  try {
    const Graph graph = read_onnx(path);
    Threads threads(thread_count);
    const Executor executor(graph, Reading::reference, threads);
    const std::vector<Tensor> outputs = executor.run({});
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const std::string name = graph[graph.outputs[i].value].name;
      const auto expected_id = graph.find_value(name + ".expected"),
                 tolerance_id = graph.find_value(name + ".tolerance");
      if (!expected_id) {
        wrong.push_back(name + ": no expected value");
        continue;
      }
      const Tensor& expected = graph[*expected_id].data;
      const double tolerance = tolerance_id ? static_cast<double>(graph[*tolerance_id].data.read<float>()[0])
                                            : (is_float(expected.dtype()) ? 2e-6 : 0);
      const Tensor& got = outputs[i];
      if (got.dtype() != expected.dtype() || got.shape() != expected.shape()) {
        wrong.push_back(name + ": " + std::string(name_of(got.dtype())) + to_string(got.shape()) + " instead of " +
                        std::string(name_of(expected.dtype())) + to_string(expected.shape()));
      } else if (got.dtype() == DType::string ? !got.same_bytes(expected) : excess(got, expected, tolerance) > 0) {
        wrong.push_back(name + ": off by " + std::to_string(excess(got, expected, 0)));
      }
    }
  } catch (const Error& e) {
    wrong.push_back(e.what());
  }
  return wrong;
}

}  // namespace qtool::test
