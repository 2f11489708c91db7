// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "backends/backend.h"
#include "tests/support.h"

using namespace qtool;

namespace {

/// Operator -> what OpenVINO ran it on ("u8", "f32"), as tests/oracle/openvino_layers.py saw it.
std::map<std::string, std::string> seen() {
  std::map<std::string, std::string> result;
  std::ifstream file(test::source_dir() / "tests/golden/openvino.txt");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string op, type;
    words >> op >> type;
    if (op != "#" && op != "sample") result[op] = type;
  }
  return result;
}

}  // namespace

TEST_CASE("openvino: the table holds what the runtime was seen to run on codes, and nothing it was seen not to") {
  const std::map<std::string, std::string> types = seen();
  REQUIRE(types.size() > 20);
  const Target target = find_backend("openvino")->target();
  for (const auto& [op, type] : types) {
    CAPTURE(op);
    Node node;
    node.op = op;
    if (op == "Resize") node.attrs.set("mode", std::string("nearest"));
    const bool listed = target.find(node, Role::product) || target.find(node, Role::arithmetic) ||
                        (target.find(node, Role::move) && target.accepts(node, Role::move, "uint8", {}));
    CHECK(listed == (type != "f32"));
  }
  Node product;
  product.op = "MatMul";
  CHECK(target.find(product, Role::product)->needs_constant_weight);
  CHECK(types.at("MatMul(activations)") == "f32");
  REQUIRE(target.refused_methods.size() == 1);
  CHECK(target.refused_methods[0].first == "dynamic");
}
