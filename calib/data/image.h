// SPDX-License-Identifier: Apache-2.0
// Pictures: decoding PNG and JPEG to 8-bit RGB, resizing, cropping. Resizing is the triangle filter of Pillow
// (what torchvision's Resize does to pictures), in its 8-bit fixed point, so that values agree to the last bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace qtool {

struct Picture {
  std::int64_t width = 0, height = 0;
  std::vector<std::uint8_t> rgb;  // [height, width, 3]
};

/// PNG or JPEG, told by the first bytes. Alpha is dropped, grey becomes RGB, 16 bits become 8. Error(Code::calibration)
/// naming `source` for broken files, CMYK, and more than 2^27 pixels.
Picture decode_picture(std::span<const std::byte>, const std::string& source);

/// The triangle filter, widened when shrinking; horizontal first.
Picture resize(const Picture&, std::int64_t width, std::int64_t height);
/// The shorter side becomes `side`, the longer one in proportion, rounded down.
Picture resize_shorter(const Picture&, std::int64_t side);
/// The middle; an odd remainder is halved to even, as torchvision does. Requires: the picture is large enough.
Picture crop_center(const Picture&, std::int64_t width, std::int64_t height);
/// Luma, ITU-R 601 in Pillow's fixed point: [height, width].
std::vector<std::uint8_t> gray(const Picture&);

}  // namespace qtool
