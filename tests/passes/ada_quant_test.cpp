// SPDX-License-Identifier: Apache-2.0
#include "tests/passes/layers.h"

using namespace qtool;
using namespace qtool::test;

TEST_CASE("ada_quant: no layer gets worse, most get better, and bytes do not depend on threads") {
  check_learned("ada_quant");
}

TEST_CASE("ada_quant: scales that an earlier pass chose stay") { check_scales_stay("ada_quant"); }
