// SPDX-License-Identifier: Apache-2.0
#include "recipes/reader/where.h"

#include <doctest/doctest.h>

#include "formats/base/error.h"

using namespace qtool;

namespace {

/// x -> Conv a -> Relu b -> MatMul (nameless, output "c") -> com.microsoft.Gelu head
Graph chain() {
  Graph g;
  const auto value = [&](const char* name) { return g.add_value({name, {}, {}, {}}); };
  const auto constant = [&](const char* name, Shape shape) {
    return g.add_value({name, {}, Tensor(DType::f32, std::move(shape)), {}});
  };
  ValueId x = value("x");
  g.inputs = {x};
  const auto node = [&](const char* name, const char* op, const char* domain, std::vector<Use> more, const char* out) {
    Node n;
    n.name = name;
    n.op = op;
    n.domain = domain;
    n.inputs = {{x, {}}};
    n.inputs.insert(n.inputs.end(), more.begin(), more.end());
    x = value(out);
    n.outputs = {x};
    g.add_node(std::move(n));
  };
  node("a", "Conv", "", {{constant("wa", {4, 4}), {}}}, "va");
  node("b", "Relu", "", {}, "vb");
  node("", "MatMul", "", {{constant("wc", {10, 10}), {}}}, "c");
  node("head", "Gelu", "com.microsoft", {{constant("scalar", {}), {}}}, "y");
  g.outputs = {{x, {}}};
  return g;
}

std::string labels(const Where& where) {
  const Graph g = chain();
  std::string out;
  for (const NodeId id : select(g, where)) out += (out.empty() ? "" : " ") + std::string(label_of(g, id));
  return out;
}

std::string message(const Where& where) {
  try {
    labels(where);
  } catch (const Error& e) {
    CHECK(e.code() == Code::usage);
    return e.what();
  }
  return {};
}

Where where() {
  Where w;
  w.place = {"r.yaml", 3, 5};
  return w;
}

}  // namespace

TEST_CASE("globs") {
  CHECK(glob_match("*", ""));
  CHECK(glob_match("a*c", "abbc"));
  CHECK(!glob_match("a*c", "abbd"));
  CHECK(glob_match("a?c", "abc"));
  CHECK(!glob_match("a?c", "ac"));
  CHECK(glob_match("layer[0-3].*", "layer2.w"));
  CHECK(!glob_match("layer[0-3].*", "layer4.w"));
  CHECK(glob_match("[!a]b", "cb"));
  CHECK(!glob_match("[!a]b", "ab"));
  CHECK(glob_match("[]]", "]"));
  CHECK(glob_match("[", "["));
  CHECK(glob_match("*a*a*a*a*a*a*a*b*", std::string(3000, 'a') + "b"));
  CHECK(!glob_match("*a*a*a*a*a*a*a*b", std::string(3000, 'a')));
}

TEST_CASE("selectors") {
  Where w = where();
  w.op = {"Conv", "MatMul"};
  CHECK(labels(w) == "a c");
  w.not_name = {"c"};
  CHECK(labels(w) == "a");
  w = where();
  w.op = {"com.microsoft.*"};
  CHECK(labels(w) == "head");
  w = where();
  w.min_size = 17;
  CHECK(labels(w) == "c");
  w.min_size = 0;
  w.max_size = 16;
  CHECK(labels(w) == "a b head");
  w = where();
  w.region = {"first"};
  CHECK(labels(w) == "a");
  w.region = {"last"};
  CHECK(labels(w) == "c");
  w.region = {"first", "last"};
  CHECK(labels(w) == "a c");
  w.not_op = {"Conv"};
  CHECK(labels(w) == "b head");
  w = where();
  w.region = {"after:b"};
  CHECK(labels(w) == "c head");
  w.region = {"before:c"};
  CHECK(labels(w) == "a b");
}

TEST_CASE("a selector that matches nothing is an error with the nearest name") {
  Where w = where();
  w.op = {"Matmul"};
  CHECK(message(w) ==
        "r.yaml:3:5: `where` matches nothing: the model has no operator \"Matmul\"; did you mean \"MatMul\"?");
  w = where();
  w.name = {"haed"};
  CHECK(message(w) ==
        "r.yaml:3:5: `where` matches nothing: the model has no node named \"haed\"; did you mean \"head\"?");
  w = where();
  w.region = {"after:hed"};
  CHECK(message(w) == "r.yaml:3:5: the model has no node \"hed\"; did you mean \"head\"?");
  w.region = {"after:head"};
  CHECK(message(w) == "r.yaml:3:5: `where` matches nothing: no node meets all of its conditions");
}
