// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/code_planes.h"

#include <algorithm>
#include <cstring>

#include "calib/ops/operand.h"

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
  const double size = static_cast<double>(depth_) * static_cast<double>(height_) * static_cast<double>(part_) *
                      static_cast<double>(residues_.size());
  if (size > far_larger * static_cast<double>(w.input_size() + w.kernel_size() * w.output_size()) + 4096) return;

  for (std::int64_t channel = 0; channel < c.inputs; ++channel) {
    for (std::int64_t kd = 0; kd < w.kernel[0]; ++kd) {
      for (std::int64_t kh = 0; kh < w.kernel[1]; ++kh) {
        for (std::int64_t kw = 0; kw < w.kernel[2]; ++kw) {
          const std::int64_t z = channel * depth_ + kd * w.dilation[0], shift = kw * w.dilation[2];
          const auto residue = std::find(residues_.begin(), residues_.end(), shift % w.stride[2]) - residues_.begin();
          rows.push_back((z * height_ + kh * w.dilation[1]) * line() + residue * part_ + shift / w.stride[2]);
        }
      }
    }
  }
  for (std::int64_t z = 0; z < w.output[0]; ++z) {
    for (std::int64_t y = 0; y < w.output[1]; ++y) {
      for (std::int64_t x = 0; x < width_; x += 8) {
        columns.push_back((z * w.stride[0] * height_ + y * w.stride[1]) * line() + x);
      }
    }
  }
}

void CodePlanes::fill(Threads& threads, const std::uint8_t* image, std::uint8_t outside,
                      std::vector<std::uint8_t>& planes) const {
  const Window& w = c_.window;
  const std::int64_t size = depth_ * height_ * line();
  planes.resize(at(c_.inputs * size));
  threads.for_each(c_.inputs, std::max<std::int64_t>(1, (1 << 16) / size), [&](std::int64_t begin, std::int64_t end) {
    std::uint8_t* to = planes.data() + begin * size;
    std::memset(to, outside, at((end - begin) * size));
    for (std::int64_t i = begin * depth_; i < end * depth_; ++i) {
      const std::int64_t z = i % depth_ - w.pad_begin[0];
      for (std::int64_t j = 0; j < height_; ++j, to += line()) {
        const std::int64_t y = j - w.pad_begin[1];
        if (z < 0 || z >= w.input[0] || y < 0 || y >= w.input[1]) continue;
        const std::uint8_t* from = image + ((i / depth_ * w.input[0] + z) * w.input[1] + y) * w.input[2];
        for (std::size_t r = 0; r < residues_.size(); ++r) {
          // Column x of the part lies over column x * stride + first of the image.
          const std::int64_t first = residues_[r] - w.pad_begin[2], stride = w.stride[2];
          const std::int64_t x0 = first >= 0 ? 0 : (-first + stride - 1) / stride;
          const std::int64_t x1 = std::min(part_, w.input[2] > first ? (w.input[2] - first + stride - 1) / stride : 0);
          if (x0 >= x1) continue;
          std::uint8_t* part = to + static_cast<std::int64_t>(r) * part_;
          if (stride == 1) {
            std::memcpy(part + x0, from + x0 + first, at(x1 - x0));
            continue;
          }
          for (std::int64_t x = x0; x < x1; ++x) part[x] = from[x * stride + first];
        }
      }
    }
  });
}

}  // namespace qtool
