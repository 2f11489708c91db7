// SPDX-License-Identifier: Apache-2.0
#include "calib/side_by_side.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "calib/data/npz.h"
#include "calib/dataset_run.h"
#include "formats/base/error.h"
#include "formats/base/rng.h"
#include "formats/ir/text.h"
#include "tests/support.h"

using namespace qtool;

TEST_CASE("stages of one number are entered in the order of the items, whatever the items take") {
  for (const int threads : {1, 2, 4}) {
    Threads pool(threads);
    for (const std::int64_t count : {0, 1, 2, 3, 7, 40}) {
      CAPTURE(threads);
      CAPTURE(count);
      std::vector<std::vector<std::int64_t>> seen(3);
      std::vector<std::int64_t> ends;
      side_by_side(pool, count, 1, [&](std::int64_t item, Turn& turn) {
        for (auto& stage : seen) {
          if ((item + static_cast<std::int64_t>(&stage - seen.data())) % 3 == 0) std::this_thread::yield();
          turn.in_order([&] { stage.push_back(item); });
        }
        turn.last([&] { ends.push_back(item); });
      });
      for (const auto& stage : {seen[0], seen[1], seen[2], ends}) {
        REQUIRE(static_cast<std::int64_t>(stage.size()) == count);
        for (std::int64_t i = 0; i < count; ++i) CHECK(stage[static_cast<std::size_t>(i)] == i);
      }
    }
  }
}

TEST_CASE("items without a common number of stages keep their order too") {
  Threads pool(3);
  std::vector<std::int64_t> seen;
  std::mutex mutex;
  side_by_side(pool, 12, 1, [&](std::int64_t item, Turn& turn) {
    for (std::int64_t stage = 0; stage < 1 + item % 3; ++stage) {
      turn.in_order([&] {
        const std::lock_guard lock(mutex);
        if (stage == 0) seen.push_back(item);
      });
    }
  });
  CHECK(seen == std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
}

TEST_CASE("the lowest item that fails is the one whose error is told, and nothing behind it counts") {
  for (const int threads : {1, 2, 4}) {
    Threads pool(threads);
    std::atomic<std::int64_t> passed{0};
    std::string what;
    try {
      side_by_side(pool, 50, 1, [&](std::int64_t item, Turn& turn) {
        turn.in_order([&] {
          if (item >= 5) throw Error(Code::calibration, "item " + std::to_string(item));
          ++passed;
        });
      });
    } catch (const Error& e) {
      what = e.what();
    }
    CHECK(what == "item 5");
    CHECK(passed == 5);
  }
}

TEST_CASE("items too large to lie in memory together run one after the other") {
  Threads pool(4);
  std::atomic<int> inside{0}, most{0};
  side_by_side(pool, 8, 1e9, [&](std::int64_t, Turn&) {
    most = std::max(most.load(), ++inside);
    std::this_thread::yield();
    --inside;
  });
  CHECK(most == 1);
}

TEST_CASE("values of a data set are seen in the order of its batches") {
  const test::ScratchFolder folder;
  const Graph g = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
    m (float[1, 4] x) => (float[1, 4] b) { a = Relu(x) b = Neg(a) })");
  constexpr std::int64_t samples = 37;
  Tensor x(DType::f32, {samples, 4});
  const Rng rng(1, "side_by_side_test", "x");
  for (std::size_t i = 0; i < x.write<float>().size(); ++i) x.write<float>()[i] = static_cast<float>(rng.normal(i));
  write_npz(folder / "x.npz", {{"x", x}});
  DataOptions options;
  options.path = (folder / "x.npz").string();
  const auto data = open_dataset(g, options);
  REQUIRE(data->batches() == samples);
  for (const int threads : {1, 2, 3}) {
    Threads pool(threads);
    const Executor executor(g, Reading::reference, pool);
    const std::vector<ValueId> wanted{*g.find_value("a"), *g.find_value("b")};
    std::map<ValueId, std::vector<float>> seen{{wanted[0], {}}, {wanted[1], {}}};
    std::vector<std::int64_t> done;
    run_dataset(
        g, executor, *data, pool, wanted,
        [&](std::int64_t, ValueId v, const Tensor& t) {
          const auto values = t.read<float>();
          seen.at(v).insert(seen.at(v).end(), values.begin(), values.end());
        },
        0, [&](std::int64_t n, std::int64_t) { done.push_back(n); });
    REQUIRE(seen.at(wanted[0]).size() == static_cast<std::size_t>(x.count()));
    for (std::size_t i = 0; i < static_cast<std::size_t>(x.count()); ++i) {
      const float v = std::max(x.read<float>()[i], 0.0F);
      CHECK(seen.at(wanted[0])[i] == v);
      CHECK(seen.at(wanted[1])[i] == -v);
    }
    for (std::size_t i = 0; i < done.size(); ++i) CHECK(done[i] == static_cast<std::int64_t>(i) + 1);
    CHECK(done.size() == static_cast<std::size_t>(samples));
  }
}
