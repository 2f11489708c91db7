// SPDX-License-Identifier: Apache-2.0
#include "cli/program.h"
#include "formats/base/heap.h"

int main(int count, char** words) {
  qtool::keep_freed_memory();
  return qtool::run_program(count > 0 ? std::vector<std::string>(words + 1, words + count)
                                      : std::vector<std::string>());
}
