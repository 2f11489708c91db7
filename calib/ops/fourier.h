// SPDX-License-Identifier: Apache-2.0
// Discrete Fourier transforms of any length (Cooley and Tukey, 1965): a length is taken apart into its prime factors,
// and costs length * (sum of the factors). In double, since the sums are long.
#pragma once

#include <complex>
#include <cstdint>
#include <numbers>
#include <vector>

namespace qtool::op {

class Fourier {
 public:
  using Complex = std::complex<double>;

  /// Requires length > 0. `inverse`: positive exponents, and a division by the length.
  Fourier(std::int64_t length, bool inverse) : length_(static_cast<std::size_t>(length)), inverse_(inverse) {
    const double turn = (inverse ? 2 : -2) * std::numbers::pi / static_cast<double>(length);
    for (std::size_t i = 0; i < length_; ++i) roots_.push_back(std::polar(1.0, turn * static_cast<double>(i)));
  }

  /// y = transform of x; both of the length, and apart from each other.
  void run(const Complex* x, Complex* y) const {
    step(x, 1, y, length_);
    if (!inverse_) return;
    for (std::size_t i = 0; i < length_; ++i) y[i] /= static_cast<double>(length_);
  }

 private:
  static std::size_t smallest_factor(std::size_t n) {
    for (std::size_t p = 2; p * p <= n; ++p) {
      if (n % p == 0) return p;
    }
    return n;
  }

  /// Transforms n elements of x that are `stride` apart; n * stride is the length.
  void step(const Complex* x, std::size_t stride, Complex* y, std::size_t n) const {
    if (n == 1) {
      y[0] = x[0];
      return;
    }
    const std::size_t p = smallest_factor(n), m = n / p;
    for (std::size_t r = 0; r < p; ++r) step(x + r * stride, stride * p, y + r * m, m);
    std::vector<Complex> parts(p);
    for (std::size_t k = 0; k < m; ++k) {
      for (std::size_t r = 0; r < p; ++r) parts[r] = y[r * m + k] * roots_[r * k * stride % length_];
      for (std::size_t q = 0; q < p; ++q) {
        Complex sum = parts[0];
        for (std::size_t r = 1; r < p; ++r) sum += parts[r] * roots_[r * q % p * (length_ / p)];
        y[q * m + k] = sum;
      }
    }
  }

  std::size_t length_;
  bool inverse_;
  std::vector<Complex> roots_;
};

}  // namespace qtool::op
