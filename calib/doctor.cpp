// SPDX-License-Identifier: Apache-2.0
#include "calib/doctor.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <utility>

#include "formats/base/integer_product.h"

namespace qtool {
namespace {

std::vector<std::string> instruction_sets() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const std::pair<const char*, bool> sets[] = {
      {"sse4.2", __builtin_cpu_supports("sse4.2") != 0},
      {"avx", __builtin_cpu_supports("avx") != 0},
      {"avx2", __builtin_cpu_supports("avx2") != 0},
      {"fma", __builtin_cpu_supports("fma") != 0},
      {"avx512f", __builtin_cpu_supports("avx512f") != 0},
      {"avx512bw", __builtin_cpu_supports("avx512bw") != 0},
      {"avx512dq", __builtin_cpu_supports("avx512dq") != 0},
      {"avx512vl", __builtin_cpu_supports("avx512vl") != 0},
      {"avx512vnni", __builtin_cpu_supports("avx512vnni") != 0},
  };
  for (const auto& [name, present] : sets) {
    if (present) found.emplace_back(name);
  }
  // Newer than the names that both compilers know: the kernel's list.
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    line += ' ';
    for (const auto& [flag, name] : {std::pair{"avx_vnni", "avxvnni"}, std::pair{"avx512_bf16", "avx512bf16"},
                                     std::pair{"amx_int8", "amx-int8"}, std::pair{"amx_bf16", "amx-bf16"}}) {
      if (line.find(std::string(" ") + flag + " ") != std::string::npos) found.emplace_back(name);
    }
    break;
  }
#endif
  return found;
}

/// Billions of operations per second of n x n x n products: the best of a few runs, after one that loads the library
/// and touches the memory.
double best_rate(std::int64_t n, const std::function<void()>& product) {
  using Clock = std::chrono::steady_clock;
  const double operations = 2.0 * std::pow(static_cast<double>(n), 3);
  double best = 0;
  const auto begin = Clock::now();
  for (int run = 0; run < 12; ++run) {
    const auto start = Clock::now();
    product();
    const auto end = Clock::now();
    const double seconds = std::chrono::duration<double>(end - start).count();
    if (run > 0) best = std::max(best, operations / std::max(seconds, 1e-9) / 1e9);
    if (run > 1 && end - begin > std::chrono::milliseconds(400)) break;
  }
  return best;
}

}  // namespace

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const std::size_t colon = line.find(':');
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos && colon + 2 < line.size()) {
      return line.substr(colon + 2);
    }
  }
  return "unknown";
}

double measure_gemm_gflops(Threads& threads, std::int64_t n) {
  const auto count = static_cast<std::size_t>(n * n);
  std::vector<float> a(count), b(count), c(count);
  for (std::size_t i = 0; i < count; ++i) {
    a[i] = static_cast<float>(i % 17) - 8.0F;
    b[i] = static_cast<float>(i % 13) - 6.0F;
  }
  return best_rate(n, [&] { gemm(threads, false, false, n, n, n, 1.0F, a.data(), n, b.data(), n, 0.0F, c.data(), n); });
}

double measure_integer_gops(Threads& threads, std::int64_t n) {
  const std::vector<std::byte> a(static_cast<std::size_t>(n * n), std::byte{17}), b(a.size(), std::byte{17});
  std::vector<std::int32_t> c(a.size());
  const std::int32_t zero = 113;
  IntegerProduct p{n, n, n, {}, {}, c.data(), n};
  p.a = {a.data(), n, false, false, {&zero, 1}};
  p.b = {b.data(), n, true, false, {}};
  return best_rate(n, [&] { threads.integers()->multiply(threads, p); });
}

MachineFacts examine_machine(Threads& threads, bool measure) {
  MachineFacts facts;
  facts.processor = processor_name();
  facts.instruction_sets = instruction_sets();
  facts.threads = threads.count();
  facts.linalg = linalg_info();
  facts.integers = threads.integers() == nullptr ? "none" : threads.integers()->name();
  if (!measure) return facts;
  Threads one(1, threads.integers());
  facts.gflops_one = measure_gemm_gflops(one);
  facts.gflops_all = threads.count() > 1 ? measure_gemm_gflops(threads) : facts.gflops_one;
  if (threads.integers() == nullptr) return facts;
  facts.gops_one = measure_integer_gops(one);
  facts.gops_all = threads.count() > 1 ? measure_integer_gops(threads) : facts.gops_one;
  return facts;
}

std::vector<std::string> other_cores() {
  const LinalgInfo& info = linalg_info();
  std::vector<std::string> cores;
  if (info.library.rfind("OpenBLAS", 0) != 0) return cores;
  if (info.widest == "avx512") cores.insert(cores.end(), {"SkylakeX", "Cooperlake"});
  if (info.widest != "sse") cores.insert(cores.end(), {"Haswell", "Zen"});
  cores.emplace_back("Prescott");
  cores.erase(std::remove(cores.begin(), cores.end(), info.core), cores.end());
  return cores;
}

Json MachineFacts::json() const {
  Json sets = Json::array();
  for (const std::string& s : instruction_sets) sets.push(s);
  Json j = Json::object();
  j.set("processor", processor);
  j.set("instruction_sets", sets);
  j.set("threads", threads);
  Json l = Json::object();
  l.set("library", linalg.library);
  l.set("core", linalg.core);
  l.set("chosen_by", linalg.chosen_by);
  l.set("widest", linalg.widest);
  l.set("narrow", linalg.narrow);
  j.set("linalg", std::move(l));
  j.set("integer_kernels", integers);
  if (gflops_one > 0) {
    j.set("gflops_one_thread", gflops_one);
    j.set("gflops_all_threads", gflops_all);
  }
  if (gops_one > 0) {
    j.set("integer_gops_one_thread", gops_one);
    j.set("integer_gops_all_threads", gops_all);
  }
  return j;
}

}  // namespace qtool
