// SPDX-License-Identifier: Apache-2.0
// The transforms of minimal filtering F(4, 3) in one dimension (Lavin and Gray, 2015, arXiv:1509.09308, section 4):
// four outputs y[i] = sum over k of d[i + k] * g[k] are y = A^T ((G g) . (B^T d)), with six products. By the method of
// Toom and Cook: polynomials are evaluated at 0, a, -a, b, -b and infinity.
//
// The points 5/8 and 3/2 make the least rounding errors of all pairs that were tried (1 and 2, which are common, make
// more than twice as large ones), and all factors below are floats without rounding.
//
// V: float, or a vector of them.
#pragma once

#include "formats/base/widest.h"

namespace qtool::winograd {

inline constexpr int outputs = 4, taps = 3, points = 6;  // along one axis

inline constexpr double a = 0.625, b = 1.5;
inline constexpr double a2 = a * a, b2 = b * b;

/// B^T d.
template <class V>
QTOOL_INLINE inline void transform_input(const V (&d)[points], V (&to)[points]) {
  constexpr float both = a2 * b2, sum = a2 + b2, fa = a, fb = b, fa2 = a2, fb2 = b2;
  to[0] = d[0] * both - d[2] * sum + d[4];
  const V even_a = d[4] - d[2] * fb2, odd_a = (d[3] - d[1] * fb2) * fa;
  to[1] = even_a + odd_a;
  to[2] = even_a - odd_a;
  const V even_b = d[4] - d[2] * fa2, odd_b = (d[3] - d[1] * fa2) * fb;
  to[3] = even_b + odd_b;
  to[4] = even_b - odd_b;
  to[5] = d[1] * both - d[3] * sum + d[5];
}

/// G g.
template <class V>
QTOOL_INLINE inline void transform_kernel(const V (&g)[taps], V (&to)[points]) {
  constexpr double at_0 = 1 / (a2 * b2), at_a = 1 / (2 * a2 * (a2 - b2)), at_b = 1 / (2 * b2 * (b2 - a2));
  to[0] = g[0] * at_0;
  const V even_a = (g[0] + g[2] * a2) * at_a, odd_a = g[1] * (a * at_a);
  to[1] = even_a + odd_a;
  to[2] = even_a - odd_a;
  const V even_b = (g[0] + g[2] * b2) * at_b, odd_b = g[1] * (b * at_b);
  to[3] = even_b + odd_b;
  to[4] = even_b - odd_b;
  to[5] = g[2];
}

/// A^T m.
template <class V>
QTOOL_INLINE inline void transform_output(const V (&m)[points], V (&y)[outputs]) {
  constexpr float fa = a, fb = b, fa2 = a2, fb2 = b2, fa3 = a2 * a, fb3 = b2 * b;
  const V even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
  y[0] = m[0] + even_a + even_b;
  y[1] = odd_a * fa + odd_b * fb;
  y[2] = even_a * fa2 + even_b * fb2;
  y[3] = odd_a * fa3 + odd_b * fb3 + m[5];
}

}  // namespace qtool::winograd
