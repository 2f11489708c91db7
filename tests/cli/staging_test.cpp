// SPDX-License-Identifier: Apache-2.0
#include "cli/staging.h"

#include <doctest/doctest.h>

#include <fstream>
#include <vector>

#include "formats/base/error.h"
#include "formats/file/reader.h"
#include "formats/ir/text.h"
#include "tests/support.h"

using namespace qtool;
namespace fs = std::filesystem;

namespace {

/// A model with 300 weights of one value; written so that they lie in a data file.
void write(float weight, const fs::path& path) {
  Graph graph = parse_graph(R"(<ir_version: 8, opset_import: ["" : 17]>
      g (float[300] x) => (float[300] y) <float[1] w = {0}> { y = Add (x, w) })");
  graph[*graph.find_value("w")].data = Tensor::of<float>({300}, std::vector<float>(300, weight));
  write_onnx(graph, path, {1000});
}

float weight_of(const fs::path& path) {
  const Graph graph = read_onnx(path);
  return graph[*graph.find_value("w")].data.read<float>()[299];
}

std::size_t entries(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), {}));
}

}  // namespace

TEST_CASE("staging: a model with a data file is replaced as a whole") {
  const test::ScratchFolder folder;
  const fs::path output = folder / "m.onnx";
  const auto publish = [&](float weight, bool no_clobber = false) {
    Staging staging(output);
    write(weight, staging.file());
    staging.publish(no_clobber);
  };
  publish(1);
  CHECK(weight_of(output) == 1);
  CHECK(entries(folder.path()) == 2);

  {  // Killed between the renames: the new weights are in place, the old model is too and keeps its own.
    Staging staging(output);
    write(2, staging.file());
    for (const auto& entry : fs::directory_iterator(staging.file().parent_path())) {
      if (entry.path() != staging.file()) fs::rename(entry.path(), folder / entry.path().filename().string());
    }
    CHECK(weight_of(output) == 1);
  }
  CHECK(weight_of(output) == 1);
  CHECK(entries(folder.path()) == 3);

  std::ofstream(folder / "m.onnx.notes.data") << "not ours";
  publish(3);  // takes the remains of both older models away, and nothing else
  CHECK(weight_of(output) == 3);
  CHECK(entries(folder.path()) == 3);
  publish(3);
  CHECK(weight_of(output) == 3);
  CHECK(entries(folder.path()) == 3);

  CHECK_THROWS_AS(publish(4, true), Error);  // the output exists: nothing changes
  CHECK(weight_of(output) == 3);
  CHECK(entries(folder.path()) == 3);
}

TEST_CASE("staging: what killed jobs left is removed, and nothing else") {
  const test::ScratchFolder folder;
  const Staging running(folder / "a.onnx");
  write(1, running.file());
  fs::create_directory(folder / ".qtool-abc123");  // as kill -9 leaves it: nobody holds a lock
  write(2, folder / ".qtool-abc123" / "b.onnx");
  fs::create_directory(folder / ".qtool-notes-of-mine");
  std::ofstream(folder / ".qtool-abc456") << "no folder";
  fs::create_directory(folder / "elsewhere");
  write(3, folder / "elsewhere" / "c.onnx");
  fs::create_directory_symlink(folder / "elsewhere", folder / ".qtool-abc789");
  {
    const Staging next(folder / "b.onnx");
    CHECK(!fs::exists(folder / ".qtool-abc123"));
    CHECK(weight_of(running.file()) == 1);
    CHECK(fs::exists(folder / ".qtool-notes-of-mine"));
    CHECK(fs::exists(folder / ".qtool-abc456"));
    CHECK(weight_of(folder / ".qtool-abc789" / "c.onnx") == 3);
    CHECK(next.folder() != running.folder());
  }
  CHECK(entries(folder.path()) == 5);
}
