// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/code_planes.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "calib/ops/operand.h"
#include "formats/base/widest.h"

namespace qtool {

CodePlanes::CodePlanes(const Convolution& c) : c_(c) {
  const Window& w = c.window;
  constexpr std::size_t most_parts = 64;
  const auto reach = [&](std::size_t axis) { return (w.kernel[axis] - 1) * w.dilation[axis]; };
  for (std::int64_t k = 0; k < w.kernel[2]; ++k) {
    const std::int64_t residue = k * w.dilation[2] % w.stride[2];
    if (std::find(residues_.begin(), residues_.end(), residue) == residues_.end()) residues_.push_back(residue);
    if (residues_.size() > most_parts) return;
  }
  width_ = (w.output[2] + 7) / 8 * 8;
  depth_ = (w.output[0] - 1) * w.stride[0] + reach(0) + 1;
  height_ = (w.output[1] - 1) * w.stride[1] + reach(1) + 1;
  part_ = width_ + reach(2) / w.stride[2];
  constexpr double far_larger = 8;
  const double size = static_cast<double>(depth_) * static_cast<double>(height_) * static_cast<double>(line()) / 4;
  if (size > far_larger * static_cast<double>(w.input_size() + w.kernel_size() * w.output_size()) + 4096) return;

  std::vector<std::int64_t> taps;
  for (std::int64_t kd = 0; kd < w.kernel[0]; ++kd) {
    for (std::int64_t kh = 0; kh < w.kernel[1]; ++kh) {
      for (std::int64_t kw = 0; kw < w.kernel[2]; ++kw) {
        const std::int64_t shift = kw * w.dilation[2];
        const auto residue = std::find(residues_.begin(), residues_.end(), shift % w.stride[2]) - residues_.begin();
        taps.push_back((kd * w.dilation[0] * height_ + kh * w.dilation[1]) * line() +
                       4 * (residue * part_ + shift / w.stride[2]));
      }
    }
  }
  rows.reserve(at(fours() * w.kernel_size()));
  for (std::int64_t four = 0; four < fours(); ++four) {
    for (const std::int64_t tap : taps) rows.push_back(four * depth_ * height_ * line() + tap);
  }
  for (std::int64_t z = 0; z < w.output[0]; ++z) {
    for (std::int64_t y = 0; y < w.output[1]; ++y) {
      for (std::int64_t x = 0; x < width_; x += 8) {
        columns.push_back((z * w.stride[0] * height_ + y * w.stride[1]) * line() + 4 * x);
      }
    }
  }
  if (columns.size() % 2 != 0) columns.push_back(columns.back());  // kernels take them in pairs
}

namespace {

/// Elements [x0, x1) of four lines side by side, every `stride`-th from `first` on.
void side_by_side(const std::uint8_t* const (&lines)[4], std::int64_t first, std::int64_t stride, std::int64_t x0,
                  std::int64_t x1, std::uint32_t flips, std::uint8_t* to) {
  constexpr bool little = std::endian::native == std::endian::little;
  with_widest_vectors([&]() QTOOL_INLINE {
    const std::uint8_t *a = lines[0], *b = lines[1], *c = lines[2], *d = lines[3];
    std::uint8_t* const out = to;
    const std::uint32_t flip = flips;
    const std::int64_t end = x1, step = stride, origin = first;
    const auto four = [=](std::int64_t i) QTOOL_INLINE {
      const std::int64_t at = i + origin;
      const std::uint32_t p = a[at], q = b[at], r = c[at], s = d[at];
      return (little ? p | q << 8 | r << 16 | s << 24 : s | r << 8 | q << 16 | p << 24) ^ flip;
    };
    if (step == 1) {
      QTOOL_INDEPENDENT
      for (std::int64_t x = x0; x < end; ++x) {
        const std::uint32_t v = four(x);
        std::memcpy(out + 4 * x, &v, sizeof v);
      }
    } else {
      for (std::int64_t x = x0; x < end; ++x) {
        const std::uint32_t v = four(x * step);
        std::memcpy(out + 4 * x, &v, sizeof v);
      }
    }
  });
}

}  // namespace

void CodePlanes::fill(Threads& threads, const std::uint8_t* image, std::uint8_t outside, std::uint8_t flip,
                      std::uint8_t* planes) const {
  const Window& w = c_.window;
  const std::int64_t size = depth_ * height_ * line();  // of four channels
  threads.for_each(fours(), std::max<std::int64_t>(1, (1 << 16) / size), [&](std::int64_t begin, std::int64_t end) {
    std::uint8_t* to = planes + begin * size;
    std::memset(to, outside ^ flip, at((end - begin) * size));
    const std::vector<std::uint8_t> nothing(at(w.input[2]), outside);
    for (std::int64_t i = begin * depth_; i < end * depth_; ++i) {
      const std::int64_t z = i % depth_ - w.pad_begin[0], channel = i / depth_ * 4;
      for (std::int64_t j = 0; j < height_; ++j, to += line()) {
        const std::int64_t y = j - w.pad_begin[1];
        if (z < 0 || z >= w.input[0] || y < 0 || y >= w.input[1]) continue;
        const std::uint8_t* lines[4];
        for (std::int64_t k = 0; k < 4; ++k) {
          const bool there = channel + k < c_.inputs;
          lines[k] = there ? image + (((channel + k) * w.input[0] + z) * w.input[1] + y) * w.input[2] : nothing.data();
        }
        for (std::size_t r = 0; r < residues_.size(); ++r) {
          // Column x of the part lies over column x * stride + first of the image.
          const std::int64_t first = residues_[r] - w.pad_begin[2], stride = w.stride[2];
          const std::int64_t x0 = first >= 0 ? 0 : (-first + stride - 1) / stride;
          const std::int64_t x1 = std::min(part_, w.input[2] > first ? (w.input[2] - first + stride - 1) / stride : 0);
          if (x0 >= x1) continue;
          side_by_side(lines, first, stride, x0, x1, 0x01010101U * flip, to + static_cast<std::int64_t>(r) * part_ * 4);
        }
      }
    }
  });
}

std::int64_t size_by_fours(const Tensor& kernel) {
  const Shape& s = kernel.shape();
  return s[0] * ((s[1] + 3) / 4 * 4) * op::extent(s, 2, kernel.rank());
}

void order_by_fours(const Tensor& kernel, std::byte* to) {
  const Shape& s = kernel.shape();
  const std::int64_t taps = op::extent(s, 2, kernel.rank());
  const std::byte* from = kernel.bytes().data();
  for (std::int64_t m = 0; m < s[0]; ++m, from += s[1] * taps) {
    for (std::int64_t channel = 0; channel < s[1]; channel += 4) {
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        for (std::int64_t i = channel; i < channel + 4; ++i) *to++ = i < s[1] ? from[i * taps + tap] : std::byte{0};
      }
    }
  }
}

}  // namespace qtool
