// SPDX-License-Identifier: Apache-2.0
#include "formats/file/gguf.h"

#include <doctest/doctest.h>

#include <cstring>
#include <string>

#include "formats/base/bytes.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "tests/support.h"

using namespace qtool;

namespace {

std::string golden(const std::string& name) { return read_text(test::source_dir() / "tests/golden/gguf" / name); }

Gguf parse(const std::string& bytes) {
  const auto owner = std::make_shared<const std::string>(bytes);
  return Gguf(std::as_bytes(std::span(owner->data(), owner->size())), "t.gguf", owner);
}

std::string written(const Gguf::Values& values, const std::vector<GgufTensor>& tensors) {
  std::string out;
  write_gguf(values, tensors, [&](std::string_view part) { out += part; });
  return out;
}

std::string refusal(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const Error& e) {
    CHECK(e.code() == Code::input);
    return e.what();
  }
  return "";
}

/// A head and what follows it.
template <class F>
std::string file(std::uint64_t tensors, std::uint64_t values, const F& rest) {
  ByteWriter out;
  out.bytes(std::as_bytes(std::span(std::string_view("GGUF")))).number(std::uint32_t{3});
  out.number(tensors).number(values);
  rest(out);
  const auto bytes = out.written();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

constexpr std::uint32_t u32 = 4, list = 9;

}  // namespace

TEST_CASE("a container by llama.cpp's own package is read, and written byte for byte") {
  const std::string bytes = golden("container.gguf");
  const Gguf g = parse(bytes);
  CHECK(g.alignment() == 64);
  CHECK(g.find("k.u8")->as_unsigned() == 200);
  CHECK(std::get<std::vector<std::int64_t>>(g.find("k.i8")->items).front() == -7);
  CHECK(std::get<std::vector<std::int64_t>>(g.find("k.i64")->items).front() == -(std::int64_t{1} << 62));
  CHECK(g.find("k.u64")->as_unsigned() == (std::uint64_t{1} << 63) + 1);
  CHECK(std::get<std::vector<double>>(g.find("k.f32")->items).front() == static_cast<double>(0.1f));
  CHECK(std::get<std::vector<double>>(g.find("k.f64")->items).front() == 0.1);
  CHECK(*g.find("k.text")->as_text() == "größe");
  CHECK(*g.find("k.texts")->as_texts() == std::vector<std::string>{"a", "", "bcd"});
  CHECK(g.find("k.texts")->as_text() == nullptr);
  CHECK(g.find("missing") == nullptr);
  REQUIRE(g.tensors().size() == 5);
  CHECK(g.tensors()[0].shape == Shape{2, 3, 5});
  float first = 0;
  std::memcpy(&first, g.tensors()[0].data.data(), sizeof first);
  CHECK(first == doctest::Approx(2.41715002f));
  CHECK(g.tensors()[2].type->name == "Q4_0");
  CHECK(g.tensors()[2].shape == Shape{2, 64});
  CHECK(g.tensors()[3].data.size() == 420);
  CHECK(written(g.values(), g.tensors()) == bytes);
}

TEST_CASE("lengths that the file does not have are refused before anything is allocated") {
  const std::uint64_t huge = ~std::uint64_t{0};
  CHECK(refusal("GGUF") == "t.gguf: this GGUF file ends early, or a length in it is wrong");
  CHECK(refusal("GGML" + std::string(40, '\0')) == "t.gguf: this is no GGUF file");
  CHECK(refusal(file(huge, 0, [](ByteWriter&) {})).ends_with("a length in it is wrong"));
  CHECK(refusal(file(0, huge, [](ByteWriter&) {})).ends_with("a length in it is wrong"));
  const std::string whole = golden("container.gguf");
  for (std::size_t n = 0; n < 1472; n += 7) CHECK(refusal(whole.substr(0, n)) != "");
  CHECK(refusal(file(0, 1, [&](ByteWriter& o) {
          o.text("k").number(list).number(u32).number(huge / 4);
        })).ends_with("a length in it is wrong"));
}

TEST_CASE("each rule of the container has its sentence") {
  const auto tensor = [](ByteWriter& o, const std::string& name, std::vector<std::uint64_t> ne, std::uint32_t type,
                         std::uint64_t offset) {
    o.text(name).number(static_cast<std::uint32_t>(ne.size()));
    for (const std::uint64_t n : ne) o.number(n);
    o.number(type).number(offset);
  };
  const auto one = [&](std::vector<std::uint64_t> ne, std::uint32_t type, std::uint64_t offset) {
    return refusal(file(1, 0, [&](ByteWriter& o) {
      tensor(o, "w", ne, type, offset);
      o.bytes(std::vector<std::byte>(256));
    }));
  };
  CHECK(one({4}, 0, 0) == "");
  CHECK(one({4}, 4, 0) == "t.gguf: tensor \"w\" has the type number 4, which is unknown");
  CHECK(one({33}, 2, 0) == "t.gguf: tensor \"w\" is Q4_0, and its rows are not whole blocks of 32");
  CHECK(one({4}, 0, 32) == "t.gguf: tensor \"w\" does not follow the one before it");
  CHECK(one({1, 1, 1, 1, 1}, 0, 0) == "t.gguf: tensor \"w\" has 5 axes, more than 4");
  CHECK(one({std::uint64_t{1} << 33, std::uint64_t{1} << 33, std::uint64_t{1} << 33, 0}, 0, 0) ==
        "t.gguf: tensor \"w\" is impossibly large");
  CHECK(one({4000}, 0, 0) == "t.gguf: the file ends before the data of tensor \"w\" do");
  CHECK(refusal(file(2, 0, [&](ByteWriter& o) {
          tensor(o, "w", {8}, 0, 0);
          tensor(o, "w", {8}, 0, 32);
          o.bytes(std::vector<std::byte>(256));
        })) == "t.gguf: tensor \"w\" is there twice");
  CHECK(refusal(file(0, 2, [](ByteWriter& o) {
          for (int i = 0; i < 2; ++i) o.text("k").number(u32).number(1U);
        })) == "t.gguf: key \"k\" is there twice");
  CHECK(refusal(file(0, 1, [](ByteWriter& o) { o.text("general.alignment").number(u32).number(48U); })) ==
        "t.gguf: key \"general.alignment\" is no power of two of kind u32");
  CHECK(refusal(file(0, 1, [](ByteWriter& o) { o.text("k").number(13U).number(1U); })) ==
        "t.gguf: key \"k\" is of kind 13, which is unknown");
  std::string big = golden("imatrix.gguf");
  std::swap(big[4], big[7]);
  CHECK(refusal(big) == "t.gguf: this GGUF file is big-endian, which is not read");
}

TEST_CASE("what a reader would refuse is not written") {
  const std::vector<std::byte> data(16);
  const auto tensor = [&](const std::string& name) { return GgufTensor{name, {4}, find_ggml_type("F32"), data}; };
  CHECK_NOTHROW(written({}, {tensor(std::string(63, 'n'))}));
  CHECK_THROWS_AS(written({}, {tensor(std::string(64, 'n'))}), Error);
  CHECK_THROWS_AS(written({}, {tensor("a"), tensor("a")}), Error);
  CHECK_THROWS_AS(written({{"general.alignment", GgufValue::u32(3)}}, {}), Error);
}
