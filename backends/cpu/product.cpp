// SPDX-License-Identifier: Apache-2.0
// What all integer kernels share: operands are packed once, the result is cut into tiles by its shape alone, and zero
// points are taken out of the sums by the sums of rows and columns:
//   sum (a - za)(b - zb) = sum ab - za (sum b - k zb) - zb sum a
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "backends/cpu/cpu.h"
#include "backends/cpu/kernel.h"
#include "formats/base/error.h"
#include "formats/base/threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qtool {
namespace {

// A tile of sums and the rows and panels that meet in it should stay in the second-level cache.
constexpr std::int64_t tile_rows = 96, tile_depth = 1024, least_panels = 4, most_panels = 8, panel_bytes = 256 * 1024;
// Tasks that one product should have at least, so that several threads find work; more would pack panels more often.
constexpr std::int64_t wanted_tasks = 4;
constexpr std::int64_t pack_bytes = 1 << 16;  // rows per task

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

/// Four rows of 16 columns, interleaved.
#if defined(__x86_64__)
void interleave(__m128i r0, __m128i r1, __m128i r2, __m128i r3, std::uint8_t* to) {
  const __m128i low01 = _mm_unpacklo_epi8(r0, r1), high01 = _mm_unpackhi_epi8(r0, r1);
  const __m128i low23 = _mm_unpacklo_epi8(r2, r3), high23 = _mm_unpackhi_epi8(r2, r3);
  auto* out = reinterpret_cast<__m128i*>(to);
  _mm_storeu_si128(out, _mm_unpacklo_epi16(low01, low23));
  _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(low01, low23));
  _mm_storeu_si128(out + 2, _mm_unpacklo_epi16(high01, high23));
  _mm_storeu_si128(out + 3, _mm_unpackhi_epi16(high01, high23));
}
#endif

/// Packs the columns of the right operand from `first` on as signed codes, `columns` of at most 16, `depth` rows.
class PanelPacker {
 public:
  PanelPacker(const IntegerProduct& p, std::int64_t depth)
      : b_(p.b), k_(p.k), depth_(depth), n_(p.n), flip_(p.b.is_signed ? 0 : 0x80) {}

  void pack(std::int64_t panel, std::uint8_t* to) const {
    const std::int64_t first = panel * panel_columns, columns = std::min(panel_columns, n_ - first);
    if (b_.transposed) return transposed(first, columns, to);
    std::int64_t l = 0;
    if (b_.rows != nullptr) {
      const std::uint8_t *left = codes() + b_.columns[first / 8], *right = codes() + b_.columns[first / 8 + 1];
      for (; l < k_; l += 4, to += 4 * panel_columns) {
        std::memcpy(to, left + b_.rows[l / 4], 2 * panel_columns);
        std::memcpy(to + 2 * panel_columns, right + b_.rows[l / 4], 2 * panel_columns);
      }
    }
#if defined(__x86_64__)
    if (b_.rows == nullptr && columns == panel_columns) {
      const __m128i mask = _mm_set1_epi8(static_cast<char>(flip_));
      const std::uint8_t* from = codes() + first;
      const auto row = [&](std::int64_t r) {
        return _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + r * b_.stride)), mask);
      };
      for (; l + 4 <= k_; l += 4, to += 4 * panel_columns) interleave(row(l), row(l + 1), row(l + 2), row(l + 3), to);
    }
#endif
    for (; l < depth_; l += 4, to += 4 * panel_columns) {
      std::memset(to, 0, 4 * panel_columns);
      for (std::int64_t i = 0; i < std::min<std::int64_t>(k_ - l, 4); ++i) {
        for (std::int64_t j = 0; j < columns; ++j) to[4 * j + i] = element(l + i, first + j) ^ flip_;
      }
    }
  }

 private:
  const std::uint8_t* codes() const { return reinterpret_cast<const std::uint8_t*>(b_.codes); }

  std::uint8_t element(std::int64_t l, std::int64_t j) const { return codes()[l * b_.stride + j]; }

  void transposed(std::int64_t first, std::int64_t columns, std::uint8_t* to) const {
    const std::int64_t whole = k_ / 4 * 4;
    if (columns < panel_columns || whole < depth_) std::memset(to, 0, at(depth_ * panel_columns));
    const std::uint32_t flips = 0x01010101U * flip_;
    for (std::int64_t j = 0; j < columns; ++j) {
      const std::uint8_t* column = codes() + (first + j) * b_.stride;
      std::uint8_t* out = to + 4 * j;
      for (std::int64_t l = 0; l < whole; l += 4) {
        std::uint32_t four = 0;
        std::memcpy(&four, column + l, sizeof four);
        four ^= flips;
        std::memcpy(out + l * panel_columns, &four, sizeof four);
      }
      for (std::int64_t l = whole; l < k_; ++l) out[whole * panel_columns + l % 4] = column[l] ^ flip_;
    }
  }

  const CodeMatrix& b_;
  std::int64_t k_, depth_, n_;
  std::uint8_t flip_;
};

