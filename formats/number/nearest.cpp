// SPDX-License-Identifier: Apache-2.0
#include "formats/number/nearest.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "formats/base/error.h"

namespace qtool {
namespace {

constexpr std::size_t chunk = 256;

/// Floats as integers of the same order; minus zero comes right before zero. Its own inverse.
QTOOL_INLINE inline std::int32_t ordered(std::int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }
std::int32_t place_of(float x) { return ordered(std::bit_cast<std::int32_t>(x)); }
float float_at(std::int32_t place) { return std::bit_cast<float>(ordered(place)); }

std::uint16_t encode(const NumberFormat& format, float x) {
  std::uint16_t code = 0;
  format.encode({&x, 1}, {&code, 1});
  return code;
}
float decode(const NumberFormat& format, std::uint16_t code) {
  float x = 0;
  format.decode({&code, 1}, {&x, 1});
  return x;
}

}  // namespace

Nearest::Nearest(const NumberFormat& format, bool narrow, const NumberFormat* alternative)
    : format_(&format), low_(format.lowest + (narrow ? 1.0f : 0.0f)), high_(format.highest) {
  searched_ = !format.is_integer && format.bits <= 8;
  has_alternative_ = alternative != nullptr;
  if (searched_) table_ = table_of(format);
  if (!has_alternative_) return;
  QTOOL_ENSURE(searched_ && !alternative->is_integer && alternative->bits <= format.bits, "two code books of a size");
  other_ = table_of(*alternative);
}

Nearest::Table Nearest::table_of(const NumberFormat& format) {
  Table t;
  std::vector<std::pair<std::int32_t, std::uint16_t>> all;
  for (std::uint32_t c = 0; c < (1u << format.bits); ++c) {
    const float x = decode(format, static_cast<std::uint16_t>(c));
    if (std::isfinite(x)) all.emplace_back(place_of(x), static_cast<std::uint16_t>(c));
  }
  std::sort(all.begin(), all.end());
  const std::size_t size = std::bit_ceil(all.size());
  t.first_step = static_cast<int>(size / 2);
  t.from.assign(size, std::numeric_limits<std::int32_t>::max());
  t.value.assign(size, 0.0f);
  t.code.assign(size, 0);
  for (std::size_t i = 0; i < all.size(); ++i) {
    t.code[i] = all[i].second;
    t.value[i] = float_at(all[i].first);
    if (i + 1 == all.size()) break;
    std::int64_t below = all[i].first, at = all[i + 1].first;  // encode() says where between them
    while (at - below > 1) {
      const std::int64_t middle = below + (at - below) / 2;
      const std::uint16_t code = encode(format, float_at(static_cast<std::int32_t>(middle)));
      (code == all[i].second ? below : at) = middle;
    }
    t.from[i] = static_cast<std::int32_t>(at);
  }
  t.nan_code = encode(format, std::numeric_limits<float>::quiet_NaN());
  t.nan_value = decode(format, t.nan_code);
  return t;
}

void Nearest::look_up(const Table& t, const float* u, std::size_t n, float* value, std::uint16_t* code) {
  const std::int32_t* from = t.from.data();
  const float* values = t.value.data();
  const std::uint16_t* codes = t.code.data();
  const int first = t.first_step;
  std::int32_t at[chunk], place[chunk];
  with_widest_vectors([&]() QTOOL_INLINE {
    for (std::size_t i = 0; i < n; ++i) {
      place[i] = ordered(std::bit_cast<std::int32_t>(u[i]));
      at[i] = 0;
    }
    for (int step = first; step > 0; step /= 2) {
      for (std::size_t i = 0; i < n; ++i) at[i] += place[i] >= from[at[i] + step - 1] ? step : 0;
    }
    for (std::size_t i = 0; i < n; ++i) value[i] = u[i] == u[i] ? values[at[i]] : t.nan_value;
  });
  for (std::size_t i = 0; i < n; ++i) code[i] = u[i] == u[i] ? codes[at[i]] : t.nan_code;
}

void Nearest::nearest(const float* u, std::size_t n, float* value, std::uint16_t* code) const {
  if (searched_) return look_up(table_, u, n, value, code);
  format_->encode({u, n}, {code, n});
  format_->decode({code, n}, {value, n});
}

void Nearest::round_reals(const Column& c) const {
  float u[chunk], scale[chunk], value[chunk], value2[chunk];
  std::uint16_t code[chunk], code2[chunk];
  for (std::int64_t begin = 0; begin < c.count; begin += chunk) {
    const auto n = static_cast<std::size_t>(std::min<std::int64_t>(chunk, c.count - begin));
    const float* x = c.x + begin * c.x_stride;
    const std::int64_t step = begin * c.step_stride;
    for (std::size_t i = 0; i < n; ++i) {
      const auto k = static_cast<std::int64_t>(i);
      const float s = c.scale[step + k * c.step_stride];
      scale[i] = has_alternative_ ? std::fabs(s) : s;
      const float m = c.minimum != nullptr ? c.minimum[step + k * c.step_stride] : 0.0f;
      u[i] = (x[k * c.x_stride] - m) / scale[i];
    }
    nearest(u, n, value, code);
    if (has_alternative_) {
      look_up(other_, u, n, value2, code2);
      for (std::size_t i = 0; i < n; ++i) {
        if (c.scale[step + static_cast<std::int64_t>(i) * c.step_stride] >= 0) continue;
        value[i] = value2[i];
        code[i] = code2[i];
      }
    }
    for (std::size_t i = 0; i < n && c.code != nullptr; ++i) c.code[static_cast<std::size_t>(begin) + i] = code[i];
    for (std::size_t i = 0; i < n && c.value != nullptr; ++i) {
      const auto k = static_cast<std::int64_t>(i);
      float v = scale[i] * value[i];
      if (c.minimum != nullptr) v += c.minimum[step + k * c.step_stride];
      c.value[(begin + k) * c.value_stride] = v;
    }
  }
}

void Nearest::round_integers(const Column& c) const {
  const auto mask = static_cast<std::int32_t>((1u << format_->bits) - 1u);
  const float low = low_, high = high_;
  float level[chunk], zeros[chunk];
  for (std::int64_t begin = 0; begin < c.count; begin += chunk) {
    const std::int64_t n = std::min<std::int64_t>(chunk, c.count - begin);
    const float* x = c.x + begin * c.x_stride;
    const std::int64_t first = begin * c.step_stride, each = c.step_stride;
    const float* scale = c.scale + first;
    const float* zero = c.zero != nullptr ? c.zero + first : nullptr;
    const float* minimum = c.minimum != nullptr ? c.minimum + first : nullptr;
    const std::int64_t x_stride = c.x_stride, value_stride = c.value_stride;
    float* value = c.value != nullptr ? c.value + begin * value_stride : nullptr;
    std::uint16_t* code = c.code != nullptr ? c.code + begin : nullptr;
    with_widest_vectors([&]() QTOOL_INLINE {
      for (std::int64_t i = 0; i < n; ++i) zeros[i] = zero != nullptr ? zero[i * each] : 0.0f;
      for (std::int64_t i = 0; i < n; ++i) {
        const float m = minimum != nullptr ? minimum[i * each] : 0.0f;
        level[i] = integer_level(x[i * x_stride] - m, scale[i * each], low - zeros[i], high - zeros[i]);
      }
      if (code != nullptr) {
        for (std::int64_t i = 0; i < n; ++i) {
          code[i] = static_cast<std::uint16_t>(static_cast<std::int32_t>(level[i] + zeros[i]) & mask);
        }
      }
      if (value == nullptr) return;
      if (minimum == nullptr) {
        for (std::int64_t i = 0; i < n; ++i) value[i * value_stride] = scale[i * each] * level[i];
      } else {
        for (std::int64_t i = 0; i < n; ++i) value[i * value_stride] = scale[i * each] * level[i] + minimum[i * each];
      }
    });
  }
}

void Nearest::round(const Column& c) const {
  if (format_->is_integer) return round_integers(c);
  round_reals(c);
}

}  // namespace qtool
