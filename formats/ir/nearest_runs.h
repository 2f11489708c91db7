// SPDX-License-Identifier: Apache-2.0
// Nearest values and codes of a tensor, run by run. Internal to formats/ir.
#pragma once

#include <algorithm>

#include "formats/ir/runs.h"
#include "formats/ir/steps.h"
#include "formats/number/nearest.h"

namespace qtool {

/// Values and codes of formats that are no integers, run by run.
template <class F>
void for_each_nearest(std::span<const float> x, const QuantSpec& spec, const Shape& shape, const Steps& steps, F f) {
  constexpr std::size_t chunk = 512;
  float values[chunk];
  std::uint16_t codes[chunk];
  const Nearest nearest(*spec.format, spec.narrow, spec.alternative);
  runs::for_each_run(spec.grain, shape, [&](const runs::Run& r) {
    for (std::size_t from = 0; from < r.length; from += chunk) {
      const std::size_t n = std::min(chunk, r.length - from), s = r.scale + (r.each ? from : 0);
      Column c;
      c.count = static_cast<std::int64_t>(n);
      c.x = x.data() + r.begin + from;
      c.scale = &steps.scale[s];
      if (!spec.minimum.empty()) c.minimum = &steps.minimum[s];
      c.step_stride = r.each ? 1 : 0;
      c.value = values;
      c.code = codes;
      nearest.round(c);
      f(r.begin + from, n, values, codes);
    }
  });
}

}  // namespace qtool
