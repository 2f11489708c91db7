// SPDX-License-Identifier: Apache-2.0
// Confidence: how far a figure measured on some held-out samples may lie from that on all samples like them. Samples
// are taken as independent; what is measured on float and quantized model is measured on the same ones (in pairs).
#pragma once

#include <cstdint>
#include <span>

namespace qtool {

/// A figure and what it lies above and below with 95 % confidence, each bound by itself (one-sided). Without bounds
/// (fewer than two samples) they are infinite.
struct Bounded {
  double value = 0, low = 0, high = 0;
};

/// sum(a) / sum(b), where sample i gave a[i] and b[i] (b >= 0): the ratio estimator with its linearized variance
/// (Cochran, Sampling Techniques, 3rd edition, section 6.3) and Student's t.
Bounded ratio_of_sums(std::span<const double> a, std::span<const double> b);
/// The share sum(hits) / sum(rows) of rows that have a property: Wilson's interval (JASA 22, 1927), the rows counted as
/// fewer where those of one sample vary together (Kish's design effect).
Bounded share(std::span<const double> hits, std::span<const double> rows);
/// (sum(lost) - sum(won)) / sum(rows): the share of rows right before and wrong after, less that of the other way
/// round; adjusted for pairs by Agresti and Min (Statistics in Medicine 24, 2005).
Bounded paired_drop(std::span<const double> lost, std::span<const double> won, std::span<const double> rows);

/// The 95 % quantile of Student's t.
double student_95(std::int64_t degrees);
constexpr double normal_95 = 1.6448536269514722;

}  // namespace qtool
