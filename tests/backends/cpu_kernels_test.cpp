// SPDX-License-Identifier: Apache-2.0
// Every integer kernel against the definition, computed here element by element, and against the reference kernel:
// equal bytes for random shapes, types, transposes, zero points and numbers of threads.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <iostream>
#include <optional>
#include <random>
#include <vector>

#include "backends/cpu/cpu.h"
#include "backends/cpu/kernel.h"
#include "formats/base/threads.h"
#include "tests/backends/emulated_tiles.h"

namespace qtool {
namespace {

struct Problem {
  std::int64_t m, n, k;
  bool a_signed, b_signed, a_transposed, b_transposed;
  std::vector<std::uint8_t> a, b;
  std::vector<std::int32_t> a_zero, b_zero;
  std::int64_t a_stride, b_stride, c_stride;

  IntegerProduct product(std::vector<std::int32_t>& c) const {
    IntegerProduct p;
    p.m = m, p.n = n, p.k = k;
    p.a = {reinterpret_cast<const std::byte*>(a.data()), a_stride, a_signed, a_transposed, a_zero};
    p.b = {reinterpret_cast<const std::byte*>(b.data()), b_stride, b_signed, b_transposed, b_zero};
    p.c = c.data();
    p.c_stride = c_stride;
    return p;
  }

  std::vector<std::int32_t> result() const {
    return std::vector<std::int32_t>(static_cast<std::size_t>(m * c_stride), 7);
  }

  std::vector<std::int32_t> by_definition() const {
    std::vector<std::int32_t> c = result();
    const auto code = [](const std::vector<std::uint8_t>& x, std::int64_t i, bool is_signed) {
      const std::uint8_t v = x[static_cast<std::size_t>(i)];
      return is_signed ? static_cast<std::int64_t>(static_cast<std::int8_t>(v)) : static_cast<std::int64_t>(v);
    };
    const auto zero = [](const std::vector<std::int32_t>& z, std::int64_t i) {
      return z.empty() ? std::int64_t{0}
                       : static_cast<std::int64_t>(z[z.size() == 1 ? 0 : static_cast<std::size_t>(i)]);
    };
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        std::int64_t sum = 0;
        for (std::int64_t l = 0; l < k; ++l) {
          sum += (code(a, a_transposed ? l * a_stride + i : i * a_stride + l, a_signed) - zero(a_zero, i)) *
                 (code(b, b_transposed ? j * b_stride + l : l * b_stride + j, b_signed) - zero(b_zero, j));
        }
        c[static_cast<std::size_t>(i * c_stride + j)] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sum));
      }
    }
    return c;
  }
};

enum class Values { random, extreme };

class Problems {
 public:
  explicit Problems(std::uint32_t seed) : random_(seed) {}

  Problem make(std::int64_t m, std::int64_t n, std::int64_t k, Values values) {
    Problem p{};
    p.m = m, p.n = n, p.k = k;
    p.a_signed = coin(), p.b_signed = coin(), p.a_transposed = coin(), p.b_transposed = coin();
    p.a_stride = (p.a_transposed ? m : k) + between(0, 3);
    p.b_stride = (p.b_transposed ? k : n) + between(0, 3);
    p.c_stride = n + between(0, 3);
    p.a = codes((p.a_transposed ? k : m) * p.a_stride, values);
    p.b = codes((p.b_transposed ? n : k) * p.b_stride, values);
    p.a_zero = zeros(m, p.a_signed);
    p.b_zero = zeros(n, p.b_signed);
    return p;
  }

  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random_() % static_cast<std::uint32_t>(high - low + 1));
  }

 private:
  bool coin() { return random_() % 2 != 0; }

  std::vector<std::uint8_t> codes(std::int64_t count, Values values) {
    std::vector<std::uint8_t> out(static_cast<std::size_t>(count));
    constexpr std::uint8_t ends[] = {0, 1, 127, 128, 129, 255};  // where instructions saturate if they can
    for (std::uint8_t& v : out)
      v = values == Values::random ? static_cast<std::uint8_t>(random_()) : ends[random_() % 6];
    return out;
  }

  std::vector<std::int32_t> zeros(std::int64_t count, bool is_signed) {
    std::vector<std::int32_t> out(std::vector<std::size_t>{0, 1, static_cast<std::size_t>(count)}[random_() % 3]);
    for (std::int32_t& z : out) z = static_cast<std::int32_t>(random_() % 256) - (is_signed ? 128 : 0);
    return out;
  }

  std::mt19937 random_;
};

