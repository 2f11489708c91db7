// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/quant.h"

#include <algorithm>
#include <cmath>

#include "formats/base/error.h"
#include "formats/base/widest.h"
#include "formats/ir/absent.h"
#include "formats/ir/nearest_runs.h"
#include "formats/ir/runs.h"
#include "formats/ir/steps.h"

namespace qtool {

using runs::ceil_div;
using runs::for_each_run;
using runs::index;
using runs::Run;

namespace {

void fake_integers(std::span<const float> x, std::span<float> out, const Grain& grain, const Shape& shape,
                   const Steps& steps) {
  for_each_run(grain, shape, [&](const Run& r) {
    const float* in = x.data() + r.begin;
    float* to = out.data() + r.begin;
    const float *scale = steps.scale.data() + r.scale, *low = steps.low.data() + r.scale,
                *high = steps.high.data() + r.scale;
    with_widest_vectors([&]() QTOOL_INLINE {
      if (r.each) {
        for (std::size_t i = 0; i < r.length; ++i) to[i] = integer_level(in[i], scale[i], low[i], high[i]) * scale[i];
      } else {
        const float s = *scale, l = *low, h = *high;
        for (std::size_t i = 0; i < r.length; ++i) to[i] = integer_level(in[i], s, l, h) * s;
      }
    });
  });
}

}  // namespace

Shape scale_shape(const Grain& grain, const Shape& x) {
  const auto rank = static_cast<int>(x.size());
  switch (grain.kind) {
    case Grain::Kind::tensor: return {};
    case Grain::Kind::axis:
      QTOOL_ENSURE(grain.axis >= 0 && grain.axis < rank, "the axis of a grain is one of the value's");
      return {x[index(grain.axis)]};
    case Grain::Kind::groups: {
      QTOOL_ENSURE(grain.axis >= 0 && grain.axis < rank && grain.group > 0, "groups lie along an axis of the value");
      Shape s = x;
      s[index(grain.axis)] = ceil_div(s[index(grain.axis)], grain.group);
      return s;
    }
    case Grain::Kind::blocks: {
      QTOOL_ENSURE(rank >= 2 && grain.group > 0 && grain.group2 > 0, "blocks tile the last two axes");
      Shape s = x;
      s[x.size() - 2] = ceil_div(s[x.size() - 2], grain.group);
      s.back() = ceil_div(s.back(), grain.group2);
      return s;
    }
  }
  return {};
}

Tensor fake_quantize(const Tensor& x, const QuantSpec& spec) {
  if (is_absent(x)) return x;
  if (x.dtype() == DType::f16 || x.dtype() == DType::bf16) {
    return from_f32(fake_quantize(to_f32(x), spec), x.dtype());
  }
  if (spec.is_bias) return dequantize(quantize(x, spec), spec);
  if (!spec.ranges.empty()) {
    Tensor result = fake_quantize(outside_ranges(x, spec), without_ranges(spec));
    for (const IndexRange& r : spec.ranges) {
      const Tensor part = part_of(x, spec.range_axis, r.begin, r.end);
      put_part(result, spec.range_axis, r.begin, r.quant ? fake_quantize(part, *r.quant) : part);
    }
    return result;
  }
  if (spec.dynamic || spec.scale.empty()) return fake_quantize(x, with_scales(spec, x));
  if (!spec.codes.empty()) return dequantize(quantize(x, spec), spec);
  check_scales(spec, x.shape());
  const Steps steps = steps_of(spec, 0, index(spec.scale.count()));
  Tensor result = Tensor::unset(DType::f32, x.shape());
  const Tensor floats = to_f32(x);
  const auto in = floats.read<float>();
  const auto out = result.write<float>();
  if (spec.format->is_integer) {
    if (!spec.minimum.empty()) return dequantize(quantize(x, spec), spec);
    fake_integers(in, out, spec.grain, x.shape(), steps);
    return result;
  }
  for_each_nearest(in, spec, x.shape(), steps,
                   [&](std::size_t at, std::size_t n, const float* values, const std::uint16_t*) {
                     std::copy(values, values + n, out.begin() + static_cast<std::ptrdiff_t>(at));
                   });
  return result;
}

}  // namespace qtool
