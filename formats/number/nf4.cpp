// SPDX-License-Identifier: Apache-2.0
// NF4: sixteen quantiles of the normal distribution, scaled to [-1, 1] (QLoRA, arXiv 2305.14314, appendix E).
#include "formats/number/describe.h"

namespace qtool::number {
namespace {

constexpr float levels[16] = {-1.0f,
                              -0.6961928009986877f,
                              -0.5250730514526367f,
                              -0.39491748809814453f,
                              -0.28444138169288635f,
                              -0.18477343022823334f,
                              -0.09105003625154495f,
                              0.0f,
                              0.07958029955625534f,
                              0.16093020141124725f,
                              0.24611230194568634f,
                              0.33791524171829224f,
                              0.44070982933044434f,
                              0.5626170039176941f,
                              0.7229568362236023f,
                              1.0f};

struct NF4 {
  static constexpr int bits = 4;
  static constexpr float lowest = -1, highest = 1;
  static constexpr bool is_integer = false;
  static constexpr std::optional<DType> onnx = std::nullopt;
  static std::uint16_t encode(float x) {
    if (x != x) return 15;
    std::uint16_t code = 0;
    for (std::uint16_t i = 0; i < 15; ++i) {
      // The midpoint of two floats is exact in double; from an odd level it belongs to the even one above.
      const double middle = 0.5 * (static_cast<double>(levels[i]) + static_cast<double>(levels[i + 1]));
      const bool above = i % 2 == 0 ? x > middle : x >= middle;
      code = static_cast<std::uint16_t>(code + (above ? 1 : 0));
    }
    return code;
  }
  static float decode(std::uint16_t code) { return levels[code & 15]; }
};

}  // namespace

constinit const NumberFormat nf4 = describe<NF4>("nf4");

}  // namespace qtool::number
