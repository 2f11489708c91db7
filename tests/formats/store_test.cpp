// SPDX-License-Identifier: Apache-2.0
#include "formats/base/store.h"

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/kept.h"
#include "formats/base/rng.h"
#include "tests/support.h"

using namespace qtool;
namespace fs = std::filesystem;

namespace {

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

Digest key(const char* text) { return Hasher().text(text).finish(); }

Json about(const char* what) {
  Json json = Json::object();
  return json.set("what", what);
}

std::string read_all(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_all(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

}  // namespace

TEST_CASE("store: entries come back whole, by kind and key") {
  const test::ScratchFolder folder;
  const Store store(folder / "inner/cache");
  CHECK(!store.load("sums", key("a")));
  CHECK(store.list().empty());
  const std::string text = "the bytes\0of an entry", long_text(100000, 'x');
  store.save("sums", key("a"), about("one"), bytes_of(text));
  store.save("sums", key("b"), about("two"), bytes_of(long_text));
  store.save("codes", key("a"), about("three"), {});
  CHECK(text_of(store.load("sums", key("a"))->bytes) == text);
  CHECK(reinterpret_cast<std::uintptr_t>(store.load("sums", key("a"))->bytes.data()) % 64 == 0);
  CHECK(text_of(store.load("sums", key("b"))->bytes) == long_text);
  CHECK(store.load("codes", key("a"))->bytes.empty());
  CHECK(store.load("codes", key("a"))->about == about("three"));
  CHECK(!store.load("codes", key("b")));
  store.save("sums", key("a"), about("one"), bytes_of("other"));
  CHECK(text_of(store.load("sums", key("a"))->bytes) == "other");
  CHECK(store.list().size() == 3);
  store.remove("sums", key("a"));
  CHECK(!store.load("sums", key("a")));
}

TEST_CASE("store: what is cut short, changed or foreign counts as absent, and is replaced") {
  const test::ScratchFolder folder;
  const Store store(folder.path());
  store.save("sums", key("a"), about("one"), bytes_of("some bytes that matter"));
  const fs::path file = folder / store.list().front().file;
  const std::string whole = read_all(file);
  const auto refused = [&](const std::string& bytes) {
    write_all(file, bytes);
    return !store.load("sums", key("a")) && store.list().size() == 1 && !store.list().front().about;
  };
  for (std::size_t n = 0; n < whole.size(); ++n) CHECK(refused(whole.substr(0, n)));
  CHECK(refused(whole + "x"));
  CHECK(refused(whole + whole));
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    const bool padding = i >= 320 && whole[i] == ' ' && i >= 320 + about("one").dump().size() && i < 384;
    CHECK((padding || refused(changed)));
  }
  CHECK(refused("somebody else's file"));
  store.save("sums", key("b"), about("one"), bytes_of("some bytes that matter"));
  write_all(folder / (hex(key("b")) + ".sums"), whole);  // whole, but not what its name says
  store.save("sums", key("a"), about("one"), bytes_of("new"));
  CHECK(text_of(store.load("sums", key("a"))->bytes) == "new");
  CHECK(!store.load("sums", key("b")));
}

TEST_CASE("bytes: readers refuse what ends early and counts that cannot be") {
  ByteWriter out;
  out.number(std::uint8_t{7}).text("abc").count(300).numbers<double>(std::vector<double>{1, 2});
  const auto read = [](std::span<const std::byte> bytes) {
    ByteReader in(bytes);
    const bool right = in.number<std::uint8_t>() == 7 && in.text() == "abc" && in.count() == 300 &&
                       in.numbers<double>() == std::vector<double>{1, 2};
    in.end();
    return right;
  };
  CHECK(read(out.written()));
  for (std::size_t n = 1; n < out.written().size(); ++n) CHECK_THROWS_AS(read(out.written().first(n)), Error);
  ByteWriter huge;
  huge.number(std::uint64_t{1} << 62);
  CHECK_THROWS_AS(ByteReader(huge.written()).numbers<double>(), Error);
  const std::vector<std::byte> endless(20, std::byte{0xff});
  CHECK_THROWS_AS(ByteReader(endless).count(), Error);
}

TEST_CASE("kept: whole results go to the cache at once, to the working folder in time; damage is as good as absence") {
  const test::ScratchFolder folder;
  Journal journal;
  const auto write = [](const char* text) { return [text](ByteWriter& out, const Store&) { out.text(text); }; };
  const auto find = [](Kept& kept, const char* name) {
    std::string text;
    kept.find("sums", key(name), {}, [&](ByteReader& in, const Store::Entry&) { text = in.text(); });
    return text;
  };
  Kept patient({}, folder / "work", journal, std::chrono::hours(1));
  patient.keep("sums", key("a"), {}, write("A"));
  CHECK(find(patient, "a").empty());
  CHECK(!fs::exists(folder / "work"));
  patient.flush();
  CHECK(find(patient, "a") == "A");
  patient.progress("sums", key("p"), {}, write("P"));
  CHECK(find(patient, "p").empty());  // it is not time

  Kept eager({}, folder / "work", journal, std::chrono::seconds(0));
  eager.progress("sums", key("p"), {}, write("P"));
  CHECK(find(eager, "p") == "P");
  eager.forget("sums", key("p"));
  CHECK(find(eager, "p").empty());
  eager.keep_latest("sums", key("l"), {}, write("L"));
  eager.flush();  // which may have been too soon after the last time
  CHECK(find(eager, "l") == "L");

  Kept cached(folder / "cache", {}, journal);
  cached.keep("sums", key("a"), {}, write("A"));
  CHECK(find(cached, "a") == "A");
  CHECK(cached.counts().at("sums").found == 1);
  CHECK(cached.counts().at("sums").computed == 1);
  Store(folder / "cache").save("sums", key("short"), {}, {});  // whole, but not what a reader expects
  CHECK(find(cached, "short").empty());
  CHECK(journal.facts().empty());

  write_all(folder / "file", "in the way");
  Kept blocked(folder / "file", {}, journal);
  blocked.keep("sums", key("a"), {}, write("A"));
  blocked.keep("sums", key("b"), {}, write("B"));
  CHECK(journal.facts().size() == 1);  // said once; the run goes on
}