/// Zero points of the codes as packed: those of one type moved by `shift`.
class ZeroPoints {
 public:
  ZeroPoints(std::span<const std::int32_t> given, std::int64_t count, std::int32_t shift)
      : given_(given), shift_(static_cast<std::uint32_t>(shift)) {
    QTOOL_ENSURE(given.size() <= 1 || static_cast<std::int64_t>(given.size()) == count,
                 "zero points are none, one, or one per row or column");
    const auto other = std::find_if(given.begin(), given.end(), [&](std::int32_t z) { return z != given[0]; });
    if (!given.empty() && other == given.end()) given_ = given.first(1);
  }
  bool one() const { return given_.size() <= 1; }
  std::uint32_t operator[](std::int64_t i) const {
    return (given_.empty() ? 0 : static_cast<std::uint32_t>(given_[one() ? 0 : at(i)])) + shift_;
  }

 private:
  std::span<const std::int32_t> given_;
  std::uint32_t shift_;
};

/// Sums of the columns of the tile's panels: their product with a row of ones.
void add_columns(const IntegerKernel& kernel, KernelTile t, const std::int8_t* codes, std::int64_t depth,
                 std::vector<std::uint32_t>& to) {
  const std::vector<std::uint8_t> ones(at(kernel.row_step * std::min(depth, tile_depth)), 1);
  t.rows = kernel.row_step;
  for (std::int64_t l = 0; l < depth; l += tile_depth) {
    t.depth = std::min(tile_depth, depth - l);
    t.a = ones.data();
    t.a_stride = t.depth;
    t.b = t.rows_of_b == nullptr ? codes + l * panel_columns : codes;
    t.add = l > 0;
    kernel.multiply(t);
    if (t.rows_of_b != nullptr) t.rows_of_b += tile_depth / 4;
  }
  std::copy(t.sums, t.sums + t.panels * panel_columns, to.begin());
}

/// Columns [first, first + columns) of rows whose lines lose their tails; `from`: [rows, columns].
template <class T>
void copy_lines(const IntegerProduct& p, const T* from, std::int64_t rows, std::int64_t first, std::int64_t columns,
                T* to) {
  for (std::int64_t r = 0; r < rows; ++r, from += columns, to += p.c_stride) {
    for (std::int64_t j = 0; j < columns;) {
      const std::int64_t line = (first + j) / p.line, place = (first + j) % p.line;
      const std::int64_t n = std::min(p.line - place, columns - j);
      std::copy_n(from + j, std::clamp<std::int64_t>(p.kept - place, 0, n), to + line * p.kept + place);
      j += n;
    }
  }
}

/// A tile of the result, from (row, column) on, in its last form. `lines`: working memory.
void finish_tile(const IntegerKernel& kernel, const IntegerProduct& p, KernelResult f, std::int64_t row,
                 std::int64_t column, std::vector<std::byte>& lines) {
  const bool whole = p.line == p.kept;
  const auto write = [&](auto* KernelResult::*result, auto* to) {
    using T = std::remove_pointer_t<decltype(to)>;
    to += row * p.c_stride;
    f.c_stride = whole ? p.c_stride : f.columns;
    if (!whole) lines.resize(at(f.rows * f.columns) * sizeof(T));
    f.*result = whole ? to + column : reinterpret_cast<T*>(lines.data());
    kernel.finish(f);
    if (!whole) copy_lines<T>(p, f.*result, f.rows, column, f.columns, to);
  };
  if (p.scaling == nullptr) return write(&KernelResult::c, reinterpret_cast<std::uint32_t*>(p.c));
  const SumScaling& s = *p.scaling;
  (s.by_row ? f.row_scales : f.column_scales) = s.scales + (s.by_row ? row : column);
  f.zero_point = s.zero_point;
  f.low = s.low;
  f.high = s.high;
  if (s.codes != nullptr) return write(&KernelResult::codes, s.codes);
  write(&KernelResult::floats, s.floats);
}

}  // namespace

