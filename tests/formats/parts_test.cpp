// SPDX-License-Identifier: Apache-2.0
// Constants in parts: what is made when it is read, what lies in files, and codes and ranges that need no tensor whole.
#include "formats/ir/parts.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/rng.h"
#include "formats/file/reader.h"
#include "tests/support.h"

using namespace qtool;

namespace {

std::vector<std::byte> some_bytes(std::size_t n) {
  std::vector<std::byte> bytes(n);
  for (std::size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::byte>(i * 37 + i / 251);
  return bytes;
}

/// Bytes of some_bytes() in parts, and how often they were made.
struct Maker {
  std::vector<std::byte> bytes;
  std::shared_ptr<std::atomic<int>> calls = std::make_shared<std::atomic<int>>(0);

  Tensor tensor(std::size_t part) const {
    const auto make = [all = bytes, n = calls](std::size_t from, std::span<std::byte> out) {
      ++*n;
      std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(from), out.size(), out.begin());
    };
    return Tensor(DType::u8, {static_cast<std::int64_t>(bytes.size())}, Buffer::made(bytes.size(), {part, make}));
  }
};

Tensor plain(const std::vector<std::byte>& bytes) {
  Tensor t(DType::u8, {static_cast<std::int64_t>(bytes.size())});
  std::copy(bytes.begin(), bytes.end(), t.write_bytes().begin());
  return t;
}

Tensor normals(Shape shape, std::uint64_t seed) {
  Tensor x(DType::f32, std::move(shape));
  const Rng rng(seed);
  std::uint64_t next = 0;
  for (float& v : x.write<float>()) v = static_cast<float>(rng.normal(next++));
  return x;
}

/// The scale of an element, counted out.
std::size_t scale_of(const Grain& g, const Shape& shape, std::int64_t row, std::int64_t column) {
  const std::int64_t across = g.kind == Grain::Kind::blocks
                                  ? (shape[1] + g.group2 - 1) / g.group2
                                  : (shape[1] + g.group - 1) / std::max<std::int64_t>(1, g.group);
  switch (g.kind) {
    case Grain::Kind::tensor: return 0;
    case Grain::Kind::axis: return static_cast<std::size_t>(g.axis == 0 ? row : column);
    case Grain::Kind::groups:
      return static_cast<std::size_t>(g.axis == 0 ? row / g.group * shape[1] + column
                                                  : row * across + column / g.group);
    case Grain::Kind::blocks: return static_cast<std::size_t>(row / g.group * across + column / g.group2);
  }
  return 0;
}

const Grain grains[] = {{},
                        {Grain::Kind::axis, 0, 0, 0},
                        {Grain::Kind::axis, 1, 0, 0},
                        {Grain::Kind::groups, 0, 32, 0},
                        {Grain::Kind::groups, 1, 32, 0},
                        {Grain::Kind::groups, 0, 1000, 0},
                        {Grain::Kind::blocks, 0, 16, 48}};

/// As a part of a file, at an odd address.
Tensor in_file(const Tensor& x, const std::filesystem::path& path) {
  {
    std::ofstream out(path, std::ios::binary);
    out.put('x');
    out.write(reinterpret_cast<const char*>(x.bytes().data()), static_cast<std::streamsize>(x.size_bytes()));
  }
  const MappedFile file(path);
  return Tensor(x.dtype(), x.shape(), Buffer::view(file.bytes().subspan(1), file));
}

}  // namespace

TEST_CASE("bytes that are made when they are read are those of a tensor that holds them") {
  const Maker maker{some_bytes(1000003)};
  const Tensor held = plain(maker.bytes);
  Tensor made = maker.tensor(7);
  CHECK(made.size_bytes() == held.size_bytes());
  CHECK(made.address() == nullptr);
  CHECK(*maker.calls == 0);
  CHECK(made.digest() == held.digest());
  std::vector<std::byte> part(700);
  made.read(1400, part);
  CHECK(std::memcmp(part.data(), maker.bytes.data() + 1400, part.size()) == 0);
  CHECK_THROWS_AS(made.read(1401, part), Error);

  const int before = *maker.calls;
  Tensor first = made, second = made;
  CHECK(first.align());
  CHECK(second.align());
  CHECK(first.bytes().data() == second.bytes().data());
  CHECK(*maker.calls == before + 1);
  CHECK(made.same_bytes(held));
  Tensor changed = made;
  changed.write_bytes()[5] = std::byte{1};
  CHECK(!changed.same_bytes(made));
  CHECK(made.same_bytes(held));
  CHECK(made.bytes().data() == made.bytes().data());
}

