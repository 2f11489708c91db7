// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/merkle.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <tuple>

#include "formats/base/error.h"
#include "formats/file/reader.h"
#include "formats/ir/quant.h"

namespace qtool {
namespace {

Digest tensor(const Tensor& t) {
  Hasher h;
  h.text("tensor").number(t.dtype()).number(t.rank());
  for (const std::int64_t d : t.shape()) h.number(d);
  if (t.dtype() == DType::string && !t.empty()) {
    for (const std::string& s : t.read_strings()) h.text(s);
    return h.finish();
  }
  return h.digest(t.digest()).finish();
}

Digest quant(const QuantSpec& spec) {
  Hasher h;
  h.text("quant");
  h.text(spec.format == nullptr ? std::string_view() : spec.format->name);
  h.text(spec.scale_format == nullptr ? std::string_view() : spec.scale_format->name);
  h.text(spec.alternative == nullptr ? std::string_view() : spec.alternative->name);
  h.number(spec.grain.kind).number(spec.grain.axis).number(spec.grain.group).number(spec.grain.group2);
  h.number(spec.symmetric).number(spec.narrow).number(spec.dynamic).number(spec.is_bias);
  h.number(spec.rule).number(spec.second_group).number(spec.range_axis);
  for (const Tensor* t : tensors_of(spec)) h.digest(tensor(*t));
  for (const IndexRange& r : spec.ranges) {
    h.number(r.begin).number(r.end).number(r.quant != nullptr);
    if (r.quant) h.digest(quant(*r.quant));
  }
  return h.finish();
}

/// Hashes graphs that may share tensors and bodies: each is hashed once.
class Merkle {
 public:
  Merkle(const ModelInfo* model, bool quantized) : quantized_(quantized) {
    if (model == nullptr) return;
    for (const Function& f : model->functions) callees_[{f.domain, f.name, f.overload}] = &f;
  }

  /// `body`: inputs are told apart by place instead of name.
  std::vector<Digest> values(const Graph& graph, bool body);
  Digest outputs(const Graph& graph, const std::vector<Digest>& of);
  void type(Hasher& h, const Type& t) const;

 private:
  Digest body(const Graph& graph);
  Digest node(const Graph& graph, const Node& n, const std::vector<Digest>& of);
  Digest function(const Function& f);
  void attr(Hasher& h, const Attr& a);
  void use(Hasher& h, const Use& u, const std::vector<Digest>& of);