std::vector<const IntegerKernel*> kernels_here() {
  std::vector<const IntegerKernel*> out;
  for (const IntegerKernel* kernel : integer_kernels()) {
    if (kernel->runs(processor())) out.push_back(kernel);
  }
  return out;
}

void expect_equal_bytes(const Problem& p, const std::vector<const IntegerKernel*>& kernels) {
  const std::vector<std::int32_t> expected = p.by_definition();
  for (const IntegerKernel* kernel : kernels) {
    for (const int count : {1, 3}) {
      Threads threads(count);
      std::vector<std::int32_t> c = p.result();
      multiply_codes(*kernel, threads, p.product(c));
      CAPTURE(kernel->name);
      CAPTURE(count);
      CAPTURE(p.m);
      CAPTURE(p.n);
      CAPTURE(p.k);
      CHECK(c == expected);
    }
  }
}

}  // namespace

TEST_CASE("integer kernels give the same bytes as the definition") {
  const auto kernels = kernels_here();
  for (const IntegerKernel* kernel : integer_kernels()) {
    if (kernel->runs(processor())) continue;
    std::cout << "SKIPPED: integer kernel " << kernel->name << ": this processor has no " << kernel->needs << '\n';
  }
  Problems problems(20260101);
  for (int i = 0; i < 300; ++i) {
    const std::int64_t m = problems.between(1, 40), n = problems.between(1, 70), k = problems.between(0, 140);
    expect_equal_bytes(problems.make(m, n, k, i % 2 == 0 ? Values::random : Values::extreme), kernels);
  }
}

TEST_CASE("integer kernels agree where products are cut into tiles") {
  const auto kernels = kernels_here();
  Problems problems(20260102);
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
           {97, 300, 17}, {200, 65, 1030}, {3, 1000, 64}, {193, 17, 2049}, {1, 1, 5000}, {96, 256, 1024}}) {
    expect_equal_bytes(problems.make(m, n, k, Values::extreme), kernels);
  }
}

#if defined(__x86_64__)
TEST_CASE("the kernel on tiles gives the same bytes, its instructions emulated where they are missing") {
  if (!processor().avx512) {
    std::cout << "SKIPPED: emulated tiles: this processor has no AVX-512\n";
    return;
  }
  std::optional<test::EmulatedTiles> emulated;
  if (!processor().amx_int8) emulated.emplace();
  Problems problems(20260103);
  for (int i = 0; i < 60; ++i) {
    const std::int64_t m = problems.between(1, 100), n = problems.between(1, 70), k = problems.between(1, 300);
    expect_equal_bytes(problems.make(m, n, k, Values::extreme), {&kernel::amx});
  }
  expect_equal_bytes(problems.make(97, 150, 1100, Values::extreme), {&kernel::amx});
}
#endif

