// SPDX-License-Identifier: Apache-2.0
// Choosing a range from a histogram: what to clip, so that the rest is represented better.
#pragma once

#include <span>
#include <utility>

#include "calib/histogram.h"
#include "formats/number/number.h"

namespace qtool {

/// low <= 0 <= high, within what was seen.
using Limits = std::pair<float, float>;

/// `percent` of the numbers lie inside. Symmetric: of |x|; else half of what is left out is cut from each tail.
Limits clip_percentile(const Histogram&, double percent, bool symmetric);

/// The range whose quantized distribution tells most about the original one: least Kullback-Leibler divergence
/// (S. Migacz, 8-bit Inference with TensorRT, GTC 2017). 2048 equal bins up to the largest magnitude; as candidates
/// thresholds on |x|, cut to what was seen, so that one-sided data keep all codes for their side; what is clipped
/// counts at the edge of the original and is missing from the quantized distribution. Zeros are left out: every grid
/// has them. Data with gross outliers: the bins end at 16 times the 99.9th percentile of |x|.
Limits clip_entropy(const Histogram&, const NumberFormat&, bool symmetric);

/// The range with the least mean |error|^power (2: squared; 1: absolute, which few outliers move less) under
/// set_scales() and fake_quantize(): a search over ratios of the largest range down to 2^-10, one side after the other
/// where the format is asymmetric.
Limits clip_least_error(const Histogram&, const NumberFormat&, bool symmetric, int power);

}  // namespace qtool
