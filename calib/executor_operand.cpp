// SPDX-License-Identifier: Apache-2.0
// What operands become in the eyes of their consumers.
#include <algorithm>
#include <cmath>

#include "calib/executor_plan.h"
#include "formats/base/memory.h"

namespace qtool {
namespace {

/// As runtimes store a bias: int32 codes, zero point 0.
Tensor codes_of_bias(const Tensor& bias, const Tensor& scale) {
  const auto s = scale.read<float>();
  const Tensor x = to_f32(bias);
  Tensor codes(DType::i32, bias.shape());
  const auto from = x.read<float>();
  const auto to = codes.write<std::int32_t>();
  for (std::size_t i = 0; i < to.size(); ++i) {
    const double code = std::nearbyint(static_cast<double>(from[i] / s[i % s.size()]));
    to[i] = static_cast<std::int32_t>(std::clamp(code, -2147483648.0, 2147483647.0));
  }
  return codes;
}

Tensor fake_quantize_bias(const Tensor& bias, const Tensor& scale) {
  const auto s = scale.read<float>();
  const Tensor codes = codes_of_bias(bias, scale);
  Tensor x(DType::f32, bias.shape());
  const auto from = codes.read<std::int32_t>();
  const auto to = x.write<float>();
  for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<float>(from[i]) * s[i % s.size()];
  return bias.dtype() == DType::f32 ? x : from_f32(x, bias.dtype());
}

/// A value under a spec in one of its forms.
Tensor in_form(const Tensor& raw, const QuantSpec& spec, Form form) {
  switch (form) {
    case Form::floats: return fake_quantize(raw, spec);
    case Form::codes: return quantize(spec.codes.empty() ? to_f32(raw) : raw, spec);
    case Form::scale: return spec.scale;
    case Form::zero_point: return zero_points(spec);
  }
  return {};
}

}  // namespace

bool is_dynamic(const QuantSpec& spec) { return spec.dynamic || spec.scale.empty(); }

Tensor zero_points(const QuantSpec& spec) {
  if (spec.zero_point.empty()) return {};
  Tensor out(code_type(*spec.format), spec.zero_point.shape());
  const auto to = out.write_bytes();
  const auto from = spec.zero_point.read<std::int32_t>();
  for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<std::byte>(from[i]);
  return out;
}

Tensor seen(const Operand& o, const Tensor& raw) {
  if (o.spec == nullptr) return raw;
  if (o.spec->is_bias) return (o.form == Form::floats ? fake_quantize_bias : codes_of_bias)(raw, o.bias_scale);
  if (o.form == Form::floats || !is_dynamic(*o.spec)) return in_form(raw, *o.spec, o.form);
  return in_form(raw, with_scales(*o.spec, to_f32(raw)), o.form);
}

Tensor Executor::Plan::fetch(const Operand& o, Slots& slots) const {
  if (o.value == ValueId::none) return o.fixed;
  if (slots[o.slot]) return *slots[o.slot];
  const std::optional<Tensor>& given = slots[index(o.value)];
  if (!given && !o.fixed.empty()) return o.fixed;
  const Tensor& raw = given ? *given : constants[index(o.value)];
  QTOOL_ENSURE(!raw.empty(), "an operand is a constant or was computed before its consumer");
  if (o.form == Form::codes && is_dynamic(*o.spec) && !o.spec->is_bias) {  // one look at the range for all parts
    const QuantSpec now = with_scales(*o.spec, to_f32(raw));
    slots[o.slot + 1] = in_form(raw, now, Form::scale);
    slots[o.slot + 2] = in_form(raw, now, Form::zero_point);
    slots[o.slot] = in_form(raw, now, Form::codes);
  } else {
    slots[o.slot] = seen(o, raw);
  }
  return *slots[o.slot];
}

void Executor::Plan::keep_aligned(ValueId v, const Tensor& copy) const {
  if (v == ValueId::none || constants[index(v)].empty() || !heap_has_room(copy.size_bytes(), Lasting::yes)) return;
  const std::lock_guard lock(aligned_mutex);
  aligned.resize(constants.size());
  aligned[index(v)] = copy;
}

}  // namespace qtool
