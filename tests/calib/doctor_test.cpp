// SPDX-License-Identifier: Apache-2.0
#include "calib/doctor.h"

#include <doctest/doctest.h>

namespace qtool {

TEST_CASE("doctor: facts name the processor, its vectors and the linear algebra in use") {
  Threads threads(2);
  const MachineFacts facts = examine_machine(threads, false);
  CHECK(!facts.processor.empty());
  CHECK(facts.threads == 2);
  CHECK(facts.json().find("linalg")->find("core")->as_string() == linalg_info().core);
  CHECK(facts.json().find("gflops_one_thread") == nullptr);
  CHECK(facts.json().find("integer_kernels")->as_string() == "none");
  CHECK(measure_gemm_gflops(threads, 64) > 0);
}

TEST_CASE("doctor: the cores to compare with leave out the current one") {
  for (const std::string& core : other_cores()) CHECK(core != linalg_info().core);
}

}  // namespace qtool
