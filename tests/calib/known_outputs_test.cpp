// SPDX-License-Identifier: Apache-2.0
// Outputs of the float model in the cache: the same comparison with and without them, and with entries that are not
// what they say.
#include "calib/known_outputs.h"

#include <doctest/doctest.h>

#include "calib/compare.h"
#include "calib/data.h"
#include "formats/base/journal.h"
#include "formats/ir/text.h"
#include "tests/support.h"

using namespace qtool;
using namespace qtool::test;

namespace {

Graph model(const char* factor) {
  return parse_graph(std::string(R"(<ir_version: 8, opset_import: ["" : 17]>
      g (float[N,6] x) => (float[N,6] y, float[N,1] z) < float k = {)") +
                     factor + R"(}, int64[1] axes = {1} > { y = Mul (x, k)  z = ReduceSum (y, axes) })");
}

struct Bench {
  ScratchFolder folder;
  Graph reference = model("2"), candidate = model("2.125");
  std::unique_ptr<const Dataset> data = open_dataset(reference, options());
  Threads threads{2};
  Journal journal;

  static DataOptions options() {
    DataOptions o;
    o.path = "random";
    o.samples = 7;
    return o;
  }
  /// Results as text, and how many outputs the cache had.
  std::string compared(std::int64_t& found, bool cache = true) {
    Kept kept(cache ? folder / "cache" : std::filesystem::path(), {}, journal);
    Unfinished unfinished;
    unfinished.reference = {&kept, Json::object().set("model", "m")};
    const Comparison c =
        compare(reference, candidate, Reading::reference, *data, reference, threads, false, {}, unfinished);
    const auto count = kept.counts().find(OutputsKept::kind);
    found = count == kept.counts().end() ? -1 : count->second.found;
    return c.json().dump();
  }
  void replace(const std::function<void(ByteWriter&)>& fill) {
    ByteWriter out;
    fill(out);
    const OutputsKept where{nullptr, Json::object().set("model", "m")};
    Store(folder / "cache").save(OutputsKept::kind, where.key(), where.about, out.written());
  }
};

}  // namespace

TEST_CASE("known outputs: the same figures, and a model that is not run again") {
  Bench b;
  std::int64_t found = 0;
  const std::string without = b.compared(found, false);
  CHECK(found == -1);
  CHECK(b.compared(found) == without);
  CHECK(found == 0);
  CHECK(b.compared(found) == without);
  CHECK(found == 1);
  b.reference = model("3");  // the same key: what is known is believed
  CHECK(b.compared(found) == without);
}

TEST_CASE("known outputs: whole entries that hold something else count as absent") {
  Bench b;
  std::int64_t found = 0;
  const std::string right = b.compared(found);
  const auto tensor = [](ByteWriter& out, DType type, std::vector<std::int64_t> extents, std::size_t bytes) {
    const std::vector<std::byte> zeros(bytes);
    out.number(type).numbers<std::int64_t>(extents).numbers<std::byte>(zeros);
  };
  const std::vector<std::function<void(ByteWriter&)>> wrong{
      [](ByteWriter&) {},
      [](ByteWriter& out) { out.number(std::int64_t{7}); },
      [](ByteWriter& out) { out.number(std::int64_t{1} << 60); },
      [&](ByteWriter& out) {
        tensor(out.number(std::int64_t{7}), DType::f32, {1, 6}, 23);
      },
      [&](ByteWriter& out) {
        tensor(out.number(std::int64_t{7}), DType::f32, {std::int64_t{1} << 62, 8}, 0);
      },
      [&](ByteWriter& out) {
        tensor(out.number(std::int64_t{7}), DType::f32, {-1, -6}, 24);
      },
      [&](ByteWriter& out) { tensor(out.number(std::int64_t{7}), DType::string, {3}, 0); },
  };
  for (const auto& fill : wrong) {
    b.replace(fill);
    CHECK(b.compared(found) == right);
    CHECK(found == 0);
    CHECK(b.compared(found) == right);
    CHECK(found == 1);
  }
}
