// SPDX-License-Identifier: Apache-2.0
// What all integer kernels share: operands are packed once, the result is cut into tiles by its shape alone, and zero
// points are taken out of the sums by the sums of rows and columns:
//   sum (a - za)(b - zb) = sum ab - za (sum b - k zb) - zb sum a
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "backends/cpu/cpu.h"
#include "backends/cpu/kernel.h"
#include "formats/base/error.h"
#include "formats/base/threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qtool {
namespace {

// A tile of sums, the part of the right operand that it needs and the rows that meet it should stay in the second-level
// cache; the rows of one block of registers in the first.
constexpr std::int64_t tile_rows = 96, tile_panels = 16, tile_depth = 1024;
// Tiles that one product should have at least, so that several threads find work.
constexpr std::int64_t wanted_tiles = 8;
constexpr std::int64_t pack_bytes = 1 << 16;  // per task

constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }
constexpr std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

template <class T>
using Memory = std::unique_ptr<T[]>;
template <class T>
Memory<T> memory(std::int64_t n) {
  return std::make_unique_for_overwrite<T[]>(at(n));
}

/// Copies n bytes with their top bits flipped where `flip` says so, and returns the sum of what was written.
std::uint32_t copy_row(const std::uint8_t* from, std::int64_t n, std::uint8_t flip, std::uint8_t* to) {
  std::uint32_t sum = 0;
  std::int64_t i = 0;
#if defined(__x86_64__)
  const __m128i mask = _mm_set1_epi8(static_cast<char>(flip));
  __m128i sums = _mm_setzero_si128();
  for (; i + 16 <= n; i += 16) {
    const __m128i v = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)), mask);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), v);
    sums = _mm_add_epi64(sums, _mm_sad_epu8(v, _mm_setzero_si128()));
  }
  sum = static_cast<std::uint32_t>(_mm_cvtsi128_si32(sums)) +
        static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_srli_si128(sums, 8)));
#endif
  for (; i < n; ++i) {
    to[i] = from[i] ^ flip;
    sum += to[i];
  }
  return sum;
}

/// The left operand: rows of unsigned codes, and their sums.
struct Rows {
  Memory<std::uint8_t> codes;
  Memory<std::uint32_t> sums;
  std::int64_t stride = 0;
};

Rows pack_rows(const IntegerKernel& kernel, Threads& threads, const IntegerProduct& p) {
  Rows out;
  const std::int64_t rows = round_up(p.m, kernel.row_step), depth = round_up(p.k, kernel.depth_step);
  out.stride = depth + (depth % 1024 == 0 ? 64 : 0);  // rows a power of two apart would share the lines of a cache
  out.codes = memory<std::uint8_t>(rows * out.stride);
  out.sums = memory<std::uint32_t>(rows);
  const std::uint8_t flip = p.a.is_signed ? 0x80 : 0;
  const auto* from = reinterpret_cast<const std::uint8_t*>(p.a.codes);
  threads.for_each(rows, std::max<std::int64_t>(16, pack_bytes / depth), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      std::uint8_t* to = out.codes.get() + r * out.stride;
      const std::int64_t known = r < p.m ? p.k : 0;
      std::memset(to + known, 0, at(depth - known));
      out.sums[at(r)] = known == 0 || p.a.transposed ? 0 : copy_row(from + r * p.a.stride, known, flip, to);
    }
    if (!p.a.transposed) return;
    for (std::int64_t l = 0; l < p.k; ++l) {
      for (std::int64_t r = begin; r < std::min(end, p.m); ++r) {
        const std::uint8_t v = from[l * p.a.stride + r] ^ flip;
        out.codes[at(r * out.stride + l)] = v;
        out.sums[at(r)] += v;
      }
    }
  });
  return out;
}

/// Codes [4 * four, + 4) of 16 columns, interleaved; `rows`, `columns`: how many of them exist.
void interleave(const std::uint8_t* from, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                std::uint8_t flip, std::uint8_t* to) {
#if defined(__x86_64__)
  if (rows >= 4 && columns >= panel_columns) {
    const __m128i mask = _mm_set1_epi8(static_cast<char>(flip));
    const auto row = [&](std::int64_t i) {
      return _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * stride)), mask);
    };
    const __m128i r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3);
    const __m128i low01 = _mm_unpacklo_epi8(r0, r1), high01 = _mm_unpackhi_epi8(r0, r1);
    const __m128i low23 = _mm_unpacklo_epi8(r2, r3), high23 = _mm_unpackhi_epi8(r2, r3);
    auto* out = reinterpret_cast<__m128i*>(to);
    _mm_storeu_si128(out, _mm_unpacklo_epi16(low01, low23));
    _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(low01, low23));
    _mm_storeu_si128(out + 2, _mm_unpacklo_epi16(high01, high23));
    _mm_storeu_si128(out + 3, _mm_unpackhi_epi16(high01, high23));
    return;
  }
