// SPDX-License-Identifier: Apache-2.0
// Reading and writing an untouched graph gives the same message, field by field.
#include <doctest/doctest.h>
#include <onnx/onnx_pb.h>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/file/reader.h"
#include "tests/support.h"

using namespace qtool;
namespace fs = std::filesystem;

namespace {

/// The message in canonical form: unknown fields and all.
std::string canonical(std::span<const std::byte> bytes) {
  onnx::ModelProto model;
  REQUIRE(model.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())));
  return model.SerializeAsString();
}

int check_folder(const fs::path& root) {
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    if (entry.path().extension() != ".onnx" || entry.path().parent_path().filename() == "odd") continue;
    const MappedFile file(entry.path());
    Graph graph;
    try {
      graph = read_onnx(entry.path());
    } catch (const Error& e) {
      // What the reader refuses on purpose: operator sets older than 7.
      CHECK_MESSAGE(std::string(e.what()).find("uses operator set") != std::string::npos, e.what());
      continue;
    }
    const std::string written = write_onnx_bytes(graph);
    CHECK_MESSAGE((written == canonical(file.bytes())), entry.path().string());
    ++files;
  }
  return files;
}

}  // namespace

TEST_CASE("onnx: real models survive reading and writing") {
  if (test::data_dir().empty()) return test::skip("real models", "no shared data here");
  CHECK(check_folder(test::data_dir() / "models") > 40);
}

TEST_CASE("onnx: the packaged operator cases survive reading and writing") {
  const fs::path cases = "/usr/share/libonnx-testdata/data";
  if (!fs::exists(cases)) return test::skip("operator cases", "libonnx-testdata is not installed");
  CHECK(check_folder(cases) > 900);
}

TEST_CASE("onnx: samples survive reading and writing") {
  CHECK(check_folder(test::source_dir() / "samples" / "models") >= 3);
}