  bool quantized_;
  std::map<std::tuple<std::string_view, std::string_view, std::string_view>, const Function*> callees_;
  std::map<const Graph*, Digest> bodies_;
  std::map<const Function*, Digest> functions_;
};

void Merkle::type(Hasher& h, const Type& t) const {
  h.number(t.kind).number(t.known_dtype).number(t.known_rank);
  if (t.known_dtype) h.number(t.dtype);
  if (!t.known_rank) return;
  h.number(t.shape.size());
  for (std::size_t i = 0; i < t.shape.size(); ++i) {
    h.number(t.shape[i]).text(i < t.symbols.size() ? std::string_view(t.symbols[i]) : std::string_view());
  }
}

void Merkle::attr(Hasher& h, const Attr& a) {
  h.text(a.name).number(a.value.index());
  const auto numbers = [&](const auto& list) {
    h.number(list.size());
    for (const auto v : list) h.number(v);
  };
  if (const auto* i = std::get_if<std::int64_t>(&a.value)) h.number(*i);
  if (const auto* f = std::get_if<float>(&a.value)) h.number(*f);
  if (const auto* s = std::get_if<std::string>(&a.value)) h.text(*s);
  if (const auto* t = std::get_if<Tensor>(&a.value)) h.digest(tensor(*t));
  if (const auto* g = std::get_if<std::shared_ptr<const Graph>>(&a.value)) h.digest(body(**g));
  if (const auto* list = std::get_if<std::vector<std::int64_t>>(&a.value)) numbers(*list);
  if (const auto* list = std::get_if<std::vector<float>>(&a.value)) numbers(*list);
  if (const auto* list = std::get_if<std::vector<std::string>>(&a.value)) {
    h.number(list->size());
    for (const std::string& s : *list) h.text(s);
  }
  if (const auto* list = std::get_if<std::vector<Tensor>>(&a.value)) {
    h.number(list->size());
    for (const Tensor& t : *list) h.digest(tensor(t));
  }
  if (const auto* list = std::get_if<std::vector<std::shared_ptr<const Graph>>>(&a.value)) {
    h.number(list->size());
    for (const auto& g : *list) h.digest(body(*g));
  }
  if (const auto* r = std::get_if<AttrRef>(&a.value)) h.text(r->name);
  if (std::holds_alternative<OpaqueAttr>(a.value)) h.text(opaque_bytes(a));
}

Digest Merkle::body(const Graph& graph) {
  const auto known = bodies_.find(&graph);
  if (known != bodies_.end()) return known->second;
  const Digest d = outputs(graph, values(graph, true));
  bodies_.emplace(&graph, d);
  return d;
}

Digest Merkle::function(const Function& f) {
  const auto known = functions_.find(&f);
  if (known != functions_.end()) return known->second;
  functions_.emplace(&f, Digest{});  // a function that calls itself is refused by the reader; here it ends
  Hasher h;
  h.text("function").number(f.opsets.size());
  for (const auto& [domain, version] : f.opsets) h.text(domain).number(version);
  h.number(f.defaults.size());
  for (const Attr& a : f.defaults) attr(h, a);
  h.digest(body(*f.body));
  return functions_[&f] = h.finish();
}

void Merkle::use(Hasher& h, const Use& u, const std::vector<Digest>& of) {
  h.number(u.value == ValueId::none);
  if (u.value == ValueId::none) return;
  h.digest(of[index(u.value)]);
  if (!quantized_) return;
  h.number(u.quant != nullptr);
  if (u.quant) h.digest(quant(*u.quant));
}

Digest Merkle::node(const Graph& graph, const Node& n, const std::vector<Digest>& of) {
  Hasher h;
  h.text("node").text(n.op).text(n.domain).text(n.overload).number(graph.opset(n.domain));
  const auto callee = callees_.find({n.domain, n.op, n.overload});
  if (callee != callees_.end()) h.digest(function(*callee->second));
  std::vector<const Attr*> attrs;  // their order in the file means nothing
  for (const Attr& a : n.attrs.all) attrs.push_back(&a);
  std::sort(attrs.begin(), attrs.end(), [](const Attr* a, const Attr* b) { return a->name < b->name; });
  h.number(attrs.size());
  for (const Attr* a : attrs) attr(h, *a);
  h.number(n.inputs.size());
  for (const Use& u : n.inputs) use(h, u, of);
  h.number(n.captured.size());
  for (const Use& u : n.captured) use(h, u, of);
  h.number(n.outputs.size());
  for (const ValueId v : n.outputs) h.number(v == ValueId::none);
  return h.finish();
}

std::vector<Digest> Merkle::values(const Graph& graph, bool is_body) {
  std::vector<Digest> of(graph.value_slots());
  for (const ValueId v : graph.values()) {
    const Value& value = graph[v];
    of[index(v)] = value.data.empty() ? Hasher().text("unprovided").text(value.name).finish() : tensor(value.data);
  }
  for (std::size_t i = 0; i < graph.inputs.size(); ++i) {
    const Value& value = graph[graph.inputs[i]];
    if (!value.data.empty()) continue;
    Hasher h;
    h.text("input");
    if (is_body) {
      h.number(i);
    } else {
      h.text(value.name);
    }
    type(h, value.type);
    of[index(graph.inputs[i])] = h.finish();
  }
  for (const Capture& c : graph.captures) of[index(c.inner)] = Hasher().text("capture").number(c.outer).finish();
  for (const NodeId id : graph.order()) {
    const Node& n = graph[id];
    const Digest d = node(graph, n, of);
    for (std::size_t k = 0; k < n.outputs.size(); ++k) {
      if (n.outputs[k] != ValueId::none) of[index(n.outputs[k])] = Hasher().text("output").digest(d).number(k).finish();
    }
  }
  return of;
}

Digest Merkle::outputs(const Graph& graph, const std::vector<Digest>& of) {
  Hasher h;
  h.text("graph").number(graph.inputs.size()).number(graph.outputs.size());
  for (const Use& u : graph.outputs) use(h, u, of);
  return h.finish();
}

}  // namespace

Digest fingerprint(const QuantSpec& spec) { return quant(spec); }

std::vector<Digest> merkle(const Graph& graph, bool quantized) {
  return Merkle(graph.model.get(), quantized).values(graph, false);
}

Digest fingerprint(const Graph& graph, bool quantized) {
  Merkle m(graph.model.get(), quantized);
  const std::vector<Digest> of = m.values(graph, false);
  Hasher h;
  h.digest(m.outputs(graph, of));
  for (const ValueId v : graph.inputs) {
    h.text(graph[v].name);
    m.type(h, graph[v].type);
  }
  for (const Use& u : graph.outputs) h.text(graph[u.value].name);
  if (graph.model) {
    for (const auto& [domain, version] : graph.model->opsets) h.text(domain).number(version);
  }
  return h.finish();
}

}  // namespace qtool