#endif
  std::memset(to, 0, 4 * panel_columns);
  for (std::int64_t i = 0; i < std::min<std::int64_t>(rows, 4); ++i) {
    for (std::int64_t j = 0; j < std::min(columns, panel_columns); ++j) to[4 * j + i] = from[i * stride + j] ^ flip;
  }
}

/// The right operand: panels of signed codes, and the sums of their columns (empty: nobody needs them).
struct Panels {
  Memory<std::int8_t> codes;
  Memory<std::int32_t> sums;
  std::int64_t stride = 0;
};

void pack_panel(const IntegerProduct& p, std::int64_t panel, std::int64_t depth, std::uint8_t* to) {
  const auto* from = reinterpret_cast<const std::uint8_t*>(p.b.codes);
  const std::uint8_t flip = p.b.is_signed ? 0 : 0x80;
  const std::int64_t first = panel * panel_columns, columns = std::min(panel_columns, p.n - first);
  if (!p.b.transposed) {
    for (std::int64_t l = 0; l < depth; l += 4, to += 4 * panel_columns) {
      interleave(from + l * p.b.stride + first, p.b.stride, p.k - l, columns, flip, to);
    }
    return;
  }
  const std::int64_t whole = p.k / 4 * 4;
  if (columns < panel_columns || whole < depth) std::memset(to, 0, at(depth * panel_columns));
  const std::uint32_t flips = 0x01010101U * flip;
  for (std::int64_t j = 0; j < columns; ++j) {
    const std::uint8_t* column = from + (first + j) * p.b.stride;
    std::uint8_t* out = to + 4 * j;
    for (std::int64_t l = 0; l < whole; l += 4) {
      std::uint32_t four = 0;
      std::memcpy(&four, column + l, sizeof four);
      four ^= flips;
      std::memcpy(out + l * panel_columns, &four, sizeof four);
    }
    for (std::int64_t l = whole; l < p.k; ++l) out[whole * panel_columns + l % 4] = column[l] ^ flip;
  }
}

Panels pack_panels(const IntegerKernel& kernel, Threads& threads, const IntegerProduct& p, bool want_sums) {
  Panels out;
  const std::int64_t panels = round_up(p.n, panel_columns) / panel_columns, depth = round_up(p.k, kernel.depth_step);
  out.stride = depth * panel_columns;
  out.codes = memory<std::int8_t>(panels * out.stride);
  if (want_sums) out.sums = memory<std::int32_t>(panels * panel_columns);
  threads.for_each(
      panels, std::max<std::int64_t>(4, pack_bytes / out.stride), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t panel = begin; panel < end; ++panel) {
          pack_panel(p, panel, depth, reinterpret_cast<std::uint8_t*>(out.codes.get() + panel * out.stride));
        }
        if (!want_sums) return;
        // Sums of columns: the product with a row of ones.
        const auto ones = memory<std::uint8_t>(kernel.row_step * depth);
        std::memset(ones.get(), 1, at(kernel.row_step * depth));
        const auto sums = memory<std::int32_t>(kernel.row_step * (end - begin) * panel_columns);
        KernelTile t{ones.get(), depth, out.codes.get() + begin * out.stride, out.stride, depth};
        t.rows = kernel.row_step;
        t.panels = end - begin;
        t.sums = sums.get();
        t.sums_stride = (end - begin) * panel_columns;
        kernel.multiply(t);
        std::copy(t.sums, t.sums + t.sums_stride, out.sums.get() + begin * panel_columns);
      });
  return out;
}

/// Zero points of the codes as packed: those of one type moved by `shift`.
class ZeroPoints {
 public:
  ZeroPoints(std::span<const std::int32_t> given, std::int64_t count, std::int32_t shift)
      : given_(given), shift_(static_cast<std::uint32_t>(shift)) {
    QTOOL_ENSURE(given.size() <= 1 || static_cast<std::int64_t>(given.size()) == count,
                 "zero points are none, one, or one per row or column");
  }
  bool one() const { return given_.size() <= 1; }
  std::uint32_t operator[](std::int64_t i) const {
    return (given_.empty() ? 0 : static_cast<std::uint32_t>(given_[one() ? 0 : at(i)])) + shift_;
  }

 private:
  std::span<const std::int32_t> given_;
  std::uint32_t shift_;
};

}  // namespace

