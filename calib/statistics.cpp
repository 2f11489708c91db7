// SPDX-License-Identifier: Apache-2.0
#include "calib/statistics.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "calib/ops/support.h"
#include "formats/base/error.h"

namespace qtool {
namespace {

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Extents before, at and after `axis` (negative: from the back); empty when there is no such axis.
struct Split {
  std::int64_t outer = 1, channels = 1, inner = 1;
};
std::optional<Split> split_at(const Shape& shape, int axis) {
  const auto rank = static_cast<int>(shape.size());
  const int at = axis < 0 ? axis + rank : axis;
  if (at < 0 || at >= rank) return std::nullopt;
  Split s;
  for (int a = 0; a < at; ++a) s.outer *= shape[index(a)];
  s.channels = shape[index(at)];
  for (int a = at + 1; a < rank; ++a) s.inner *= shape[index(a)];
  return s;
}

/// Adds the `inner` numbers of each of N neighbouring channels: every sum waits for itself alone.
template <std::size_t N, class Term>
void add_channels(const float* x, std::int64_t inner, double* sums, const Term& term) {
  std::array<double, N> s;
  std::copy_n(sums, N, s.begin());
  for (std::int64_t k = 0; k < inner; ++k) {
    for (std::size_t c = 0; c < N; ++c) s[c] += term(x[static_cast<std::int64_t>(c) * inner + k]);
  }
  std::copy_n(s.begin(), N, sums);
}

}  // namespace

void Statistics::fail(const std::string& what) const { throw Error(Code::calibration, "\"" + name_ + "\" " + what); }

std::int64_t Statistics::count() const {
  std::int64_t n = 0;
  for (const Channel& c : channels_) n += c.count;
  return n;
}

void Statistics::add(const Tensor& t, Threads& threads) {
  if (!is_float(t.dtype())) {
    fail("is " + std::string(name_of(t.dtype())) + "; only floating-point values have ranges and means");
  }
  const Tensor f = to_f32(t);
  const auto x = f.read<float>();
  Split s{1, 1, t.count()};
  if (axis_ != whole) {
    const auto found = split_at(t.shape(), axis_);
    if (!found) fail("has the shape " + to_string(t.shape()) + ", no axis " + std::to_string(axis_));
    s = *found;
  }
  const auto n = index(s.channels);
  if (channels_.empty()) channels_.resize(n);
  if (channels_.size() != n) {
    fail("has " + std::to_string(n) + " channels in one batch and " + std::to_string(channels_.size()) + " in another");
  }
  if (x.empty()) return;
  if (bins_ > 0) {
    for (Channel& c : channels_) {
      if (!c.histogram) c.histogram.emplace(bins_);
    }
  }
  const std::int64_t before = count();
  if (n == 1) {
    add_whole(x, threads);
    if (smoothing_) add_samples(x, t.rank() == 0 ? 1 : t.shape().front());
  } else {
    const std::int64_t grain = std::max<std::int64_t>(1, op::elements_per_chunk / (t.count() / s.channels));
    threads.for_each(s.channels, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; ++c) add_channel(index(c), x, index(s.inner));
    });
  }
  const std::int64_t bad = t.count() - (count() - before);
  infinite_ += bad;
  if (bad > 0 && std::any_of(x.begin(), x.end(), [](float v) { return std::isnan(v); })) {
    throw Error(Code::calibration, "\"" + name_ + "\" becomes NaN on the calibration data",
                "check the data with the float model: a wrong preprocessing or type is the usual cause");
  }
}

void Statistics::add_whole(std::span<const float> x, Threads& threads) {
  Channel& channel = channels_.front();
  constexpr std::int64_t grain = op::elements_per_chunk;
  const auto size = static_cast<std::int64_t>(x.size());
  std::vector<Extremes> parts(index((size + grain - 1) / grain));
  threads.for_each(size, grain, [&](std::int64_t begin, std::int64_t end) {
    parts[index(begin / grain)] = extremes_of(x.subspan(index(begin), index(end - begin)));
  });
  std::int64_t bad = 0;
  for (const Extremes& part : parts) {
    channel.extremes.add(part);
    bad += part.bad;
  }
  channel.count += size - bad;
  if (channel.histogram) channel.histogram->add(x);
}

