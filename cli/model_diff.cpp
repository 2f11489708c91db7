// SPDX-License-Identifier: Apache-2.0
#include "cli/model_diff.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "cli/node_inputs.h"
#include "cli/text.h"
#include "formats/ir/quant.h"
#include "formats/schema.h"
#include "passes/changes.h"

namespace qtool {
namespace {

std::string text_of(const Shape& shape) {
  std::string text;
  for (const std::int64_t n : shape) text += (text.empty() ? "" : "x") + (n < 0 ? "?" : std::to_string(n));
  return text.empty() ? "scalar" : text;
}

Json shape_json(const Shape& shape) {
  Json list = Json::array();
  for (const std::int64_t n : shape) list.push(n);
  return list;
}

Json side_json(const NodeInput* o) {
  if (!o) return {};
  Json json = Json::object();
  json.set("tensor", o->tensor).set("format", o->format);
  json.set("shape", o->constant ? shape_json(o->shape) : Json());
  return json.set("scales", o->scale.count());
}

template <class T>
std::int64_t count_different(const Tensor& a, const Tensor& b) {
  const auto x = a.read<T>(), y = b.read<T>();
  std::int64_t n = 0;
  for (std::size_t i = 0; i < x.size(); ++i) n += std::memcmp(&x[i], &y[i], sizeof(T)) != 0;
  return n;
}

/// Elements that differ; empty where types or shapes do.
std::optional<std::int64_t> different_elements(const Tensor& a, const Tensor& b) {
  if (a.empty() && b.empty()) return 0;
  if (a.empty() || b.empty() || a.dtype() != b.dtype() || a.shape() != b.shape()) return std::nullopt;
  if (a.dtype() == DType::string) {
    const auto &x = a.read_strings(), &y = b.read_strings();
    std::int64_t n = 0;
    for (std::size_t i = 0; i < x.size(); ++i) n += x[i] != y[i];
    return n;
  }
  if (a.same_bytes(b)) return 0;
  const int bits = bit_width(a.dtype());
  if (bits < 8)
    return count_different<std::uint8_t>(unpack_codes(a).viewed_as(DType::u8), unpack_codes(b).viewed_as(DType::u8));
  const auto same_width = [&](DType t) { return std::pair(a.viewed_as(t), b.viewed_as(t)); };
  if (bits == 8) return std::apply(count_different<std::uint8_t>, same_width(DType::u8));
  if (bits == 16) return std::apply(count_different<std::uint16_t>, same_width(DType::u16));
  if (bits == 32) return std::apply(count_different<std::uint32_t>, same_width(DType::u32));
  if (bits == 64) return std::apply(count_different<std::uint64_t>, same_width(DType::u64));
  return std::nullopt;
}

Json or_null(const std::optional<std::int64_t>& n) { return n ? Json(*n) : Json(); }

bool same_scales(const NodeInput& a, const NodeInput& b) {
  return a.axis == b.axis && a.group == b.group && different_elements(a.scale, b.scale) == 0 &&
         different_elements(a.zero_point, b.zero_point) == 0;
}

/// A node with what it reads.
struct Reader {
  NodeId id = NodeId::none;
  std::vector<NodeInput> inputs;
};

class Differ {
 public:
  Differ(ModelDiff& out, Threads& threads, std::string prefix)
      : out_(out), threads_(threads), prefix_(std::move(prefix)) {}

  void compare(const Graph& a, const Graph& b) {
    compare_conversions(a, b);
    const auto left = readers_of(a), right = readers_of(b);
    for (const NodeId id : a.order()) {
      const std::string name(label_of(a, id));
      if (is_conversion(a[id])) continue;
      const auto other = right.find(name);
      if (other == right.end()) {
        tell_node(name, "removed", Json(a[id].op), Json(), {});
      } else {
        compare_nodes(name, a, left.at(name), b, other->second);
      }
    }
    for (const NodeId id : b.order()) {
      const std::string name(label_of(b, id));
      if (!is_conversion(b[id]) && !left.contains(name)) tell_node(name, "added", Json(), Json(b[id].op), {});
    }
  }

 private:
  std::map<std::string, Reader> readers_of(const Graph& graph) const {
    const Links links(graph);
    std::vector<NodeId> ids;
    for (const NodeId id : graph.nodes()) {
      if (!is_conversion(graph[id])) ids.push_back(id);
    }
    std::vector<Reader> readers(ids.size());
    threads_.for_each(static_cast<std::int64_t>(ids.size()), 1, [&](std::int64_t begin, std::int64_t end) {
      for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
        readers[i] = {ids[i], inputs_of(graph, links, ids[i])};
      }
    });
    std::map<std::string, Reader> by_name;
    for (Reader& reader : readers) by_name.emplace(label_of(graph, reader.id), std::move(reader));
    return by_name;
  }

  void tell_node(const std::string& name, const char* what, Json a, Json b,
                 const std::vector<std::string>& attributes) {
    Json row = Json::object(), names = Json::array();
    for (const std::string& n : attributes) names.push(n);
    row.set("node", prefix_ + name).set("what", what).set("a", std::move(a)).set("b", std::move(b));
    out_.nodes.push(std::move(row.set("attributes", std::move(names))));
  }

