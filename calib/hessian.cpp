// SPDX-License-Identifier: Apache-2.0
#include "calib/hessian.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "calib/linalg.h"
#include "calib/ops/scratch.h"
#include "formats/base/error.h"
#include "formats/base/widest.h"

namespace qtool {
namespace {

constexpr std::int64_t side = 512;  // of a tile

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

/// Few enough that sums in float32 stay exact to a few units in the last place and that they fit into 64 MiB; many
/// enough that adding up products costs little beside forming them.
std::int64_t part_for(std::int64_t n) {
  constexpr std::int64_t most_rows = 8192, least_rows = 512, most_numbers = 1 << 24, per_column = 16;
  return std::clamp(std::min(most_numbers / n, per_column * n), least_rows, most_rows);
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

Hessian::Hessian(std::int64_t n)
    : n_(std::max<std::int64_t>(n, 1)), part_(part_for(n_)), sums_(DType::f64, {Tiles(n_).elements()}) {
  QTOOL_ENSURE(n > 0, "a layer has inputs");
}

void Hessian::sum(const float* rows, std::int64_t count, std::span<double> sums, Threads& threads) const {
  const Tiles tiles(n_);
  threads.for_each(tiles.count(), 1, [&](std::int64_t begin, std::int64_t end) {
    Scratch scratch;
    for (std::int64_t t = begin; t < end; ++t) {
      tiles.at(t, [&](std::int64_t i, std::int64_t j, std::int64_t offset) {
        const std::int64_t m = tiles.extent(i), k = tiles.extent(j);
        float* product = scratch.get(m * k);
        gemm(threads, true, false, m, k, count, 1.0F, rows + i * side, n_, rows + j * side, n_, 0.0F, product, k);
        double* to = sums.data() + offset;
        with_widest_vectors([&]() QTOOL_INLINE {
          for (std::int64_t e = 0; e < m * k; ++e) to[e] += static_cast<double>(product[e]);
        });
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
  const Tiles tiles(n_);
  threads.for_each(tiles.count(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      tiles.at(t, [&](std::int64_t i, std::int64_t j, std::int64_t offset) {
        const double* tile = from.data() + offset;
        const std::int64_t width = tiles.extent(j);
        for (std::int64_t a = 0; a < tiles.extent(i); ++a) {
          // A tile on the diagonal is taken from its upper half alone: symmetric to the last bit.
          for (std::int64_t b = i == j ? a : 0; b < width; ++b) {
            const double x = scale * tile[a * width + b];
            const auto row = i * side + a, column = j * side + b;
            h[static_cast<std::size_t>(row * n_ + column)] = x;
            h[static_cast<std::size_t>(column * n_ + row)] = x;
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