void multiply_codes(const IntegerKernel& kernel, Threads& threads, const IntegerProduct& p) {
  if (p.m <= 0 || p.n <= 0) return;
  if (p.k <= 0) {
    for (std::int64_t i = 0; i < p.m; ++i) std::fill_n(p.c + i * p.c_stride, p.n, 0);
    return;
  }
  const ZeroPoints za(p.a.zero_points, p.m, p.a.is_signed ? 128 : 0),
      zb(p.b.zero_points, p.n, p.b.is_signed ? 0 : -128);
  const bool of_columns = !za.one() || za[0] != 0;
  const Rows rows = pack_rows(kernel, threads, p);
  const Panels panels = pack_panels(kernel, threads, p, of_columns);

  const auto k = static_cast<std::uint32_t>(p.k);
  const auto column_sum = [&](std::int64_t j) {
    return of_columns ? static_cast<std::uint32_t>(panels.sums[at(j)]) - k * zb[j] : 0;
  };
  // Where both zero points are one number, what is taken out is a number per row plus a number per column.
  const bool simple = za.one() && (zb.one() || p.b.zero_points.empty());
  const auto by_row = std::make_unique<std::uint32_t[]>(at(p.m)),
             by_column = std::make_unique<std::uint32_t[]>(at(p.n));
  if (simple) {
    for (std::int64_t i = 0; i < p.m; ++i) by_row[at(i)] = 0U - zb[0] * rows.sums[at(i)];
    for (std::int64_t j = 0; j < p.n; ++j) by_column[at(j)] = 0U - za[0] * column_sum(j);
  }

  const std::int64_t all_panels = round_up(p.n, panel_columns) / panel_columns;
  const std::int64_t depth = round_up(p.k, kernel.depth_step), down = round_up(p.m, tile_rows) / tile_rows;
  std::int64_t width = std::min(tile_panels, all_panels);
  while (width > 4 && down * (round_up(all_panels, width) / width) < wanted_tiles) width /= 2;
  const std::int64_t across = round_up(all_panels, width) / width;

  threads.for_each(down * across, 1, [&](std::int64_t begin, std::int64_t end) {
    const auto sums = memory<std::int32_t>(round_up(std::min(tile_rows, p.m), kernel.row_step) * width * panel_columns);
    for (std::int64_t tile = begin; tile < end; ++tile) {
      const std::int64_t row = tile / across * tile_rows, panel = tile % across * width;
      const std::int64_t column = panel * panel_columns;
      KernelTile t;
      t.rows = round_up(std::min(tile_rows, p.m - row), kernel.row_step);
      t.panels = std::min(width, all_panels - panel);
      t.sums = sums.get();
      t.sums_stride = width * panel_columns;
      t.a_stride = rows.stride;
      t.b_stride = panels.stride;
      for (std::int64_t l = 0; l < depth; l += tile_depth) {
        t.a = rows.codes.get() + row * rows.stride + l;
        t.b = panels.codes.get() + panel * panels.stride + l * panel_columns;
        t.depth = std::min(tile_depth, depth - l);
        t.add = l > 0;
        kernel.multiply(t);
      }
      KernelResult f{reinterpret_cast<const std::uint32_t*>(sums.get()), by_row.get() + row, by_column.get() + column};
      f.c = reinterpret_cast<std::uint32_t*>(p.c + row * p.c_stride + column);
      f.rows = std::min(tile_rows, p.m - row);
      f.columns = std::min(t.panels * panel_columns, p.n - column);
      f.sums_stride = t.sums_stride;
      f.c_stride = p.c_stride;
      kernel.finish(f);
      if (simple) continue;
      for (std::int64_t i = 0; i < f.rows; ++i) {
        for (std::int64_t j = 0; j < f.columns; ++j) {
          f.c[i * f.c_stride + j] -= za[row + i] * column_sum(column + j) + zb[column + j] * rows.sums[at(row + i)];
        }
      }
    }
  });
}

namespace {

constexpr std::array all{
#define QTOOL_KERNEL(name) &kernel::name,
#include "backends/cpu/list.inc"
#undef QTOOL_KERNEL
};

class OnKernel final : public IntegerKernels {
 public:
  explicit OnKernel(const IntegerKernel& kernel) : kernel_(kernel) {}
  std::string_view name() const override { return kernel_.name; }
  void multiply(Threads& threads, const IntegerProduct& p) const override { multiply_codes(kernel_, threads, p); }

 private:
  const IntegerKernel& kernel_;
};

}  // namespace

std::span<const IntegerKernel* const> integer_kernels() { return all; }

const IntegerKernels& best_integer_kernels() {
  static const OnKernel best(
      **std::find_if(all.begin(), all.end(), [](const IntegerKernel* k) { return k->runs(processor()); }));
  return best;
}

}  // namespace qtool