void multiply_codes(const IntegerKernel& kernel, Threads& threads, const IntegerProduct& p) {
  if (p.m <= 0 || p.n <= 0) return;
  if (p.k <= 0) {
    QTOOL_ENSURE(p.scaling == nullptr, "sums of nothing are not scaled here");
    for (std::int64_t i = 0; i < p.m; ++i) std::fill_n(p.c + i * p.c_stride, p.n, 0);
    return;
  }
  const ZeroPoints za(p.a.zero_points, p.m, p.a.is_signed ? 128 : 0),
      zb(p.b.zero_points, p.n, p.b.is_signed ? 0 : -128);
  QTOOL_ENSURE(p.b.rows == nullptr || (p.b.is_signed && p.k % 4 == 0), "an image lies as kernels read it");
  const Rows rows = pack_rows(kernel, threads, p);
  const bool of_columns = !za.one() || za[0] != 0;
  // Where both zero points are one number, what is taken out is a number per row plus a number per column.
  const bool simple = za.one() && zb.one();
  const SumScaling* const s = p.scaling;
  const auto bias = [&](bool of_rows, std::int64_t i) {
    return s == nullptr || s->bias == nullptr || s->by_row != of_rows ? 0U : static_cast<std::uint32_t>(s->bias[i]);
  };
  const auto by_row = std::make_unique<std::uint32_t[]>(at(p.m));
  for (std::int64_t i = 0; i < p.m; ++i) {
    by_row[at(i)] = bias(true, i) - (simple ? zb[0] * rows.sums[at(i)] : 0U);
  }

  const std::int64_t all_panels = round_up(p.n, panel_columns) / panel_columns;
  const std::int64_t depth = round_up(p.k, kernel.depth_step), all_tiles = round_up(p.m, tile_rows) / tile_rows;
  // A task packs its panels and multiplies them with its rows: all of them, or what gives every thread something to do.
  std::int64_t width = std::clamp<std::int64_t>(panel_bytes / (depth * panel_columns), least_panels, most_panels);
  width = std::min(round_up(all_panels, width) / width >= wanted_tasks ? width : least_panels, all_panels);
  const std::int64_t across = round_up(all_panels, width) / width;
  const std::int64_t tiles = std::max<std::int64_t>(1, all_tiles * across / wanted_tasks);  // of rows, per task
  const std::int64_t down = round_up(all_tiles, tiles) / tiles;
  const PanelPacker packer(p, depth);
  const bool gathers = kernel.gathers && p.b.rows != nullptr;

  threads.for_each(down * across, 1, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t stride = width * panel_columns;
    const auto packed = memory<std::int8_t>(gathers ? 0 : depth * stride);
    const auto* const codes = gathers ? reinterpret_cast<const std::int8_t*>(p.b.codes) : packed.get();
    const auto sums = memory<std::int32_t>(round_up(std::min(tile_rows, p.m), kernel.row_step) * stride);
    std::vector<std::uint32_t> column_sums(at(stride)), by_column(at(stride));
    std::vector<std::byte> lines;
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t panel = task / down * width, column = panel * panel_columns;
      KernelTile t;
      t.panels = std::min(width, all_panels - panel);
      t.b_stride = depth * panel_columns;
      t.sums = sums.get();
      t.sums_stride = stride;
      for (std::int64_t i = 0; i < t.panels && !gathers; ++i) {
        packer.pack(panel + i, reinterpret_cast<std::uint8_t*>(packed.get() + i * t.b_stride));
      }
      if (gathers) {
        t.b_stride = 0;
        t.columns_of_b = p.b.columns + column / 8;
        t.rows_of_b = p.b.rows;
      }
      const std::int64_t columns = std::min(t.panels * panel_columns, p.n - column);
      for (std::int64_t j = 0; j < columns; ++j) by_column[at(j)] = bias(false, column + j);
      if (of_columns) {
        add_columns(kernel, t, codes, depth, column_sums);
        const auto k = static_cast<std::uint32_t>(p.k);
        for (std::int64_t j = 0; j < columns; ++j) {
          column_sums[at(j)] -= k * zb[column + j];
          if (simple) by_column[at(j)] -= za[0] * column_sums[at(j)];
        }
      }
      const std::int64_t first = task % down * tiles * tile_rows, last = std::min(p.m, first + tiles * tile_rows);
      for (std::int64_t row = first; row < last; row += tile_rows) {
        t.rows = round_up(std::min(tile_rows, last - row), kernel.row_step);
        t.a_stride = rows.stride;
        for (std::int64_t l = 0; l < depth; l += tile_depth) {
          t.a = rows.codes.get() + row * rows.stride + l;
          t.b = gathers ? codes : codes + l * panel_columns;
          if (gathers) t.rows_of_b = p.b.rows + l / 4;
          t.depth = std::min(tile_depth, depth - l);
          t.add = l > 0;
          kernel.multiply(t);
        }
        const std::int64_t count = std::min(tile_rows, last - row);
        if (!simple) {
          for (std::int64_t i = 0; i < count; ++i) {
            for (std::int64_t j = 0; j < columns; ++j) {
              auto& sum = reinterpret_cast<std::uint32_t&>(sums[at(i * stride + j)]);
              sum -= za[row + i] * column_sums[at(j)] + zb[column + j] * rows.sums[at(row + i)];
            }
          }
        }
        KernelResult f{reinterpret_cast<const std::uint32_t*>(sums.get()), by_row.get() + row, by_column.data()};
        f.rows = count;
        f.columns = columns;
        f.sums_stride = stride;
        finish_tile(kernel, p, f, row, column, lines);
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

}  // namespace

std::span<const IntegerKernel* const> integer_kernels() { return all; }

const IntegerKernels& best_integer_kernels() {
  static const OnKernel best(
      **std::find_if(all.begin(), all.end(), [](const IntegerKernel* k) { return k->runs(processor()); }));
  return best;
}

}  // namespace qtool