void Statistics::add_samples(std::span<const float> x, std::int64_t samples) {
  Channel& channel = channels_.front();
  const std::size_t size = x.size() / index(samples);
  for (std::size_t at = 0; at < x.size(); at += size) {
    const Extremes e = extremes_of(x.subspan(at, size));
    if (!(e.low <= e.high)) continue;
    ++channel.samples;
    if (channel.samples == 1) {
      channel.average_low = e.low;
      channel.average_high = e.high;
      continue;
    }
    const double weight = std::max(*smoothing_, 1.0 / static_cast<double>(channel.samples));
    channel.average_low += weight * (e.low - channel.average_low);
    channel.average_high += weight * (e.high - channel.average_high);
  }
}

void Statistics::add_channel(std::size_t c, std::span<const float> x, std::size_t inner) {
  Channel& channel = channels_[c];
  for (std::size_t at = c * inner; at < x.size(); at += channels_.size() * inner) {
    const auto part = x.subspan(at, inner);
    const Extremes e = extremes_of(part);
    channel.extremes.add(e);
    channel.count += static_cast<std::int64_t>(inner) - e.bad;
    if (channel.histogram) channel.histogram->add(part);
  }
}

void Statistics::write(ByteWriter& out) const {
  out.number(infinite_).number(std::uint64_t{channels_.size()});
  for (const Channel& c : channels_) {
    out.number(c.extremes.low).number(c.extremes.high).number(c.extremes.bad).number(c.count);
    out.number(c.average_low).number(c.average_high).number(c.samples).number(c.histogram.has_value());
    if (c.histogram) c.histogram->write(out);
  }
}

void Statistics::read(ByteReader& in) {
  infinite_ = in.number<std::int64_t>();
  channels_.clear();
  channels_.resize(in.size(sizeof(Extremes)));
  for (Channel& c : channels_) {
    c.extremes.low = in.number<float>();
    c.extremes.high = in.number<float>();
    c.extremes.bad = in.number<std::int64_t>();
    c.count = in.number<std::int64_t>();
    c.average_low = in.number<double>();
    c.average_high = in.number<double>();
    c.samples = in.number<std::int64_t>();
    if (in.flag()) c.histogram.emplace(bins_).read(in);
  }
}

bool ChannelSums::add(const Tensor& t, std::int64_t channels, int axis, Threads& threads) {
  const auto s = split_at(t.shape(), axis);
  if (!s || s->channels != channels) return false;
  sums_.resize(index(channels));
  if (t.count() == 0) return true;
  const Tensor f = to_f32(t);
  const float* x = f.read<float>().data();
  constexpr std::int64_t together = 8;
  const std::int64_t per_channel = t.count() / channels;
  const std::int64_t groups = (op::elements_per_chunk / per_channel + together - 1) / together;
  const auto add_all = [&](const auto& term) {
    threads.for_each(channels, std::max<std::int64_t>(1, groups) * together, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t o = 0; o < s->outer; ++o) {
        const float* row = x + o * channels * s->inner;
        std::int64_t c = begin;
        if (s->inner == 1) {
          for (; c < end; ++c) sums_[index(c)] += term(row[c]);
        }
        for (; c + together <= end; c += together) {
          add_channels<together>(row + c * s->inner, s->inner, &sums_[index(c)], term);
        }
        for (; c < end; ++c) add_channels<1>(row + c * s->inner, s->inner, &sums_[index(c)], term);
      }
    });
  };
  if (of_ == Of::squares) {
    add_all([](float v) { return static_cast<double>(v) * static_cast<double>(v); });
  } else {
    add_all([](float v) { return static_cast<double>(v); });
  }
  count_ += per_channel;
  return true;
}

void ChannelSums::write(ByteWriter& out) const { out.numbers<double>(sums_).number(count_); }

void ChannelSums::read(ByteReader& in) {
  sums_ = in.numbers<double>();
  count_ = in.number<std::int64_t>();
}

std::vector<double> ChannelSums::means() const {
  if (count_ == 0) return {};
  std::vector<double> means;
  for (const double sum : sums_) means.push_back(sum / static_cast<double>(count_));
  return means;
}

}  // namespace qtool
