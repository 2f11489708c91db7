// SPDX-License-Identifier: Apache-2.0
#include "formats/base/stop.h"

#include "formats/base/error.h"

namespace qtool {

void check_stop(const std::stop_token& stop) {
  if (!stop.stop_requested()) return;
  throw Error(Code::interrupted, "interrupted; nothing was written", "run the same command again");
}

}  // namespace qtool
