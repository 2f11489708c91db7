// SPDX-License-Identifier: Apache-2.0
#include "formats/file/safetensors.h"

#include <doctest/doctest.h>

#include <cstring>
#include <string>

#include "formats/base/error.h"
#include "tests/support.h"

using namespace qtool;

namespace {

Safetensors parse(const std::string& bytes) {
  const auto owner = std::make_shared<const std::string>(bytes);
  return Safetensors(std::as_bytes(std::span(owner->data(), owner->size())), "t", owner);
}

std::string file(const std::string& header, std::size_t data) {
  std::string out(8, '\0');
  const std::uint64_t n = header.size();
  std::memcpy(out.data(), &n, 8);
  return out + header + std::string(data, '\0');
}

std::string one(const std::string& entry) { return "{\"a\":" + entry + "}"; }

}  // namespace

TEST_CASE("safetensors 5: the worked example, byte for byte") {
  const Tensor a = from_f32(Tensor::of<float>({2, 2}, {1, 2, -1, 0}), DType::bf16);
  const Tensor b = Tensor::of<float>({2}, {1, -2});
  const std::string bytes = safetensors_bytes({{"a", a}, {"b", b}}, {{"format", "pt"}});
  const std::string header = R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                             R"("a":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]}}  )";
  CHECK(bytes.size() == 168);
  CHECK(static_cast<unsigned char>(bytes[0]) == 0x90);
  CHECK(bytes.substr(8, 144) == header);
  const Safetensors st = parse(bytes);
  CHECK(st.read("a").same_bytes(a));
  CHECK(st.read("b").same_bytes(b));
  CHECK(st.metadata().at("format") == "pt");
  CHECK(st.entries().front().name == "b");
  CHECK_THROWS_AS(st.read("c"), Error);
}

TEST_CASE("names with spaces, quotes and backslashes survive") {
  const std::string name = "a \"b\\\" c: d";
  const Safetensors st = parse(safetensors_bytes({{name, Tensor::scalar(1.0f)}}));
  CHECK(st.find(name) != nullptr);
}

TEST_CASE("a file of the reference writer is read") {
  const Safetensors st(test::source_dir() / "tests/calib/files/arrays.safetensors");
  CHECK(st.entries().size() == 5);
  CHECK(st.read("ids").dtype() == DType::i32);
  CHECK(st.read("fortran").read<double>()[23] == 23);
  CHECK(st.read("half").read<std::uint16_t>()[2] == 0x7bff);
}

TEST_CASE("safetensors 6: what must load") {
  CHECK(parse(file("{}      ", 0)).entries().empty());
  CHECK(parse(file(one(R"({"dtype":"F32","shape":[2,0],"data_offsets":[0,0]})"), 0)).read("a").count() == 0);
  CHECK(parse(file(one(R"({"dtype":"F32","shape":[],"data_offsets":[0,4]})"), 4)).read("a").count() == 1);
  CHECK(parse(file("  \n" + one(R"({"dtype":"U8","shape":[3],"data_offsets":[0,3]})") + " ", 3)).entries().size() == 1);
}

TEST_CASE("safetensors 6: what must be refused") {
  const std::string good = one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})");
  CHECK_THROWS_AS(parse(std::string(7, '\0')), Error);
  CHECK_THROWS_AS(parse(file(good, 9)), Error);
  CHECK_THROWS_AS(parse(file(good, 7)), Error);
  CHECK_THROWS_AS(parse(std::string(8, '\xff') + good), Error);
  const std::string headers[] = {
      "[]",
      "{\"a\xff\":1}",
      one(R"({"dtype":"F7","shape":[2],"data_offsets":[0,8]})"),
      one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"),
      one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"),
      one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"),
      one(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"),
      one(R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})"),
      one(R"({"dtype":"F4","shape":[3],"data_offsets":[0,8]})"),
      one(R"({"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,8]})"),
      one(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]})"),
      one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1})"),
      one(R"({"dtype":"F32","shape":[2]})"),
      R"({"__metadata__":{"n":1},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[3],"data_offsets":[5,8]}})",
      R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
  };
  for (const std::string& h : headers) {
    CAPTURE(h);
    CHECK_THROWS_AS(parse(file(h, 8)), Error);
  }
  CHECK_NOTHROW(parse(file(good, 8)));
}