  void compare_conversions(const Graph& a, const Graph& b) {
    std::map<std::string, std::pair<std::int64_t, std::int64_t>> counts;
    for (const NodeId id : a.nodes()) counts[a[id].op].first += is_conversion(a[id]);
    for (const NodeId id : b.nodes()) counts[b[id].op].second += is_conversion(b[id]);
    for (const auto& [op, count] : counts) {
      if (count.first == count.second) continue;
      Json row = Json::object();
      row.set("op", prefix_ + op).set("a", count.first).set("b", count.second);
      out_.conversions.push(std::move(row));
    }
  }

  void compare_nodes(const std::string& name, const Graph& a, const Reader& left, const Graph& b, const Reader& right) {
    const Node &x = a[left.id], &y = b[right.id];
    std::vector<std::string> attributes;
    if (x.op == y.op) attributes = attributes_that_differ(x, y);
    if (x.op != y.op || x.domain != y.domain || !attributes.empty()) {
      tell_node(name, "changed", Json(x.op), Json(y.op), attributes);
    }
    std::map<int, std::pair<const NodeInput*, const NodeInput*>> pairs;
    for (const NodeInput& o : left.inputs) pairs[o.input].first = &o;
    for (const NodeInput& o : right.inputs) pairs[o.input].second = &o;
    for (const auto& [input, pair] : pairs) compare_inputs(name, input, a, pair.first, b, pair.second);
    compare_bodies(name, x, y);
  }

  static std::vector<std::string> attributes_that_differ(const Node& x, const Node& y) {
    std::vector<std::string> names;
    for (const Attr& attr : x.attrs.all) {
      const bool body = std::holds_alternative<std::shared_ptr<const Graph>>(attr.value);
      const Attr* other = y.attrs.find(attr.name);
      if (!other || (!body && !same_attribute(attr, *other))) names.push_back(attr.name);
    }
    for (const Attr& attr : y.attrs.all) {
      if (!x.attrs.find(attr.name)) names.push_back(attr.name);
    }
    return names;
  }

  void compare_bodies(const std::string& name, const Node& x, const Node& y) {
    for (const Attr& attr : x.attrs.all) {
      const auto one = x.attrs.find(attr.name) && std::holds_alternative<std::shared_ptr<const Graph>>(attr.value)
                           ? x.attrs.graph(attr.name)
                           : nullptr;
      const Attr* other = y.attrs.find(attr.name);
      if (!one || !other || !std::holds_alternative<std::shared_ptr<const Graph>>(other->value)) continue;
      Differ(out_, threads_, prefix_ + name + "/" + attr.name + "/").compare(*one, *y.attrs.graph(attr.name));
    }
  }

  void compare_inputs(const std::string& node, int input, const Graph& ga, const NodeInput* a, const Graph& gb,
                      const NodeInput* b) {
    if (a && b && alike(*a, *b)) return;
    Json row = Json::object();
    row.set("node", prefix_ + node).set("input", input).set("a", side_json(a)).set("b", side_json(b));
    std::optional<std::int64_t> elements, codes, scales, zeros;
    std::optional<double> difference, value;
    if (a && b) {
      scales = different_elements(a->scale, b->scale);
      zeros = different_elements(a->zero_point, b->zero_point);
      if (a->constant && b->constant) {
        elements = a->codes.count();
        if (a->format == b->format) codes = different_elements(a->codes, b->codes);
        const Tensor x = real_numbers(ga, *a, threads_), y = real_numbers(gb, *b, threads_);
        if (!x.empty() && x.shape() == y.shape()) {
          difference = value = 0;
          const auto p = x.read<float>(), q = y.read<float>();
          for (std::size_t i = 0; i < p.size(); ++i) {
            value = std::max(*value, std::fabs(static_cast<double>(p[i])));
            difference = std::max(*difference, std::fabs(static_cast<double>(p[i]) - static_cast<double>(q[i])));
          }
        }
      }
    }
    row.set("elements", or_null(elements)).set("codes_differ", or_null(codes)).set("scales_differ", or_null(scales));
    row.set("zero_points_differ", or_null(zeros)).set("largest_difference", difference ? Json(*difference) : Json());
    out_.tensors.push(std::move(row.set("largest_value", value ? Json(*value) : Json())));
  }

  static bool alike(const NodeInput& a, const NodeInput& b) {
    if (a.constant != b.constant || a.format != b.format) return false;
    if (!a.constant) return a.tensor == b.tensor && same_scales(a, b);
    return a.shape == b.shape && same_scales(a, b) && different_elements(a.codes, b.codes) == 0;
  }