TEST_CASE("products with weights in blocks: every kernel gives the bytes of the definition") {
  std::optional<test::EmulatedTiles> emulated;
  std::vector<const IntegerKernel*> kernels = kernels_here();
  if (kernels.front() != &kernel::amx && processor().avx512) {
    emulated.emplace();
    kernels.push_back(&kernel::amx);
  }
  std::mt19937 random(20260104);
  const auto between = [&](std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random() % static_cast<std::uint32_t>(high - low + 1));
  };
  for (int i = 0; i < 60; ++i) {
    BlockProduct p;
    p.m = between(1, i % 3 == 0 ? 140 : 20), p.n = between(1, 110), p.k = between(1, 300);
    p.block = std::int64_t{16} << between(0, 4);
    p.bits = std::int64_t{2} << between(0, 2);
    p.c_stride = p.n + between(0, 3);
    const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
    std::vector<std::int8_t> a(size(p.m * p.k));
    std::vector<std::byte> b(size(p.n * p.blocks() * p.block * p.bits / 8));  // rubbish behind k too
    std::vector<float> a_scales(size(p.m * p.blocks())), b_scales(size(p.n * p.blocks())), b_zeros(b_scales.size());
    for (std::int8_t& v : a) v = static_cast<std::int8_t>(i % 2 == 0 ? between(-127, 127) : 127 - 254 * between(0, 1));
    for (std::byte& v : b) v = static_cast<std::byte>(i % 4 == 0 ? 255 : between(0, 255));
    for (float& v : a_scales) v = static_cast<float>(between(1, 1000)) / 700.0F;
    for (float& v : b_scales) v = static_cast<float>(between(-1000, 1000)) / 300.0F;
    for (float& v : b_zeros) v = static_cast<float>(between(0, (1 << p.bits) - 1));
    p.a = a.data(), p.a_scales = a_scales.data(), p.b = b.data(), p.b_scales = b_scales.data();
    p.b_zeros = b_zeros.data();
    std::vector<float> expected(size(p.m * p.c_stride), 7.0F), c;
    for (std::int64_t r = 0; r < p.m; ++r) {
      for (std::int64_t j = 0; j < p.n; ++j) {
        float y = 0;
        for (std::int64_t q = 0; q < p.blocks(); ++q) {
          const std::size_t w = size(j * p.blocks() + q);
          std::int64_t sum = 0, of_a = 0;
          for (std::int64_t l = q * p.block; l < std::min(p.k, (q + 1) * p.block); ++l) {
            const std::int64_t bit = (l - q * p.block) * p.bits;
            const auto byte = static_cast<std::int64_t>(b[w * size(p.block * p.bits / 8) + size(bit / 8)]);
            sum += a[size(r * p.k + l)] * (byte >> bit % 8 & ((1 << p.bits) - 1));
            of_a += a[size(r * p.k + l)];
          }
          y += (static_cast<float>(sum) - b_zeros[w] * static_cast<float>(of_a)) *
               (b_scales[w] * a_scales[size(r * p.blocks() + q)]);
        }
        expected[size(r * p.c_stride + j)] = y;
      }
    }
    for (const IntegerKernel* kernel : kernels) {
      for (const int count : {1, 3}) {
        Threads threads(count);
        c.assign(expected.size(), 7.0F);
        p.c = c.data();
        multiply_blocks(*kernel, threads, p);
        CAPTURE(kernel->name);
        CAPTURE(p.m);
        CAPTURE(p.n);
        CAPTURE(p.k);
        CAPTURE(p.block);
        CAPTURE(p.bits);
        CHECK(c == expected);
      }
    }
  }
}

TEST_CASE("sums beyond 32 bits wrap around in every kernel") {
  Problem p{};
  p.m = 2, p.n = 3, p.k = 140000;  // 140000 * 128 * 128 > 2^31
  p.a_signed = p.b_signed = true;
  p.a_stride = p.k, p.b_stride = p.n, p.c_stride = p.n;
  p.a.assign(static_cast<std::size_t>(p.m * p.k), 0x80);
  p.b.assign(static_cast<std::size_t>(p.k * p.n), 0x80);
  expect_equal_bytes(p, kernels_here());
}

TEST_CASE("empty extents touch nothing") {
  Problems problems(3);
  expect_equal_bytes(problems.make(5, 7, 0, Values::random), kernels_here());
  Threads threads(1);
  IntegerProduct nothing;
  nothing.k = 5;
  for (const IntegerKernel* kernel : kernels_here()) {
    multiply_codes(*kernel, threads, nothing);
    multiply_blocks(*kernel, threads, BlockProduct{});
  }
}

TEST_CASE("the best kernel is the first of the list that runs here") {
  CHECK(best_integer_kernels().name() == kernels_here().front()->name);
  CHECK(integer_kernels().back()->name == "reference");
}

}  // namespace qtool
