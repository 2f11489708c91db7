// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/merkle.h"

#include <doctest/doctest.h>

#include <memory>
#include <vector>

#include "formats/base/hash.h"
#include "formats/base/threads.h"
#include "formats/ir/quant.h"
#include "formats/ir/text.h"

using namespace qtool;

namespace {

std::string model(const std::string& body, const char* opset = "17") {
  return std::string("<ir_version: 8, opset_import: [\"\" : ") + opset + "]>\n" + body;
}

Digest hash_of(const Graph& graph, const char* value, bool quantized = false) {
  return merkle(graph, quantized)[static_cast<std::size_t>(*graph.find_value(value))];
}

const char* const two_layers =
    "g (float[2] x) => (float[2] y) < float[2] w = {1.0, 2.0} > { t = Mul(x, w) y = Relu(t) }";

}  // namespace

TEST_CASE("merkle: names of inner values do not count, what they depend on does") {
  const Graph a = parse_graph(model(two_layers));
  const Graph renamed =
      parse_graph(model("g (float[2] x) => (float[2] y) < float[2] v = {1.0, 2.0} > { s = Mul(x, v) y = Relu(s) }"));
  const Graph other_weight =
      parse_graph(model("g (float[2] x) => (float[2] y) < float[2] w = {1.0, 3.0} > { t = Mul(x, w) y = Relu(t) }"));
  CHECK(hash_of(a, "y") == hash_of(renamed, "y"));
  CHECK(hash_of(a, "t") == hash_of(renamed, "s"));
  CHECK(fingerprint(a, false) == fingerprint(renamed, false));
  CHECK(hash_of(a, "x") == hash_of(other_weight, "x"));
  CHECK(hash_of(a, "t") != hash_of(other_weight, "t"));
  CHECK(hash_of(a, "y") != hash_of(other_weight, "y"));
  CHECK(hash_of(a, "t") != hash_of(a, "y"));
}

TEST_CASE("merkle: the same operator of another version is another operator") {
  const char* const body = "g (float[2] x) => (float[2] y) { y = Softmax(x) }";
  CHECK(hash_of(parse_graph(model(body, "12")), "y") != hash_of(parse_graph(model(body, "13")), "y"));
}

TEST_CASE("merkle: attributes count, their order does not") {
  const auto with = [](const char* attrs) {
    return hash_of(
        parse_graph(model(std::string("g (float[2,2] x) => (float[2,2] y) { y = Gemm <") + attrs + "> (x, x) }")), "y");
  };
  CHECK(with("alpha = 2.0, transA = 1") == with("transA = 1, alpha = 2.0"));
  CHECK(with("alpha = 2.0, transA = 1") != with("alpha = 2.0, transB = 1"));
}

TEST_CASE("merkle: decisions count in the quantized reading only") {
  Graph graph = parse_graph(model(two_layers));
  const Graph before = graph;
  auto spec = std::make_shared<QuantSpec>();
  spec->format = find_number("int8");
  spec->scale = Tensor::scalar(0.5F);
  graph[graph.nodes()[0]].inputs[1].quant = spec;
  CHECK(hash_of(before, "y") == hash_of(graph, "y"));
  CHECK(hash_of(before, "y", true) != hash_of(graph, "y", true));
  CHECK(hash_of(before, "w", true) == hash_of(graph, "w", true));
  CHECK(fingerprint(before, false) == fingerprint(graph, false));
  CHECK(fingerprint(before, true) != fingerprint(graph, true));
}

TEST_CASE("merkle: a body counts by what it computes") {
  const auto with = [](const char* op) {
    return hash_of(parse_graph(model(std::string("g (bool b, float[2] x) => (float[2] y) { y = If (b) <\n"
                                                 "then_branch = t () => (float[2] p) { p = ") +
                                     op + "(x) },\nelse_branch = e () => (float[2] q) { q = Neg(x) }> }")),
                   "y");
  };
  CHECK(with("Relu") == with("Relu"));
  CHECK(with("Relu") != with("Abs"));
}

TEST_CASE("digest of a tensor: shared with its copies, dropped when one is written") {
  const std::byte some[] = {std::byte{1}, std::byte{2}, std::byte{3}};
  const Digest known = Hasher().bytes(some).finish();
  Tensor a = Tensor::of<std::uint8_t>({3}, {1, 2, 3});
  CHECK(a.digest() == known);
  CHECK(a.reshaped({1, 3}).digest() == known);
  Tensor b = a;
  b.write<std::uint8_t>()[0] = 9;  // has its own bytes from here on
  CHECK(a.digest() == known);
  CHECK(b.digest() != known);
  b.write<std::uint8_t>()[0] = 1;  // in place: nobody else holds them
  CHECK(b.digest() == known);
  CHECK(Tensor().digest() == Hasher().finish());

  auto owner = std::make_shared<std::vector<std::byte>>(std::begin(some), std::end(some));
  Tensor view(DType::u8, {3}, Buffer::view(*owner, owner));
  CHECK(view.digest() == known);
  view.write<std::uint8_t>()[1] = 7;
  CHECK(view.digest() != known);
  CHECK((*owner)[1] == std::byte{2});
}

TEST_CASE("digest of a tensor: asked for by several threads at once") {
  const Tensor shared(DType::f32, {1 << 18});
  const Digest known = Hasher().bytes(shared.bytes()).finish();
  Threads threads(4);
  std::vector<Digest> seen(16);
  threads.for_each(16, 1, [&](std::int64_t i, std::int64_t) { seen[static_cast<std::size_t>(i)] = shared.digest(); });
  for (const Digest& d : seen) CHECK(d == known);
}
