// SPDX-License-Identifier: Apache-2.0
// The solver of GPTQ against a transcription of the papers in PyTorch float64 (tests/oracle/gptq_codes.py): every code.
#include <doctest/doctest.h>

#include <array>

#include "calib/data/npz.h"
#include "passes/solve/columns.h"
#include "tests/support.h"

using namespace qtool;
using namespace qtool::solve;

namespace {

/// One row of the golden file's table.
struct Task {
  std::uint64_t seed;
  std::int64_t m, n, t, bits, kind, group, dynamic, order, damp, clip;

  std::int64_t width() const { return group > 0 ? group : n; }
  std::int64_t planes() const { return (n + width() - 1) / width(); }
  QuantSpec decision() const {
    enum : std::int64_t { asymmetric, restricted, reference };
    QuantSpec spec;
    spec.format = find_number((kind == restricted ? "int" : "uint") + std::to_string(bits));
    spec.symmetric = kind != asymmetric;
    spec.narrow = kind == restricted;
    return spec;
  }
};

std::vector<double> numbers(std::uint64_t seed, std::int64_t count) {
  std::vector<double> out;
  for (std::int64_t i = 0; i < count; ++i) {
    seed = 6364136223846793005ULL * seed + 1442695040888963407ULL;
    out.push_back(2 * (static_cast<double>(seed >> 11) / 9007199254740992.0) - 1);
  }
  return out;
}

Tensor hessian_of(const Task& task) {
  std::vector<double> x = numbers(task.seed, task.t * task.n);
  Tensor h(DType::f64, {task.n, task.n});
  const auto out = h.write<double>();
  for (std::int64_t r = 0; r < task.t; ++r) {
    double* row = x.data() + r * task.n;
    for (std::int64_t j = 0; j < task.n; ++j) row[j] *= static_cast<double>(1 + j % 7);
    for (std::int64_t j = 1; j < task.n; ++j) row[j] += 0.6 * row[j - 1];
    row[task.n / 3] = 0;
    for (std::int64_t i = 0; i < task.n; ++i) {
      for (std::int64_t j = 0; j < task.n; ++j) {
        out[static_cast<std::size_t>(i * task.n + j)] += 2.0 / static_cast<double>(task.t) * row[i] * row[j];
      }
    }
  }
  return h;
}

std::vector<float> weights_of(const Task& task) {
  const std::vector<double> drawn = numbers(task.seed + 1, task.m * task.n);
  std::vector<float> w(drawn.size());
  for (std::int64_t r = 0; r < task.m; ++r) {
    for (std::int64_t c = 0; c < task.n; ++c) {
      w[static_cast<std::size_t>(c * task.m + r)] =
          static_cast<float>(drawn[static_cast<std::size_t>(r * task.n + c)] * 0.1);
    }
  }
  return w;
}

}  // namespace

TEST_CASE("codes, scales and losses are those of GPTQ in PyTorch float64") {
  const NpzFile file(test::source_dir() / "tests/golden/torch/gptq.npz");
  const Tensor table = file.read("problems"), all_codes = file.read("codes"), all_scales = file.read("scales"),
               all_zeros = file.read("zeros"), all_losses = file.read("losses");
  auto codes = all_codes.read<std::int16_t>();
  auto scales = all_scales.read<float>();
  auto zeros = all_zeros.read<std::int16_t>();
  auto losses = all_losses.read<double>();
  const auto fields = table.read<std::int64_t>();
  Threads threads(2);
  constexpr std::size_t width = 11;
  REQUIRE(table.shape() == Shape{table.shape()[0], width});
  for (std::size_t i = 0; i < fields.size(); i += width) {
    const auto f = fields.subspan(i, width);
    const Task task{static_cast<std::uint64_t>(f[0]), f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9], f[10]};
    CAPTURE(task.bits);
    CAPTURE(task.kind);
    CAPTURE(task.group);
    CAPTURE(task.order);
    constexpr std::array orders{Order::none, Order::act, Order::gar};
    const Tensor h = hessian_of(task);
    const std::vector<float> w = weights_of(task);
    const Conditioned c = condition(threads, h, task.t, static_cast<double>(task.damp) / 1000,
                                    orders.at(static_cast<std::size_t>(task.order)), task.width());
    REQUIRE(c.factored);
    CHECK(c.dead == 1);
    std::vector<std::int32_t> plane;
    for (std::int64_t k = 0; k < task.n; ++k) plane.push_back(static_cast<std::int32_t>(k / task.width()));
    Grid grid(task.decision(), task.m, plane);
    const Clip clip{task.clip != 0 ? Clip::Kind::weighted : Clip::Kind::minmax};
    const bool plain = task.kind != 2;  // the reference's symmetric scales are not ours: they are taken as they are
    for (std::int64_t p = 0; p < task.planes() && task.dynamic == 0; ++p) {
      const std::int64_t begin = p * task.width(), columns = std::min(task.width(), task.n - begin);
      std::vector<double> part(static_cast<std::size_t>(columns * columns));
      for (std::int64_t k = 0; k < columns; ++k) {
        part[static_cast<std::size_t>(k * columns + k)] = c.diagonal[static_cast<std::size_t>(begin + k)];
      }
      if (plain) {
        grid.fit(p, 0, task.m, columns, w.data() + begin * task.m, task.m, part.data(), clip);
        continue;
      }
      for (std::size_t r = 0; r < static_cast<std::size_t>(task.m); ++r) {
        const std::size_t at = static_cast<std::size_t>(p * task.m) + r;
        grid.scale(p)[r] = scales[at];
        grid.zero(p)[r] = zeros[at];
      }
    }
    for (const std::int64_t block : {128, 40}) {
      Grid own = grid;
      const Solved s = quantize_columns(threads, w, own, c, {block, task.dynamic != 0, clip, h.read<double>()});
      std::int64_t other = 0;
      const double close = c.u.dtype() == DType::f32 ? 1e-3 : 1e-5;
      for (std::int64_t r = 0; r < task.m; ++r) {
        CHECK(s.loss[static_cast<std::size_t>(r)] ==
              doctest::Approx(losses[static_cast<std::size_t>(r)]).epsilon(close));
        for (std::int64_t k = 0; k < task.n; ++k) {
          if (s.codes[static_cast<std::size_t>(k * task.m + r)] != codes[static_cast<std::size_t>(r * task.n + k)]) {
            ++other;
          }
        }
        for (std::int64_t p = 0; p < task.planes(); ++p) {
          const auto row = static_cast<std::size_t>(r), at = static_cast<std::size_t>(p * task.m + r);
          CHECK(own.scale(p)[row] == doctest::Approx(scales[at]).epsilon(1e-6));
          CHECK(own.zero(p)[row] == static_cast<float>(zeros[at]));
        }
      }
      CAPTURE(other);
      CHECK(other == 0);
    }
    codes = codes.subspan(static_cast<std::size_t>(task.m * task.n));
    scales = scales.subspan(static_cast<std::size_t>(task.m * task.planes()));
    zeros = zeros.subspan(static_cast<std::size_t>(task.m * task.planes()));
    losses = losses.subspan(static_cast<std::size_t>(task.m));
  }
  CHECK(codes.empty());
}
