// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/snapshot.h"

#include <doctest/doctest.h>

#include <map>
#include <vector>

#include "formats/base/error.h"
#include "formats/base/rng.h"
#include "formats/file/reader.h"
#include "formats/ir/merkle.h"
#include "formats/ir/quant.h"
#include "formats/ir/text.h"
#include "formats/ir/verify.h"
#include "tests/support.h"

using namespace qtool;

namespace {

/// Tensors as a store would hold them.
struct Shelf {
  std::map<Digest, Tensor> all;
  Snapshots::Save save() {
    return [this](const Tensor& t) { all.emplace(t.digest(), t); };
  }
  Snapshots::Load load() const {
    return [this](const Digest& d) -> std::shared_ptr<Buffer> {
      const auto found = all.find(d);
      if (found == all.end()) return nullptr;
      auto owner = std::make_shared<const Tensor>(found->second);
      const auto bytes = owner->bytes();
      return Buffer::view(bytes, std::move(owner));
    };
  }
};

Graph read_back(const Snapshots& snapshots, const Graph& graph, Shelf& shelf, std::size_t* size = nullptr) {
  ByteWriter out;
  snapshots.write(graph, out, shelf.save());
  if (size) *size = out.written().size();
  ByteReader in(out.written());
  Graph back = snapshots.read(in, shelf.load());
  in.end();
  return back;
}

void check_same(const Graph& a, const Graph& b) {
  CHECK(print_graph(a) == print_graph(b));
  CHECK(fingerprint(a, true) == fingerprint(b, true));
  CHECK(a.value_slots() == b.value_slots());
  CHECK(a.node_slots() == b.node_slots());
  CHECK(a.values() == b.values());
  CHECK(a.nodes() == b.nodes());
}

const char* const with_body = R"(<ir_version: 8, opset_import: ["" : 17]>
  g (float[2] x, bool c) => (float[2] y) < float[2] w = {1.0, 2.0} > {
    t = Mul(x, w)
    y = If (c) <
      then_branch = a () => (float[2] p) < float[2] k = {3.0, 4.0} > { p = Add(t, k) },
      else_branch = b () => (float[2] q) { q = Neg(t) }
    >
  })";

}  // namespace

TEST_CASE("snapshot: graphs of files come back as they were, with nothing but references") {
  for (const char* name : {"digits_cnn", "digits_transformer", "tiny_lstm"}) {
    const auto path = test::source_dir() / "samples/models" / (std::string(name) + ".onnx");
    const Graph graph = read_onnx(path);
    const Snapshots snapshots(graph);
    REQUIRE(snapshots.can_write(graph));
    Shelf shelf;
    std::size_t size = 0;
    const Graph back = read_back(snapshots, graph, shelf, &size);
    check_same(graph, back);
    CHECK(shelf.all.empty());
    CHECK(size < 100000);
    for (const ValueId v : graph.values()) CHECK(graph[v].data.same_storage(back[v].data));
    const test::ScratchFolder folder;
    write_onnx(back, folder / "back.onnx");
    write_onnx(graph, folder / "graph.onnx");
    CHECK(read_text(folder / "back.onnx") == read_text(folder / "graph.onnx"));
  }
}

