// SPDX-License-Identifier: Apache-2.0
// Times the executor, and linalg's products, at the request of tests/bench/speed.py: what is measured is a run of a
// model that is loaded already, alone in its process.
//
//   qtool_executor_bench THREADS [MODEL DATA]
//
// Reads requests from standard input, one per line, and answers each with one line of numbers:
//   run N         of each of N runs on the first batch of DATA: milliseconds, and milliseconds of processor time
//   gemm N M      the same for N products of M x M float matrices
//   codes K N M   the same for N products of M x M matrices of 8-bit codes, on the integer kernel named K
//   save FILE     writes the outputs of one run to FILE (npz); answers 0
//   peak          MiB of resident memory at the highest point, above what was in use before the model was opened
#include <chrono>
#include <ctime>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "backends/cpu/cpu.h"
#include "backends/cpu/kernel.h"
#include "calib/data.h"
#include "calib/data/npz.h"
#include "calib/executor.h"
#include "calib/linalg.h"
#include "formats/base/error.h"
#include "formats/base/heap.h"
#include "formats/file/reader.h"

namespace qtool {
namespace {

/// A field of /proc/self/status in MiB: VmHWM, VmRSS.
double memory(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) return std::stod(line.substr(field.size() + 1)) / 1024;
  }
  return 0;
}

double processor_ms() { return static_cast<double>(std::clock()) * 1e3 / CLOCKS_PER_SEC; }

void tell_times(std::int64_t count, const std::function<void()>& work) {
  for (std::int64_t i = 0; i < count; ++i) {
    const double processor = processor_ms();
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
    std::cout << spent.count() << ' ' << processor_ms() - processor << ' ';
  }
  std::cout << std::endl;
}

struct Model {
  Model(const char* path, const char* data, Threads& threads)
      : graph(read_model(path)), executor(graph, Reading::reference, threads) {
    DataOptions options;
    options.path = data;
    feeds = open_dataset(graph, options)->feeds(0);
  }
  Graph graph;
  Executor executor;
  Feeds feeds;
};

void multiply(Threads& threads, std::int64_t count, std::int64_t n) {
  const std::vector<float> a(static_cast<std::size_t>(n * n), 0.5F), b(a);
  std::vector<float> c(a.size());
  tell_times(count, [&] { gemm(threads, false, false, n, n, n, 1.0F, a.data(), n, b.data(), n, 0.0F, c.data(), n); });
}

void multiply_codes(Threads& threads, const std::string& kernel, std::int64_t count, std::int64_t n) {
  const std::vector<std::byte> a(static_cast<std::size_t>(n * n), std::byte{3}), b(a);
  std::vector<std::int32_t> c(a.size());
  const std::int32_t zero = 113;
  IntegerProduct p{n, n, n, {a.data(), n, false, false, {&zero, 1}}, {b.data(), n, true, false, {}}, c.data(), n};
  for (const IntegerKernel* k : integer_kernels()) {
    if (k->name == kernel) return tell_times(count, [&] { multiply_codes(*k, threads, p); });
  }
  throw Error(Code::usage, "no kernel is named " + kernel);
}

void save(const Model& model, const std::string& path) {
  const std::vector<Tensor> outputs = model.executor.run(model.feeds);
  std::vector<std::pair<std::string, Tensor>> arrays;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    arrays.emplace_back(model.graph[model.graph.outputs[i].value].name, outputs[i]);
  }
  write_npz(path, arrays);
  std::cout << 0 << std::endl;
}

void serve(int thread_count, const char* path, const char* data) {
  Threads threads(thread_count, &best_integer_kernels());
  const double before = memory("VmRSS");
  std::optional<Model> model;
  if (path != nullptr) model.emplace(path, data, threads);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string request, file, kernel;
    std::int64_t count = 0, size = 0;
    words >> request;
    if (request == "gemm" && words >> count >> size) {
      multiply(threads, count, size);
    } else if (request == "codes" && words >> kernel >> count >> size) {
      multiply_codes(threads, kernel, count, size);
    } else if (request == "run" && model && words >> count) {
      tell_times(count, [&] { static_cast<void>(model->executor.run(model->feeds)); });
    } else if (request == "save" && model && words >> file) {
      save(*model, file);
    } else if (request == "peak") {
      std::cout << memory("VmHWM") - before << std::endl;
    } else {
      throw Error(Code::usage, "not a request: " + line);
    }
  }
}

}  // namespace
}  // namespace qtool

int main(int argc, char** argv) {
  if (argc != 2 && argc != 4) return 2;
  qtool::keep_freed_memory();  // as the program does
  try {
    qtool::serve(std::stoi(argv[1]), argc == 4 ? argv[2] : nullptr, argc == 4 ? argv[3] : nullptr);
  } catch (const std::exception& e) {
    std::cerr << e.what() << '\n';
    return 1;
  }
  return 0;
}
