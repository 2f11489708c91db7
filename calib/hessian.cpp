// SPDX-License-Identifier: Apache-2.0
#include "calib/hessian.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <vector>

#include "calib/gram_tile.h"
#include "calib/ops/scratch.h"
#include "formats/base/error.h"
#include "formats/base/widest.h"

namespace qtool {
namespace {

constexpr std::int64_t side = 2 * GramKernel::most_width;  // of a tile: both strips that meet in it fit into the cache

/// The tiles of the upper triangle, row by row; those at the right edge are narrower.
struct Tiles {
  std::int64_t n, across;
  explicit Tiles(std::int64_t width) : n(width), across(pieces(width, side)) {}
  std::int64_t count() const { return across * (across + 1) / 2; }
  std::int64_t extent(std::int64_t i) const { return std::min(side, n - i * side); }
  /// f(i, j, offset) for one tile.
  template <class F>
  void at(std::int64_t t, F f) const {
    std::int64_t i = 0, first = 0;
    while (first + across - i <= t) first += across - i++;
    const std::int64_t j = i + t - first;
    // Rows above are full strips; tiles to the left in this one have `side` columns.
    std::int64_t offset = 0;
    for (std::int64_t r = 0; r < i; ++r) offset += extent(r) * (n - r * side);
    f(i, j, offset + extent(i) * (j - i) * side);
  }
  std::int64_t elements() const {
    std::int64_t sum = 0;
    for (std::int64_t r = 0; r < across; ++r) sum += extent(r) * (n - r * side);
    return sum;
  }
};

/// Rows that are laid out in panels at a time: enough that going through all sums costs little beside forming products.
std::int64_t part_for(std::int64_t n) {
  constexpr std::int64_t few = 64;  // columns
  return n < few ? GramKernel::chain : 2 * GramKernel::chain;
}

bool is_finite(const float* x, std::int64_t n) {
  constexpr std::uint32_t exponent = 0x7f800000;
  std::uint32_t bad = 0;
  with_widest_vectors([&]() QTOOL_INLINE {
    for (std::int64_t i = 0; i < n; ++i) {
      bad |= (std::bit_cast<std::uint32_t>(x[i]) & exponent) == exponent ? 1U : 0U;
    }
  });
  return bad == 0;
}

}  // namespace

Hessian::Hessian(std::int64_t n, GramFormat format)
    : n_(std::max<std::int64_t>(n, 1)),
      part_(part_for(n_)),
      format_(format),
      sums_(DType::f64, {Tiles(n_).elements()}) {
  QTOOL_ENSURE(n > 0, "a layer has inputs");
}

void Hessian::sum(const float* rows, std::int64_t count, std::span<double> sums, Threads& threads) const {
  constexpr std::int64_t together = 32;  // rows: one page each
  const GramKernel& kernel = GramKernel::of(format_, widest_floats(), processor());
  const std::int64_t width = kernel.width, height = kernel.height;
  const std::int64_t panels = pieces(n_, width), panel = kernel.panel_bytes(count), filled = kernel.filled(count);
  const std::shared_ptr<std::byte> laid_out = scratch_of<std::byte>(panels * panel);
  std::byte* const x = laid_out.get();
  threads.for_each(count, together, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = 0; p < panels; ++p) {
      kernel.lay_out(rows + p * width, n_, std::min(width, n_ - p * width), begin, end, count, x + p * panel);
    }
  });
  const Tiles tiles(n_);
  threads.for_each(tiles.count(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      tiles.at(t, [&](std::int64_t i, std::int64_t j, std::int64_t offset) {
        const std::int64_t m = tiles.extent(i), k = tiles.extent(j);
        for (std::int64_t column = 0; column < k; column += width) {
          const std::byte* right = x + (j * side + column) / width * panel;
          const std::int64_t last = i == j ? std::min(m, column + width) : m;
          for (std::int64_t row = 0; row < last; row += height) {
            const std::int64_t place = i * side + row;
            const std::byte* left = x + place / width * panel;
            double* to = sums.data() + offset + row * k + column;
            if (row + height <= m && column + width <= k) {
              kernel.add(filled, left, place % width, right, to, k);
              continue;
            }
            double edge[GramKernel::most_height * GramKernel::most_width] = {};
            kernel.add(filled, left, place % width, right, edge, width);
            for (std::int64_t r = 0; r < std::min(height, m - row); ++r) {
              for (std::int64_t c = 0; c < std::min(width, k - column); ++c) to[r * k + c] += edge[r * width + c];
            }
          }
        }
      });
    }
  });
}

