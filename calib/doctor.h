// SPDX-License-Identifier: Apache-2.0
// Doctor: what this machine computes with, as facts for `qtool doctor`. OpenBLAS fixes its core when it is loaded, so
// another core is measured by the caller in a child process with OPENBLAS_CORETYPE set: see other_cores().
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "calib/linalg.h"
#include "formats/base/json.h"
#include "formats/base/threads.h"

namespace qtool {

/// The kernel's name for the processor; a virtual machine may say less than the chip. "unknown" when nothing says so.
std::string processor_name();

struct MachineFacts {
  std::string processor;                      // "AMD EPYC 9755 128-Core Processor"; "unknown" when nothing says so
  std::vector<std::string> instruction_sets;  // those that matter here, narrowest first: "sse4.2", "avx2", ...
  int threads = 1;                            // that the process may use
  LinalgInfo linalg;
  std::string integers;                   // kernels for products of 8-bit codes: "avx512_vnni"; "none": the plain way
  double gflops_one = 0, gflops_all = 0;  // sgemm through gemm(), 1 and `threads` threads
  double gops_one = 0, gops_all = 0;      // the same of 8-bit codes
  Json json() const;
};

/// Best of a few runs of the n x n x n float product, in GFLOP/s (2 n^3 operations). Takes about half a second.
double measure_gemm_gflops(Threads& threads, std::int64_t n = 1536);

/// The same of 8-bit codes, in GOP/s, on the kernels of `threads`. Requires: it has some.
double measure_integer_gops(Threads& threads, std::int64_t n = 1536);

/// Facts without measuring when `measure` is false.
MachineFacts examine_machine(Threads& threads, bool measure);

/// Cores (values of OPENBLAS_CORETYPE) that this processor can run, widest first, the current one left out.
std::vector<std::string> other_cores();

}  // namespace qtool
