// SPDX-License-Identifier: Apache-2.0
// Weights in other files: read where that is safe, refused in one sentence where it is not, written aligned.
#include <doctest/doctest.h>

#include <fstream>
#include <limits>

#include "formats/base/file.h"
#include "formats/ir/tensor.h"
#include "tests/formats/onnx_build.h"
#include "tests/support.h"

using namespace qtool;
using namespace qtool::test;
namespace fs = std::filesystem;

namespace {

void write_file(const fs::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

/// w: float[2] in another file.
onnx::ModelProto external(const std::vector<std::pair<std::string, std::string>>& entries) {
  auto model = small_model();
  auto* w = model.mutable_graph()->add_initializer();
  w->set_name("w");
  w->set_data_type(1);
  w->add_dims(2);
  w->set_data_location(onnx::TensorProto::EXTERNAL);
  for (const auto& [key, value] : entries) {
    auto* e = w->add_external_data();
    e->set_key(key);
    e->set_value(value);
  }
  return model;
}

}  // namespace

TEST_CASE("onnx: external data are read at their place") {
  const ScratchFolder folder;
  const std::string two("\0\0\x80\x3f\0\0\0\x40", 8);  // 1, 2
  write_file(folder / "w.bin", std::string(64, 'x') + two);
  write_file(folder / "odd.bin", std::string(3, 'x') + two);
  fs::create_directory(folder / "sub");
  write_file(folder / "sub/w.bin", two);
  for (const auto& model : {external({{"location", "w.bin"}, {"offset", "64"}, {"length", "8"}}),
                            external({{"location", "odd.bin"}, {"offset", "3"}}), external({{"location", "sub/w.bin"}}),
                            external({{"location", "./w.bin"}, {"offset", "64"}, {"checksum", "0"}})}) {
    const Graph graph = read_message(model, folder.path());
    const auto w = graph[*graph.find_value("w")].data.read<float>();
    CHECK(w[0] == 1);
    CHECK(w[1] == 2);
    CHECK(reinterpret_cast<std::uintptr_t>(w.data()) % alignof(float) == 0);
    CHECK(as_message(graph).graph().initializer(0).raw_data() == two);
  }
}

TEST_CASE("onnx: external data that leave the folder, are missing or too short are refused") {
  const ScratchFolder outside;
  const ScratchFolder folder;
  write_file(outside / "secret", std::string(64, 'x'));
  write_file(folder / "w.bin", std::string(8, 'x'));
  fs::create_symlink(outside / "secret", folder / "link");
  fs::create_directory_symlink(outside.path(), folder / "door");
  fs::create_directory(folder / "sub");
  const auto says = [&](const std::vector<std::pair<std::string, std::string>>& entries, const char* text) {
    const std::string message = refusal(external(entries), folder.path());
    CAPTURE(message);
    CHECK(message.find(text) != std::string::npos);
  };
  says({}, "names no file");
  says({{"location", ""}}, "names no file");
  says({{"location", (outside / "secret").string()}}, "absolute path");
  says({{"location", "../" + outside.path().filename().string() + "/secret"}}, "leaves the folder");
  says({{"location", "sub/../w.bin"}}, "leaves the folder");
  says({{"location", "link"}}, "a link that leaves the folder");
  says({{"location", "door/secret"}}, "a link that leaves the folder");
  says({{"location", "missing"}}, "does not exist");
  says({{"location", "sub"}}, "not a regular file");
  says({{"location", std::string("w.bin\0x", 7)}}, "a zero byte");
  says({{"location", "w.bin"}, {"offset", "1"}}, "which has 8");
  says({{"location", "w.bin"}, {"offset", "-1"}}, "no size in bytes");
  says({{"location", "w.bin"}, {"offset", "4x"}}, "no size in bytes");
  says({{"location", "w.bin"}, {"offset", "99999999999999999999"}}, "no size in bytes");
  says({{"location", "w.bin"}, {"offset", "9223372036854775807"}}, "no size in bytes");
  says({{"location", "w.bin"}, {"length", "7"}}, "has length 7");
  auto twice = external({{"location", "w.bin"}});
  twice.mutable_graph()->mutable_initializer(0)->set_raw_data("12345678");
  CHECK(refusal(twice, folder.path()).find("twice") != std::string::npos);
  auto huge = external({{"location", "w.bin"}});
  huge.mutable_graph()->mutable_initializer(0)->set_dims(0, std::int64_t{1} << 55);
  CHECK(refusal(huge, folder.path()).find("which has 8") != std::string::npos);
}

TEST_CASE("onnx: large weights go to a data file, aligned; small ones stay") {
  const ScratchFolder folder;
  auto model = small_model();
  add_raw(model.mutable_graph(), "a", 1, {500}, std::string(2000, 'a'));
  add_raw(model.mutable_graph(), "small", 1, {2}, std::string(8, 's'));
  add_raw(model.mutable_graph(), "b", 1, {300}, std::string(1200, 'b'));
  const Graph graph = read_message(model);
  write_onnx(graph, folder / "m.onnx", {1000});
  const MappedFile file(folder / "m.onnx");
  onnx::ModelProto written;
  REQUIRE(written.ParseFromArray(file.bytes().data(), static_cast<int>(file.bytes().size())));
  const auto& list = written.graph().initializer();
  CHECK(list[0].data_location() == onnx::TensorProto::EXTERNAL);
  CHECK(!list[0].has_raw_data());
  const std::string data = list[0].external_data(0).value();
  CHECK(is_data_file_of(folder / "m.onnx", folder / data));
  CHECK(list[2].external_data(0).value() == data);
  CHECK(!is_data_file_of(folder / "n.onnx", data));
  CHECK(!is_data_file_of("m.onnx", "m.onnx.data"));
  CHECK(!is_data_file_of("m.onnx", "m.onnx.0123456789abcdeX.data"));
  CHECK(list[1].raw_data() == std::string(8, 's'));
  CHECK(list[2].external_data(1).key() == "offset");
  CHECK(list[2].external_data(1).value() == "4096");
  CHECK(fs::file_size(folder / data) == 4096 + 1200);
  CHECK((write_onnx_bytes(read_onnx(folder / "m.onnx")) == model.SerializeAsString()));
  CHECK(std::distance(fs::directory_iterator(folder.path()), {}) == 2);

  // Written over itself: the old data stay mapped until the new ones are in place.
  const Graph again = read_onnx(folder / "m.onnx");
  write_onnx(again, folder / "m.onnx", {1000});
  CHECK((write_onnx_bytes(read_onnx(folder / "m.onnx")) == model.SerializeAsString()));
  write_onnx(again, folder / "inline.onnx");
  CHECK(fs::exists(folder / "inline.onnx"));
  CHECK(std::distance(fs::directory_iterator(folder.path()), {}) == 3);
}