TEST_CASE("snapshot: what was made since the base is written, with holes and sharing") {
  const Graph base = parse_graph(with_body);
  const Snapshots snapshots(base);
  Graph graph = base;
  Value big;
  big.name = "big";
  big.data = Tensor(DType::f32, {2000});
  big.data.write<float>()[1999] = 5;
  big.type.known_dtype = big.type.known_rank = true;
  big.type.shape = {2000};
  const ValueId first = graph.add_value(big);
  big.name = "again";  // the same bytes
  const ValueId second = graph.add_value(big);
  big.name = "gone";
  graph.erase(graph.add_value(big));
  graph[*graph.find_value("w")].data.write<float>()[0] = 7;
  auto spec = std::make_shared<QuantSpec>();
  spec->format = &number::int8;
  spec->scale = Tensor::scalar(0.5F);
  spec->zero_point = Tensor::scalar(std::int32_t{3});
  Node& mul = graph[graph.nodes().front()];
  auto part = std::make_shared<QuantSpec>();
  part->format = &number::e2m1;
  part->scale_format = &number::e4m3;
  part->alternative = &number::int4_on_six;
  part->rule = ScaleRule::search;
  part->second_group = 256;
  part->scale_mean = Tensor::scalar(0.25F);
  spec->ranges = {{0, 1, part}, {1, 2, nullptr}};
  mul.inputs[0].quant = mul.inputs[1].quant = spec;
  mul.attrs.set("strings", std::vector<std::string>{"a", "", "c"});
  mul.attrs.set("floats", std::vector<float>{1, -2});
  mul.attrs.set("tensor", Tensor::strings({2}, {"x", "y"}));
  auto info = std::make_shared<ModelInfo>(*graph.model);
  info->opsets["com.microsoft"] = 1;
  info->metadata.emplace_back("key", "value");
  graph.model = info;
  Shelf shelf;
  const Graph back = read_back(snapshots, graph, shelf);
  check_same(graph, back);
  CHECK(shelf.all.size() == 1);
  CHECK(back[first].data.bytes().data() == back[second].data.bytes().data());
  const Node& same = back[back.nodes().front()];
  CHECK(same.inputs[0].quant == same.inputs[1].quant);
  CHECK(same.inputs[0].quant->zero_point.read<std::int32_t>()[0] == 3);
  REQUIRE(same.inputs[0].quant->ranges.size() == 2);
  const IndexRange& of_two = same.inputs[0].quant->ranges[0];
  CHECK((of_two.begin == 0 && of_two.end == 1 && same.inputs[0].quant->ranges[1].quant == nullptr));
  CHECK(of_two.quant->alternative == &number::int4_on_six);
  CHECK(of_two.quant->rule == ScaleRule::search);
  CHECK(of_two.quant->second_group == 256);
  CHECK(of_two.quant->scale_mean.read<float>()[0] == 0.25F);
  CHECK(fingerprint(*same.inputs[0].quant) == fingerprint(*spec));
  CHECK(back.opset("com.microsoft") == 1);
  const Node& branch = back[back.nodes().back()];
  CHECK(branch.attrs.graph("then_branch") == base[base.nodes().back()].attrs.graph("then_branch"));
}

TEST_CASE("snapshot: bytes that are none end in an error") {
  const Graph base = parse_graph(with_body);
  const Snapshots snapshots(base);
  Graph graph = base;
  auto spec = std::make_shared<QuantSpec>();
  spec->format = &number::int8;
  spec->scale = Tensor::scalar(0.5F);
  graph[graph.nodes().front()].inputs[1].quant = spec;
  Shelf shelf;
  ByteWriter out;
  snapshots.write(graph, out, shelf.save());
  const std::vector<std::byte> whole(out.written().begin(), out.written().end());
  const auto read = [&](std::span<const std::byte> bytes) {
    try {
      ByteReader in(bytes);
      const Graph back = snapshots.read(in, shelf.load());
      in.end();
      verify(back);
      return true;
    } catch (const Error&) {
      return false;
    }
  };
  CHECK(read(whole));
  for (std::size_t n = 0; n < whole.size(); ++n) CHECK(!read(std::span(whole).first(n)));
  const Rng rng(1, "snapshot");
  for (std::uint64_t i = 0; i < 20000; ++i) {
    std::vector<std::byte> changed = whole;
    for (std::uint64_t k = 0; k <= rng.bits(3 * i) % 3; ++k) {
      changed[rng.bits(3 * i + 1 + 7777 * k) % whole.size()] = static_cast<std::byte>(rng.bits(3 * i + 2 + 999 * k));
    }
    read(changed);  // must come back, either way
  }
}
