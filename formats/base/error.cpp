// SPDX-License-Identifier: Apache-2.0
#include "formats/base/error.h"

namespace qtool {

std::string_view name_of(Code code) {
  switch (code) {
    case Code::internal: return "internal";
    case Code::usage: return "usage";
    case Code::gate: return "gate";
    case Code::no_fit: return "no_fit";
    case Code::input: return "input";
    case Code::budget: return "budget";
    case Code::calibration: return "calibration";
    case Code::verification: return "verification";
    case Code::different: return "different";
    case Code::interrupted: return "interrupted";
  }
  return "internal";
}

void broken_claim(const char* condition, const char* claim, const char* file, int line) {
  const std::string path = file;
  const auto slash = path.find_last_of('/');
  throw Error(Code::internal,
              std::string("internal error: ") + claim + " (" + condition + ", " +
                  path.substr(slash == std::string::npos ? 0 : slash + 1) + ":" + std::to_string(line) + ")",
              "this is a bug in qtool; please report it with the model and the recipe");
}

}  // namespace qtool
