// SPDX-License-Identifier: Apache-2.0
#include "calib/data/image.h"

#include "tests/fuzz/targets.h"

namespace qtool::fuzz {

/// A picture that was decoded has all its pixels and can be made small.
void image(std::span<const std::byte> bytes) {
  refuses_with(Code::calibration, [&] {
    const Picture picture = decode_picture(bytes, "p.png");
    if (picture.width < 1 || picture.height < 1 ||
        picture.rgb.size() != static_cast<std::size_t>(picture.width * picture.height * 3)) {
      throw std::logic_error("pixels are missing");
    }
    if (picture.width * picture.height > 1 << 16) return;  // keeps the fuzzer fast
    const Picture small = crop_center(resize(picture, 9, 7), 4, 4);
    if (gray(small).size() != 16) throw std::logic_error("a crop of another size");
  });
}

}  // namespace qtool::fuzz
