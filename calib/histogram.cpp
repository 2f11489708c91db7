// SPDX-License-Identifier: Apache-2.0
#include "calib/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "calib/extremes.h"

namespace qtool {
namespace {

constexpr std::uint32_t octaves = 16;  // below the largest exponent; the rest is counted as tiny

}  // namespace

Histogram::Histogram(std::int64_t bins) {
  const auto b = std::clamp<std::uint64_t>(static_cast<std::uint64_t>(std::max<std::int64_t>(bins, 1)), 16, 65536);
  mantissa_ = std::bit_width(std::bit_ceil(b)) - 2;
}

void Histogram::add(float x) {
  if (count_ == 0) low_ = high_ = x;
  ++count_;
  low_ = x < low_ ? x : low_;
  high_ = x > high_ ? x : high_;
  if (x == 0) {
    ++zeros_;
    return;
  }
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t page = bits >> 23, exponent = page & 255u;
  if (exponent + octaves < top_) {
    ++tiny_[page >> 8];
    return;
  }
  if (!pages_[page]) open(page);
  ++(*pages_[page])[(bits & 0x7fffffu) >> (23 - mantissa_)];
}

void Histogram::add(std::span<const float> x) {
  constexpr std::size_t piece = 16384;  // stays in a near cache between the two looks at it
  for (; !x.empty(); x = x.subspan(std::min(piece, x.size()))) {
    const auto part = x.first(std::min(piece, x.size()));
    const Extremes e = extremes_of(part);
    const float largest = std::max(-e.low, e.high);
    const bool known =
        e.bad == 0 && largest > 0 && top_ > octaves && std::bit_cast<std::uint32_t>(largest) >> 23 <= top_;
    if (known) {
      low_ = count_ == 0 ? e.low : std::min(low_, e.low);
      high_ = count_ == 0 ? e.high : std::max(high_, e.high);
      count_ += static_cast<std::int64_t>(part.size());
      add_known(part);
    } else {
      for (const float v : part) {
        if (std::isfinite(v)) add(v);
      }
    }
  }
}

/// Finite numbers with exponents up to the largest one seen, `top_`, which is so large that zeros and subnormals count
/// as tiny. Those have a page of their own here: no branch hangs on the data.
void Histogram::add_known(std::span<const float> x) {
  std::array<std::int64_t*, 512> rows{};
  std::array<Page, 2> tiny{Page(std::size_t{1} << mantissa_), Page(std::size_t{1} << mantissa_)};
  for (std::uint32_t p = 0; p < rows.size(); ++p) {
    rows[p] = (p & 255U) + octaves < top_ ? tiny[p >> 8].data() : pages_[p] ? pages_[p]->data() : nullptr;
  }
  std::array<std::int64_t, 2> zeros{};
  for (const float v : x) {
    const auto bits = std::bit_cast<std::uint32_t>(v);
    zeros[0] += bits == 0 ? 1 : 0;
    zeros[1] += bits == 1U << 31 ? 1 : 0;
    std::int64_t*& row = rows[bits >> 23];
    if (row == nullptr) {
      open(bits >> 23);
      row = pages_[bits >> 23]->data();
    }
    ++row[(bits & 0x7fffffu) >> (23 - mantissa_)];
  }
  for (std::size_t s = 0; s < 2; ++s) {
    zeros_ += zeros[s];
    tiny_[s] += std::accumulate(tiny[s].begin(), tiny[s].end(), std::int64_t{0}) - zeros[s];
  }
}

void Histogram::open(std::uint32_t page) {
  pages_[page] = std::make_unique<Page>(std::size_t{1} << mantissa_);
  const std::uint32_t exponent = page & 255u;
  if (exponent <= top_) return;
  top_ = exponent;
  for (std::uint32_t p = 0; p < pages_.size(); ++p) {
    if (!pages_[p] || (p & 255u) + octaves >= top_) continue;
    for (const std::int64_t n : *pages_[p]) tiny_[p >> 8] += n;
    pages_[p].reset();
  }
}

std::vector<Histogram::Bin> Histogram::list(std::int64_t per_octave) const {
  int join = 0;  // mantissa bits given up
  while (per_octave > 0 && (std::int64_t{1} << (mantissa_ - join)) > per_octave && join < mantissa_) ++join;
  const int bits = mantissa_ - join;
  // The magnitude where bin `i` of an exponent begins, `i` may be one past the last.
  const auto edge = [&](std::uint32_t exponent, std::uint32_t i) {
    return std::bit_cast<float>((exponent << 23) + (i << (23 - bits)));
  };
  const auto positive = [&](std::uint32_t sign, std::vector<Bin>& out) {
    const std::uint32_t least = top_ > octaves ? top_ - octaves : 0;
    if (tiny_[sign] > 0) out.push_back({0, edge(least, 0), tiny_[sign]});
    for (std::uint32_t e = least; e <= top_; ++e) {
      const auto& page = pages_[sign << 8 | e];
      if (!page) continue;
      for (std::uint32_t i = 0; i < (1u << bits); ++i) {
        std::int64_t n = 0;
        for (std::uint32_t k = i << join; k < (i + 1) << join; ++k) n += (*page)[k];
        if (n > 0) out.push_back({edge(e, i), std::min(edge(e, i + 1), std::max(high_, -low_)), n});
      }
    }
  };
  std::vector<Bin> out;
  positive(1, out);
  std::reverse(out.begin(), out.end());
  for (Bin& b : out) b = {-b.high, -b.low, b.count};
  if (zeros_ > 0) out.push_back({0, 0, zeros_});
  positive(0, out);
  if (!out.empty()) {
    out.front().low = std::max(out.front().low, low_);
    out.back().high = std::min(out.back().high, high_);
  }
  return out;
}

void Histogram::write(ByteWriter& out) const {
  out.number(mantissa_).number(top_).number(low_).number(high_).count(count_).count(zeros_);
  for (const std::int64_t n : tiny_) out.count(n);
  for (const auto& page : pages_) {
    out.number(page != nullptr);
    if (!page) continue;
    for (const std::int64_t n : *page) out.count(n);
  }
}

void Histogram::read(ByteReader& in) {
  if (in.number<int>() != mantissa_) ByteReader::fail();
  top_ = in.number<std::uint32_t>();
  if (top_ > 254) ByteReader::fail();
  low_ = in.number<float>();
  high_ = in.number<float>();
  count_ = in.count();
  zeros_ = in.count();
  for (std::int64_t& n : tiny_) n = in.count();
  for (auto& page : pages_) {
    page.reset();
    if (!in.flag()) continue;
    page = std::make_unique<Page>(std::size_t{1} << mantissa_);
    for (std::int64_t& n : *page) n = in.count();
  }
}

double Histogram::quantile(std::span<const Bin> bins, double q) {
  std::int64_t total = 0;
  for (const Bin& b : bins) total += b.count;
  if (total == 0) return 0;
  const double wanted = q * static_cast<double>(total);
  double before = 0;
  for (const Bin& b : bins) {
    const auto n = static_cast<double>(b.count);
    if (before + n >= wanted) {
      const double share = std::clamp((wanted - before) / n, 0.0, 1.0);
      return static_cast<double>(b.low) + share * (static_cast<double>(b.high) - static_cast<double>(b.low));
    }
    before += n;
  }
  return bins.back().high;
}

std::vector<Histogram::Bin> Histogram::absolute(std::span<const Bin> bins) {
  std::vector<Bin> out;
  for (const Bin& b : bins) out.push_back(b.high <= 0 ? Bin{-b.high, -b.low, b.count} : b);
  std::stable_sort(out.begin(), out.end(), [](const Bin& a, const Bin& b) { return a.low < b.low; });
  return out;
}

}  // namespace qtool
