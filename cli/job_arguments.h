// SPDX-License-Identifier: Apache-2.0
// The arguments that every command about a job takes: which model, recipe, data, target and knobs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/arguments.h"
#include "cli/console.h"
#include "cli/job.h"

namespace qtool {

class JobArguments {
 public:
  void declare(Arguments&);
  JobRequest request(const Console&) const;

 private:
  std::string model_, recipe_, output_, calib_, eval_, target_, max_ram_;
  std::vector<std::string> set_;
  std::int64_t seed_ = 0;
};

}  // namespace qtool
