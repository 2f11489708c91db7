// SPDX-License-Identifier: Apache-2.0
// Sizes as people write them, limits of containers, and blocks that a ceiling moves to files.
#include "formats/base/memory.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <vector>

#include "formats/base/block_vector.h"
#include "formats/base/error.h"
#include "formats/ir/tensor.h"
#include "tests/support.h"

using namespace qtool;
using namespace qtool::test;
namespace fs = std::filesystem;

namespace {

void write(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

constexpr std::size_t mib = std::size_t{1} << 20;

}  // namespace

TEST_CASE("sizes: powers of 1024, of 1000 with B") {
  CHECK(parse_size("2000000", "x") == 2000000);
  CHECK(parse_size("512M", "x") == 512 * mib);
  CHECK(parse_size("512m", "x") == 512 * mib);
  CHECK(parse_size("1.5 GiB", "x") == 1536 * mib);
  CHECK(parse_size("4GB", "x") == 4000000000);
  CHECK(parse_size("1T", "x") == std::uint64_t{1} << 40);
  CHECK(parse_size("10B", "x") == 10);
  for (const char* bad : {"", "G", "-1G", "0", "1X", "1GG", "1iB", "nan", "inf", "1e30"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH_AS(parse_size(bad, "--max-ram"), doctest::Contains("--max-ram"), Error);
  }
  CHECK(size_text(1000) == "1000 bytes");
  CHECK(size_text(1536 * mib) == "1.5 GiB");
  CHECK(size_text(300 * mib) == "300 MiB");
}

TEST_CASE("container limit: version 1 and 2, the least of the groups around, none above the machine's memory") {
  const ScratchFolder folder;
  const fs::path root = folder.path();
  CHECK_FALSE(container_limit(root).has_value());

  write(root / "proc/self/cgroup", "5:cpu:/a\n4:memory:/a/b\n0::/c/d\n");
  write(root / "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  CHECK_FALSE(container_limit(root).has_value());
  write(root / "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "300000000\n");
  REQUIRE(container_limit(root).has_value());
  CHECK(container_limit(root)->bytes == 300000000);
  CHECK(container_limit(root)->source == "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes");
  write(root / "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "200000000\n");
  CHECK(container_limit(root)->bytes == 200000000);

  write(root / "sys/fs/cgroup/c/d/memory.max", "max\n");
  CHECK(container_limit(root)->bytes == 200000000);
  write(root / "sys/fs/cgroup/memory.max", "100000000\n");
  CHECK(container_limit(root)->bytes == 100000000);
  CHECK(container_limit(root)->source == "/sys/fs/cgroup/memory.max");
}

TEST_CASE("ceiling: blocks above it lie in files, hold what is written and leave nothing behind") {
  const ScratchFolder folder;
  {
    const MemoryCeiling ceiling(anonymous_memory() + 64 * mib, folder.path());  // 44 MiB for blocks
    std::vector<Tensor> tensors;
    for (int i = 0; i < 12; ++i) {
      Tensor t(DType::f32, {2, static_cast<std::int64_t>(mib)});
      const auto x = t.write<float>();
      CHECK(std::all_of(x.begin(), x.end(), [](float v) { return v == 0; }));
      std::fill(x.begin(), x.end(), static_cast<float>(i));
      tensors.push_back(std::move(t));
    }
    CHECK(MemoryCeiling::spilled() == 7 * 8 * mib);
    for (int i = 0; i < 12; ++i) {
      const auto x = tensors[static_cast<std::size_t>(i)].read<float>();
      CHECK(std::all_of(x.begin(), x.end(), [&](float v) { return v == static_cast<float>(i); }));
    }
    CHECK(fs::is_empty(folder.path()));
    tensors.erase(tensors.begin(), tensors.begin() + 4);  // what was on the heap
    const Tensor again(DType::f32, {2, static_cast<std::int64_t>(mib)});
    CHECK(MemoryCeiling::spilled() == 7 * 8 * mib);
    const auto small = memory_block(1000, true);
    CHECK(MemoryCeiling::spilled() == 7 * 8 * mib);
  }
  CHECK(fs::is_empty(folder.path()));
}

TEST_CASE("ceiling: vectors of blocks go to files as well, grow and are copied like others") {
  const ScratchFolder folder;
  const MemoryCeiling ceiling(anonymous_memory() + 32 * mib, folder.path());
  BlockVector<double> few(10, 1.0), many(8 * mib, 2.0);  // 64 MiB
  CHECK(MemoryCeiling::spilled() > 0);
  const BlockVector<double> copy = many;
  many.push_back(3);
  few.resize(mib, 4);
  CHECK(copy.size() + 1 == many.size());
  CHECK(std::equal(copy.begin(), copy.end(), many.begin()));
  CHECK(many.back() == 3);
  CHECK(few[9] == 1);
  CHECK(few.back() == 4);
}

TEST_CASE("ceiling: of two jobs at once the lower one holds, and the files of one outlive the other") {
  const ScratchFolder first_folder, second_folder;
  const MemoryCeiling first(anonymous_memory() + 64 * mib, first_folder.path());
  std::shared_ptr<std::byte> block;
  {
    const MemoryCeiling second(anonymous_memory() + 16 * mib, second_folder.path());
    block = memory_block(16 * mib, true);
    CHECK(MemoryCeiling::spilled() == 16 * mib);
  }
  block.get()[5] = std::byte{1};
  CHECK(block.get()[5] == std::byte{1});
  CHECK(memory_block(64 * mib, true).get()[7] == std::byte{0});
  CHECK(MemoryCeiling::spilled() == 80 * mib);
}

TEST_CASE("ceiling: what is to last leaves the heap to others; without room on the disk it says so") {
  const ScratchFolder folder;
  const fs::path gone = folder.path() / "gone";
  const MemoryCeiling ceiling(anonymous_memory() + 64 * mib, gone);
  const auto first = memory_block(8 * mib, false, Lasting::yes);
  CHECK(MemoryCeiling::spilled() == 0);
  CHECK_THROWS_WITH_AS(memory_block(8 * mib, false, Lasting::yes), doctest::Contains("8.0 MiB of scratch"), Error);
  CHECK_NOTHROW(memory_block(8 * mib, false));
}