void Hessian::add(std::span<const float> rows, Threads& threads) {
  QTOOL_ENSURE(static_cast<std::int64_t>(rows.size()) % n_ == 0, "rows are as long as the Hessian is wide");
  const auto count = static_cast<std::int64_t>(rows.size()) / n_;
  std::vector<std::uint8_t> fine(static_cast<std::size_t>(count));
  threads.for_each(count, 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      fine[static_cast<std::size_t>(r)] = is_finite(rows.data() + r * n_, n_) ? 1 : 0;
    }
  });
  for (std::int64_t r = 0; r < count;) {
    if (fine[static_cast<std::size_t>(r)] == 0) {
      ++left_out_, ++r;
      continue;
    }
    std::int64_t end = r + 1;
    const std::int64_t most = r + part_ - waits_;
    while (end < std::min(count, most) && fine[static_cast<std::size_t>(end)] != 0) ++end;
    if (waits_ == 0 && end - r == part_) {
      sum(rows.data() + r * n_, part_, sums_.write<double>(), threads);
    } else {
      if (waiting_.empty()) waiting_ = Tensor::unset(DType::f32, {part_, n_});
      const auto to = waiting_.write<float>();
      std::copy_n(rows.data() + r * n_, (end - r) * n_, to.data() + waits_ * n_);
      waits_ += end - r;
      if (waits_ == part_) {
        sum(to.data(), part_, sums_.write<double>(), threads);
        waits_ = 0;
      }
    }
    rows_ += end - r;
    r = end;
  }
}

void Hessian::merge(const Hessian& other, Threads& threads) {
  QTOOL_ENSURE(other.n_ == n_, "Hessians that are added are equally wide");
  const Tensor sums = other.all(threads);
  const auto from = sums.read<double>();
  const auto to = sums_.write<double>();
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
  rows_ += other.rows_;
  left_out_ += other.left_out_;
}

void Hessian::add_independent(std::span<const double> squares, std::int64_t rows) {
  QTOOL_ENSURE(static_cast<std::int64_t>(squares.size()) == n_, "one mean square per input");
  const Tiles tiles(n_);
  const auto sums = sums_.write<double>();
  for (std::int64_t t = 0; t < tiles.count(); ++t) {
    tiles.at(t, [&](std::int64_t i, std::int64_t j, std::int64_t offset) {
      for (std::int64_t r = 0; i == j && r < tiles.extent(i); ++r) {
        sums[static_cast<std::size_t>(offset + r * tiles.extent(i) + r)] +=
            squares[static_cast<std::size_t>(i * side + r)] * static_cast<double>(rows);
      }
    });
  }
  rows_ += rows;
}

Tensor Hessian::all(Threads& threads) const {
  Tensor sums = sums_;
  if (waits_ > 0) sum(waiting_.read<float>().data(), waits_, sums.write<double>(), threads);
  return sums;
}

Tensor Hessian::matrix(Threads& threads) const {
  QTOOL_ENSURE(rows_ > 0, "a Hessian was collected");
  const Tensor sums = all(threads);
  const auto from = sums.read<double>();
  Tensor out = Tensor::unset(DType::f64, {n_, n_});
  const auto h = out.write<double>();
  const double scale = 2.0 / static_cast<double>(rows_);
  constexpr std::int64_t line = 8;  // numbers of a cache line, which are written together
  const Tiles tiles(n_);
  threads.for_each(tiles.count(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      tiles.at(t, [&](std::int64_t i, std::int64_t j, std::int64_t offset) {
        const double* tile = from.data() + offset;
        const std::int64_t width = tiles.extent(j);
        // A tile on the diagonal is taken from its upper half alone: symmetric to the last bit.
        for (std::int64_t a = 0; a < tiles.extent(i); ++a) {
          double* row = h.data() + (i * side + a) * n_ + j * side;
          for (std::int64_t b = i == j ? a : 0; b < width; ++b) row[b] = scale * tile[a * width + b];
        }
        for (std::int64_t first = 0; first < tiles.extent(i); first += line) {
          for (std::int64_t b = 0; b < width; ++b) {
            double* column = h.data() + (j * side + b) * n_ + i * side;
            const std::int64_t below = std::min(first + line, i == j ? b : tiles.extent(i));
            for (std::int64_t a = first; a < below; ++a) column[a] = scale * tile[a * width + b];
          }
        }
      });
    }
  });
  return out;
}

void Hessian::write(ByteWriter& out) const {
  out.number(rows_).number(left_out_).number(waits_).numbers(sums_.read<double>());
  const auto rows = waits_ > 0 ? waiting_.read<float>() : std::span<const float>{};
  out.numbers(rows.first(static_cast<std::size_t>(waits_ * n_)));
}

void Hessian::read(ByteReader& in) {
  rows_ = in.number<std::int64_t>();
  left_out_ = in.number<std::int64_t>();
  waits_ = in.number<std::int64_t>();
  const auto sums = in.numbers<double>();
  const auto rows = in.numbers<float>();
  const bool fits = rows_ >= 0 && left_out_ >= 0 && waits_ >= 0 && waits_ < part_ && waits_ <= rows_ &&
                    sums.size() == sums_.read<double>().size() && rows.size() == static_cast<std::size_t>(waits_ * n_);
  if (!fits) ByteReader::fail();
  std::copy(sums.begin(), sums.end(), sums_.write<double>().begin());
  if (waits_ == 0) return;
  waiting_ = Tensor::unset(DType::f32, {part_, n_});
  std::copy(rows.begin(), rows.end(), waiting_.write<float>().begin());
}

}  // namespace qtool