TEST_CASE("ranges, codes and what they mean, part by part, are those of every element alone") {
  const Shape shape{301, 700};
  const test::ScratchFolder folder;
  for (const DType dtype : {DType::f32, DType::f16}) {
    const Tensor x = from_f32(normals(shape, 3), dtype), file = in_file(x, folder.path() / "x.bin");
    const Tensor floats = to_f32(x);
    const auto v = floats.read<float>();
    for (const Grain& grain : grains) {
      CAPTURE(static_cast<int>(grain.kind));
      CAPTURE(grain.axis);
      std::vector<float> low, high;
      ranges_of(file, grain, low, high);
      std::vector<float> least(low.size(), INFINITY), most(low.size(), -INFINITY);
      for (std::size_t i = 0; i < v.size(); ++i) {
        const std::size_t s =
            scale_of(grain, shape, static_cast<std::int64_t>(i) / 700, static_cast<std::int64_t>(i) % 700);
        least[s] = std::min(least[s], v[i]);
        most[s] = std::max(most[s], v[i]);
      }
      REQUIRE(low == least);
      REQUIRE(high == most);

      QuantSpec spec;
      spec.format = &number::uint4;
      spec.symmetric = false;
      spec.grain = grain;
      set_scales(spec, low, high, shape);
      const Tensor made = nearest_codes(file, spec);
      CHECK(made.address() == nullptr);
      const auto scale = spec.scale.read<float>();
      const auto zero = spec.zero_point.read<std::int32_t>();
      const Tensor all = quantize(floats, spec), meant = dequantize(all, spec);
      const auto codes = all.read<std::uint8_t>();
      const auto means = meant.read<float>();
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < v.size(); ++i) {
        const std::size_t s =
            scale_of(grain, shape, static_cast<std::int64_t>(i) / 700, static_cast<std::int64_t>(i) % 700);
        const float code = std::clamp(std::nearbyint(v[i] / scale[s]) + static_cast<float>(zero[s]), 0.0F, 15.0F);
        wrong += static_cast<float>(codes[i]) == code ? 0 : 1;
        wrong += means[i] == scale[s] * (code - static_cast<float>(zero[s])) ? 0 : 1;
      }
      CHECK(wrong == 0);
      CHECK(made.digest() == all.digest());
      spec.codes = made;
      std::size_t next = 0;
      bool same = true;
      for_each_coded(file, spec, [&](const CodedPart& part) {
        same = same && part.begin == next && std::memcmp(part.x.data(), v.data() + next, part.x.size_bytes()) == 0 &&
               std::memcmp(part.coded.data(), means.data() + next, part.coded.size_bytes()) == 0 &&
               std::memcmp(part.codes.data(), codes.data() + next, part.codes.size()) == 0;
        next += part.x.size();
      });
      CHECK(same);
      CHECK(next == v.size());
    }
  }
}

TEST_CASE("a file that becomes shorter while it is read is an error of the input, not a signal") {
  const test::ScratchFolder folder;
  const std::filesystem::path path = folder.path() / "x.bin";
  const Tensor x = in_file(normals({1 << 20}, 1), path);
  std::filesystem::resize_file(path, 100);
  std::vector<std::byte> part(4096);
  try {
    x.read(std::size_t{1} << 20, part);
    FAIL("read");
  } catch (const Error& e) {
    CHECK(e.code() == Code::input);
    CHECK(std::string(e.what()).find("has become shorter") != std::string::npos);
  }
}

TEST_CASE("models with weights that are made are written like others, on any number of threads") {
  const test::ScratchFolder folder;
  const Maker maker{some_bytes(5 << 20)};
  const auto graph_with = [](const std::vector<Tensor>& weights) {
    Graph g;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      Value v;
      v.name = "w" + std::to_string(i);
      v.type.dtype = weights[i].dtype();
      v.type.known_dtype = v.type.known_rank = true;
      v.type.shape = weights[i].shape();
      v.data = weights[i];
      g.add_value(std::move(v));
    }
    ModelInfo info;
    info.opsets[""] = 21;
    info.ir_version = 10;
    g.model = std::make_shared<const ModelInfo>(std::move(info));
    return g;
  };
  const Tensor small = plain(some_bytes(100)), held = plain(maker.bytes);
  const Graph a = graph_with({held, small, held, in_file(held, folder.path() / "x.bin"), held});
  const Graph b =
      graph_with({maker.tensor(1000), small, held, in_file(held, folder.path() / "y.bin"), maker.tensor(5 << 20)});
  const std::string expected = write_onnx_bytes(a);
  CHECK(write_onnx_bytes(b) == expected);
  for (const std::uint64_t above : {std::uint64_t{1} << 31, std::uint64_t{0}}) {
    std::vector<std::string> files;
    for (const int count : {0, 1, 2, 5}) {
      std::optional<Threads> threads;
      if (count > 0) threads.emplace(count);
      const auto path = folder.path() / std::to_string(count) / "m.onnx";
      std::filesystem::create_directory(path.parent_path());
      write_onnx(b, path, {.external_above = above, .threads = threads ? &*threads : nullptr});
      std::string all;
      std::vector<std::filesystem::path> names;
      for (const auto& entry : std::filesystem::directory_iterator(path.parent_path())) names.push_back(entry.path());
      std::sort(names.begin(), names.end());
      for (const auto& name : names) {
        const MappedFile file(name);
        all += name.filename().string();
        all.append(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
      }
      std::filesystem::remove_all(path.parent_path());
      files.push_back(all);
    }
    CHECK(std::equal(files.begin() + 1, files.end(), files.begin()));
    if (above > 0) CHECK(files[0] == "m.onnx" + expected);
  }
}

TEST_CASE("packed codes that are made part by part are those of all") {
  for (const NumberFormat* format : {&number::int4, &number::uint4, &number::uint2, &number::e2m3}) {
    QuantSpec spec;
    spec.format = format;
    spec.grain = {Grain::Kind::groups, 1, 32, 0};
    const Tensor x = normals({501, 333}, 5);
    std::vector<float> low, high;
    ranges_of(x, spec.grain, low, high);
    set_scales(spec, low, high, x.shape());
    const Tensor all = pack_codes(quantize(x, spec), spec), parts = pack_codes(nearest_codes(x, spec), spec);
    CHECK(parts.digest() == all.digest());
    CHECK(unpack_codes(parts).same_bytes(quantize(x, spec)));
  }
}