  ModelDiff& out_;
  Threads& threads_;
  std::string prefix_;
};

Json type_json(const Value& value) {
  if (value.type.kind != TypeKind::tensor || !value.type.known_dtype) return "?";
  std::string text(name_of(value.type.dtype));
  return text + " " + (value.type.known_rank ? text_of(value.type.shape) : "?");
}

void compare_header(const Graph& a, const Graph& b, Json& rows) {
  std::vector<std::string> order;
  std::map<std::string, std::pair<Json, Json>> entries;
  const auto collect = [&](const Graph& g, bool first) {
    const auto put = [&](const std::string& what, Json value) {
      if (!entries.contains(what)) order.push_back(what);
      (first ? entries[what].first : entries[what].second) = std::move(value);
    };
    const ModelInfo& info = *g.model;
    put("ir_version", info.ir_version);
    for (const auto& [domain, version] : info.opsets) put("opset " + (domain.empty() ? "ai.onnx" : domain), version);
    put("producer", info.producer_name + " " + info.producer_version);
    for (const ValueId v : g.inputs) put("input " + g[v].name, type_json(g[v]));
    for (const Use& use : g.outputs) put("output " + g[use.value].name, type_json(g[use.value]));
    for (const auto& [key, value] : info.metadata) put("metadata " + key, value);
  };
  collect(a, true);
  collect(b, false);
  for (const std::string& what : order) {
    auto& [x, y] = entries[what];
    if (x == y) continue;
    Json row = Json::object();
    rows.push(std::move(row.set("what", what).set("a", std::move(x)).set("b", std::move(y))));
  }
}

std::string shown(const Json& value) {
  return value.is_null() ? "-" : value.is_string() ? value.as_string() : value.dump();
}

std::string side_text(const Json& side) {
  if (side.is_null()) return "-";
  const std::string format = side.find("format")->as_string();
  if (format.empty()) return "from " + side.find("tensor")->as_string();
  std::string text = format;
  if (const Json* shape = side.find("shape"); !shape->is_null()) {
    Shape extents;
    for (const Json& n : shape->as_array()) extents.push_back(n.as_integer());
    text += " " + text_of(extents);
  }
  return text;
}

std::string count_text(const Json& differ) {
  return differ.is_null() ? "" : grouped(static_cast<std::uint64_t>(differ.as_integer()));
}

std::string plural(std::size_t n, const std::string& one, const std::string& many) {
  return std::to_string(n) + " " + (n == 1 ? one : many);
}

}  // namespace

bool ModelDiff::equal() const {
  return tensors.as_array().empty() && nodes.as_array().empty() && header.as_array().empty() &&
         conversions.as_array().empty();
}

Json ModelDiff::json() const {
  Json json = Json::object();
  json.set("schema", schema::model_diff).set("equal", equal()).set("tensors", tensors).set("nodes", nodes);
  return json.set("conversions", conversions).set("header", header);
}

std::string ModelDiff::summary() const {
  std::string text;
  const auto add = [&](const Json& rows, const char* one, const char* many) {
    const std::size_t n = rows.as_array().size();
    if (n > 0) text += (text.empty() ? "" : ", ") + plural(n, one, many);
  };
  add(tensors, "tensor", "tensors");
  add(nodes, "node", "nodes");
  add(conversions, "kind of conversions", "kinds of conversions");
  add(header, "entry of the header", "entries of the header");
  return text;
}

std::string ModelDiff::text() const {
  Table inputs({"node", "input", "tensor", "A", "B", "codes differ", "scales differ", "largest difference"});
  inputs.left(2).left(3).left(4);
  for (const Json& row : tensors.as_array()) {
    const Json &a = *row.find("a"), &b = *row.find("b");
    const Json& difference = *row.find("largest_difference");
    const Json &codes = *row.find("codes_differ"), &elements = *row.find("elements");
    inputs.row(
        {row.find("node")->as_string(), row.find("input")->dump(), (a.is_null() ? b : a).find("tensor")->as_string(),
         side_text(a), side_text(b), codes.is_null() ? "" : count_text(codes) + " of " + count_text(elements),
         count_text(*row.find("scales_differ")), difference.is_null() ? "" : significant(difference.as_number(), 3)});
  }
  Table changed({"node", "", "A", "B", "attributes"});
  changed.left(1).left(2).left(3).left(4);
  for (const Json& row : nodes.as_array()) {
    std::vector<std::string> names;
    for (const Json& name : row.find("attributes")->as_array()) names.push_back(name.as_string());
    changed.row({row.find("node")->as_string(), row.find("what")->as_string(), shown(*row.find("a")),
                 shown(*row.find("b")), joined(names)});
  }
  Table entries({"header", "A", "B"});
  entries.left(1).left(2);
  for (const Json& row : conversions.as_array()) {
    entries.row({"nodes " + row.find("op")->as_string(), shown(*row.find("a")), shown(*row.find("b"))});
  }
  for (const Json& row : header.as_array()) {
    entries.row({row.find("what")->as_string(), shown(*row.find("a")), shown(*row.find("b"))});
  }
  std::string text;
  for (const Table* table : {&inputs, &changed, &entries}) {
    if (!table->empty()) text += (text.empty() ? "" : "\n") + table->text();
  }
  return text;
}

ModelDiff diff_models(const Graph& a, const Graph& b, Threads& threads) {
  ModelDiff diff;
  Differ(diff, threads, "").compare(a, b);
  compare_header(a, b, diff.header);
  return diff;
}

}  // namespace qtool
