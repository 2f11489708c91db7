// SPDX-License-Identifier: Apache-2.0
#include "formats/file/imatrix.h"

#include <doctest/doctest.h>

#include <limits>
#include <string>

#include "formats/base/bytes.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "tests/support.h"

using namespace qtool;

namespace {

std::string golden(const std::string& name) { return read_text(test::source_dir() / "tests/golden/gguf" / name); }

Imatrix parse(const std::string& bytes) {
  return read_imatrix_bytes(std::as_bytes(std::span(bytes.data(), bytes.size())), "m");
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

/// What tests/oracle/gguf_files.py wrote.
Imatrix known() {
  return {{{"blk.0.attn_q.weight", {0.5, 1.25, 3.0, 0.0}, {12}},
           {"blk.0.ffn_gate_exps.weight", {8, 2, 0, 0, 1, 4}, {4, 0, 8}},
           {"blk.1.attn_q.weight", {7.0, 0.125}, {12}}},
          {"calibration.txt"},
          3,
          4};
}

std::string dat(std::int32_t entries, std::int32_t name, std::int32_t calls, std::int32_t values, float value) {
  ByteWriter out;
  out.number(entries).number(name).number('w').number(calls).number(values).number(value);
  std::string text(reinterpret_cast<const char*>(out.written().data()), out.written().size());
  return text;
}

}  // namespace

TEST_CASE("an importance matrix in llama.cpp's container, both ways") {
  const std::string bytes = golden("imatrix.gguf");
  const Imatrix m = parse(bytes);
  REQUIRE(m.entries.size() == 3);
  CHECK(m.datasets == std::vector<std::string>{"calibration.txt"});
  CHECK(m.chunks == 3);
  CHECK(m.chunk_size == 4);
  for (const Imatrix::Entry& e : known().entries) {
    const Imatrix::Entry* found = m.find(e.name);
    REQUIRE(found != nullptr);
    CHECK(found->sums == e.sums);
    CHECK(found->counts == e.counts);
  }
  CHECK(m.find("blk.0") == nullptr);
  CHECK(m.entries[1].means() == std::vector<double>{2, 0.5, 1, 1, 0.125, 0.5});
  CHECK(imatrix_bytes(known(), Imatrix::Kind::gguf) == bytes);
}

TEST_CASE("an importance matrix of the older kind, both ways") {
  const std::string bytes = golden("imatrix.dat");
  const Imatrix m = parse(bytes);
  REQUIRE(m.entries.size() == 3);
  CHECK(m.chunks == 3);
  CHECK(m.datasets == std::vector<std::string>{"calibration.txt"});
  for (const Imatrix::Entry& e : known().entries) {
    CAPTURE(e.name);
    const std::vector<double> expected = e.means(), got = m.find(e.name)->means();
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == doctest::Approx(expected[i]).epsilon(1e-6));
  }
  CHECK(imatrix_bytes(known(), Imatrix::Kind::dat) == bytes);
  CHECK(imatrix_bytes(m, Imatrix::Kind::dat) == bytes);
  CHECK(parse(bytes.substr(0, 4 + 4 + 19 + 8 + 16).replace(0, 1, "\x01")).entries.size() == 1);  // the oldest ones
}

TEST_CASE("broken importance matrices are refused in a sentence each") {
  const float fine = 1;
  const std::string early = "m: this importance matrix ends early, or a length in it is wrong";
  CHECK(refusal("") == early);
  CHECK(refusal("model") == early);
  CHECK(refusal(dat(0, 4, 1, 1, fine)) == "m: this importance matrix has no entry");
  CHECK(refusal(dat(-1, 4, 1, 1, fine)) == "m: the number of entries is negative");
  CHECK(refusal(dat(1, 0x7fffffff, 1, 1, fine)) == early);
  CHECK(refusal(dat(1, -4, 1, 1, fine)) == "m: the length of a name is negative");
  CHECK(refusal(dat(1, 1, 1, 0x7fffffff, fine)) == early);
  CHECK(refusal(golden("imatrix.dat") + "x") == "m: there is more behind the end of this importance matrix");
  for (std::size_t n = 0; n < 160; ++n) {
    CAPTURE(n);
    CHECK((n == 4 + 3 * 12 + 19 + 26 + 19 + 12 * 4 || refusal(golden("imatrix.dat").substr(0, n)) == early));
  }
  CHECK(refusal(golden("container.gguf")).starts_with("m: this GGUF file is no importance matrix"));
  std::string renamed = golden("imatrix.gguf");
  renamed.replace(renamed.find("attn_q.weight.counts"), 20, "attn_q.weight.countz");
  CHECK(refusal(renamed) == "m: entry \"blk.0.attn_q.weight\" has no tensor .counts");
}

TEST_CASE("sums must be finite and not negative; names must fit") {
  Imatrix m = known();
  m.entries[0].sums[1] = -1;
  CHECK(refusal(imatrix_bytes(m, Imatrix::Kind::gguf)) ==
        "m: entry \"blk.0.attn_q.weight\" holds a number that is negative or not finite");
  m.entries[0].sums[1] = std::numeric_limits<double>::infinity();
  CHECK(refusal(imatrix_bytes(m, Imatrix::Kind::dat)) ==
        "m: entry \"blk.0.attn_q.weight\" holds a number that is negative or not finite");
  Imatrix longer{{{std::string(56, 'w'), {1}, {1}}}, {}, 1, 1};
  CHECK_THROWS_AS(imatrix_bytes(longer, Imatrix::Kind::gguf), Error);
  CHECK(parse(imatrix_bytes(longer, Imatrix::Kind::dat)).entries[0].name.size() == 56);
  longer.entries[0].name.pop_back();
  CHECK(parse(imatrix_bytes(longer, Imatrix::Kind::gguf)).entries[0].name.size() == 55);
}
