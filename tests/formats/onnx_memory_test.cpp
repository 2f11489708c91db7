// SPDX-License-Identifier: Apache-2.0
// Large initializers: read and written without a second copy of all weights, and the bytes are what protobuf itself
// would write.
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <optional>
#include <string>

#include "formats/base/file.h"
#include "formats/base/memory.h"
#include "tests/formats/onnx_build.h"
#include "tests/support.h"

using namespace qtool;

namespace {

/// MiB of a line of /proc/self/status, such as VmHWM.
double mib_of(const std::string& what) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(what + ":")) return std::stod(line.substr(what.size() + 1)) / 1024;
  }
  return -1;
}

/// MiB by which memory in use grew at most while f ran; empty: the kernel does not tell.
template <class F>
std::optional<double> growth(const F& f) {
  std::ofstream("/proc/self/clear_refs") << "5" << std::flush;  // the peak starts at what is in use now
  const double before = mib_of("VmRSS"), peak = mib_of("VmHWM");
  if (before < 0 || peak < 0 || peak > before + 1) return std::nullopt;
  f();
  return mib_of("VmHWM") - before;
}

std::string file_bytes(const std::filesystem::path& path) {
  const MappedFile file(path);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

}  // namespace

TEST_CASE("large initializers: the bytes are those of protobuf, whatever stands beside them") {
  auto model = test::small_model();
  auto* graph = model.mutable_graph();
  std::string big(300000, 'a');
  for (std::size_t i = 0; i < big.size(); ++i) big[i] = static_cast<char>(i * 7);
  test::add_raw(graph, "plain", 1, {75000}, big);
  auto* noted = test::add_raw(graph, "noted", 3, {300, 1000}, big);
  noted->set_doc_string("stands behind the elements");
  noted->mutable_unknown_fields()->AddLengthDelimited(16, "and so does a field of a newer schema");
  noted->mutable_unknown_fields()->AddVarint(2000, 7);
  test::add_raw(graph, "small", 1, {2}, std::string(8, 'x'));
  auto* typed = graph->add_initializer();
  typed->set_name("typed");
  typed->set_data_type(1);
  typed->add_dims(40000);
  for (int i = 0; i < 40000; ++i) typed->add_float_data(static_cast<float>(i));
  graph->set_doc_string("a graph");
  graph->mutable_unknown_fields()->AddVarint(99, 1);
  model.set_doc_string("a model");
  model.set_producer_name("test");
  auto* meta = model.add_metadata_props();
  meta->set_key("k");
  meta->set_value("v");
  model.mutable_unknown_fields()->AddVarint(77, 5);

  const Graph read = test::read_message(model);
  const std::string expected = model.SerializeAsString();
  CHECK((write_onnx_bytes(read) == expected));
  const test::ScratchFolder folder;
  write_onnx(read, folder / "m.onnx");
  CHECK((file_bytes(folder / "m.onnx") == expected));
  const Graph again = read_onnx(folder / "m.onnx");
  CHECK(again[*again.find_value("noted")].data.same_bytes(read[*read.find_value("noted")].data));
}

TEST_CASE("large initializers: a copy of the graph keeps them alive, and a write does not touch the original") {
  const test::ScratchFolder folder;
  auto model = test::small_model();
  test::add_raw(model.mutable_graph(), "w", 1, {1 << 16}, std::string(4 << 16, '\0'));
  std::ofstream(folder / "m.onnx", std::ios::binary) << model.SerializeAsString();
  std::optional<Graph> first = read_onnx(folder / "m.onnx");
  Graph second = *first;
  const ValueId w = *second.find_value("w");
  CHECK(second[w].data.same_storage((*first)[w].data));
  second[w].data.write<float>()[5] = 1;
  CHECK((*first)[w].data.read<float>()[5] == 0);
  const Graph third = *first;
  first.reset();
  CHECK(third[w].data.read<float>()[5] == 0);
  CHECK(second[w].data.read<float>()[5] == 1);
}

TEST_CASE("large initializers: unaligned in their file, they are copied while they are read, under a ceiling") {
  constexpr std::size_t mib = std::size_t{1} << 20;
  constexpr std::int64_t count = 4 << 20;  // 16 MiB
  const test::ScratchFolder folder;
  auto model = test::small_model();
  std::string bytes(static_cast<std::size_t>(count) * 4, 0);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 % 61);
  auto* const w = test::add_raw(model.mutable_graph(), "w", 1, {count}, bytes);
  for (int pad = 0; pad < 4; ++pad) {  // one of them is aligned
    w->set_name(std::string(static_cast<std::size_t>(pad) + 1, 'w'));
    std::ofstream(folder / "m.onnx", std::ios::binary) << model.SerializeAsString();
    const MemoryCeiling ceiling(anonymous_memory() + 48 * mib, folder.path());  // 8 MiB for what lasts
    const Graph graph = read_onnx(folder / "m.onnx");
    const Tensor& stored = graph[*graph.find_value(w->name())].data;
    const Tensor floats = to_f32(stored), again = to_f32(stored);
    CHECK(reinterpret_cast<std::uintptr_t>(floats.bytes().data()) % 4 == 0);
    CHECK(floats.bytes().data() == again.bytes().data());
    CHECK(floats.same_bytes(stored));
    CHECK(std::memcmp(stored.read<float>().data(), bytes.data(), bytes.size()) == 0);
    Tensor changed = floats;
    changed.write<float>()[3] = -1;
    CHECK(std::memcmp(stored.bytes().data(), bytes.data(), bytes.size()) == 0);
    CHECK(std::memcmp(floats.bytes().data(), bytes.data(), bytes.size()) == 0);
  }
}

TEST_CASE("large models: reading and writing hold the weights once") {
  constexpr std::int64_t tensors = 10, rows = 5120, columns = 1024;  // 20 MiB each
  constexpr double size = 200;
  const test::ScratchFolder folder;
  Graph graph = test::read_message(test::small_model());
  for (std::int64_t i = 0; i < tensors; ++i) {
    Value v;
    v.name = "w" + std::to_string(i);
    v.type.shape = {rows, columns};
    v.type.known_dtype = v.type.known_rank = true;
    v.data = Tensor(DType::f32, v.type.shape);  // zeros that nobody touched take no memory
    graph.add_value(std::move(v));
  }
  const auto writing = growth([&] { write_onnx(graph, folder / "m.onnx"); });
  std::optional<Graph> read;
  const auto reading = growth([&] { read = read_onnx(folder / "m.onnx"); });
  if (!writing || !reading) return test::skip("memory of large models", "/proc/self/clear_refs does not work here");
  MESSAGE("peak growth: writing " << *writing << " MiB, reading " << *reading << " MiB, of " << size);
  CHECK(*writing < 0.25 * size);
  CHECK(*reading < 1.25 * size);
  CHECK(read->values().size() == graph.values().size());
}
