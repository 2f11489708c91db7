// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/snapshot.h"

#include <algorithm>
#include <variant>

#include "formats/base/error.h"
#include "formats/ir/quant.h"
#include "formats/number/number.h"

namespace qtool {
namespace {

constexpr std::size_t large = 4096;   // bytes: of tensors that are entries of their own
constexpr std::uint64_t nothing = 0;  // places are told plus one
constexpr int deepest = 32;           // bodies in bodies; readers of models take fewer

enum class Form : std::uint8_t { none, of_base, again, strings, small, stored };

/// Calls read() with the wanted alternative of the variant, made empty.
template <std::size_t I = 0, class F>
void with_alternative(std::size_t wanted, decltype(Attr::value)& value, const F& read) {
  if constexpr (I < std::variant_size_v<decltype(Attr::value)>) {
    if (wanted == I) return read(value.emplace<I>());
    with_alternative<I + 1>(wanted, value, read);
  } else {
    ByteReader::fail();
  }
}

}  // namespace

Snapshots::Snapshots(const Graph& base) : base_(base) { collect(base_); }

void Snapshots::collect(const ExtrasPtr& extras) {
  if (extras && extras_places_.emplace(extras.get(), extras_.size()).second) extras_.push_back(extras);
}

void Snapshots::collect(const std::vector<Attr>& attrs) {
  const auto tensor = [&](const Tensor& t) {
    if (t.size_bytes() == 0) return;
    if (tensor_places_.emplace(t.bytes().data(), tensors_.size()).second) tensors_.push_back(t);
  };
  const auto body = [&](const std::shared_ptr<const Graph>& g) {
    if (!g || !body_places_.emplace(g.get(), bodies_.size()).second) return;
    bodies_.push_back(g);
    collect(*g);
  };
  for (const Attr& a : attrs) {
    collect(a.extras);
    if (const auto* t = std::get_if<Tensor>(&a.value)) tensor(*t);
    if (const auto* list = std::get_if<std::vector<Tensor>>(&a.value))
      std::for_each(list->begin(), list->end(), tensor);
    if (const auto* g = std::get_if<std::shared_ptr<const Graph>>(&a.value)) body(*g);
    if (const auto* list = std::get_if<std::vector<std::shared_ptr<const Graph>>>(&a.value)) {
      std::for_each(list->begin(), list->end(), body);
    }
  }
}

void Snapshots::collect(const Graph& graph) {
  collect(graph.extras);
  for (const ValueId v : graph.values()) {
    collect(graph[v].extras);
    const Tensor& t = graph[v].data;
    if (t.size_bytes() > 0 && tensor_places_.emplace(t.bytes().data(), tensors_.size()).second) tensors_.push_back(t);
  }
  for (const NodeId n : graph.nodes()) {
    collect(graph[n].extras);
    collect(graph[n].attrs.all);
  }
  if (!graph.model) return;
  collect(graph.model->extras);
}

struct Snapshots::Writer {
  const Snapshots& known;
  ByteWriter& out;
  const Save& save;
  std::map<const std::byte*, std::pair<std::uint64_t, Tensor>> fresh = {};  // written in this snapshot
  std::uint64_t written = 0;
  std::map<const QuantSpec*, std::uint64_t> specs = {};

  void place(std::uint64_t i) { out.count(static_cast<std::int64_t>(i)); }

  void shape(const Shape& s) {
    place(s.size());
    for (const std::int64_t d : s) out.number(d);
  }

  void extras(const ExtrasPtr& e) { place(e ? known.extras_places_.at(e.get()) + 1 : nothing); }

  /// Whether `t` is `other` under another name: the same bytes, as many elements of the same width.
  static bool same(const Tensor& t, const Tensor& other) {
    return t.count() == other.count() && bit_width(t.dtype()) == bit_width(other.dtype()) &&
           t.size_bytes() == other.size_bytes();
  }

  void tensor(const Tensor& t) {
    if (t.empty()) {
      out.number(Form::none);
      return;
    }
    const auto head = [&](Form form) {
      out.number(form).number(t.dtype());
      shape(t.shape());
    };
    if (t.dtype() == DType::string) {
      head(Form::strings);
      for (const std::string& s : t.read_strings()) out.text(s);
      return;
    }
    const std::byte* at = t.bytes().data();
    if (t.size_bytes() == 0) {
      head(Form::small);
    } else if (const auto old = known.tensor_places_.find(at);
               old != known.tensor_places_.end() && same(t, known.tensors_[old->second])) {
      head(Form::of_base);
      place(old->second);
    } else if (const auto again = fresh.find(at); again != fresh.end() && same(t, again->second.second)) {
      head(Form::again);
      place(again->second.first);
    } else {
      fresh.insert_or_assign(at, std::pair(written++, t));
      head(t.size_bytes() < large ? Form::small : Form::stored);
      if (t.size_bytes() < large) {
        out.bytes(t.bytes());
      } else {
        out.digest(t.digest());
        save(t);
      }
    }
  }

  void quant(const Quant& q) {
    if (!q) return place(nothing);
    const auto [at, first] = specs.try_emplace(q.get(), specs.size());
    place(at->second + 1);
    if (!first) return;
    for (const NumberFormat* f : {q->format, q->scale_format, q->alternative})
      out.text(f ? f->name : std::string_view());
    out.number(q->grain.kind).number(q->grain.axis).number(q->grain.group).number(q->grain.group2);
    out.number(q->rule).number(q->second_group).number(q->range_axis);
    out.number(q->symmetric).number(q->narrow).number(q->dynamic).number(q->is_bias);
    for (const Tensor* t : tensors_of(std::as_const(*q))) tensor(*t);
    place(q->ranges.size());
    for (const IndexRange& r : q->ranges) {
      out.number(r.begin).number(r.end);
      quant(r.quant);
    }
  }

  void use(const Use& u) {
    out.number(u.value);
    quant(u.quant);
  }
  void uses(const std::vector<Use>& list) {
    place(list.size());
    for (const Use& u : list) use(u);
  }

  void type(const Type& t) {
    out.number(t.dtype).number(t.known_dtype).number(t.known_rank).number(t.kind);
    shape(t.shape);
    place(t.symbols.size());
    for (const std::string& s : t.symbols) out.text(s);
  }

  void item(std::int64_t v) { out.number(v); }
  void item(float v) { out.number(v); }
  void item(const std::string& s) { out.text(s); }
  void item(const Tensor& t) { tensor(t); }
  void item(const AttrRef& r) { out.text(r.name); }
  void item(const OpaqueAttr&) {}
  void item(const std::shared_ptr<const Graph>& g) {
    const auto old = known.body_places_.find(g.get());
    place(old != known.body_places_.end() ? old->second + 1 : nothing);
    if (old == known.body_places_.end()) graph(*g);
  }
  template <class T>
  void item(const std::vector<T>& list) {
    place(list.size());
    for (const T& v : list) item(v);
  }

  void attr(const Attr& a) {
    out.text(a.name).number(static_cast<std::uint8_t>(a.value.index()));
    std::visit([&](const auto& v) { item(v); }, a.value);
    extras(a.extras);
  }

  void model(const std::shared_ptr<const ModelInfo>& info) {
    const bool own = info && info != known.base_.model;
    out.number(info != nullptr).number(own);
    if (!own) return;
    out.number(info->ir_version);
    place(info->opsets.size());
    for (const auto& [domain, version] : info->opsets) out.text(domain).number(version);
    out.text(info->producer_name).text(info->producer_version);
    place(info->metadata.size());
    for (const auto& [name, value] : info->metadata) out.text(name).text(value);
    extras(info->extras);
  }

  void graph(const Graph& g) {
    out.text(g.name);
    place(g.value_slots());
    for (std::size_t i = 0; i < g.value_slots(); ++i) {
      const auto v = static_cast<ValueId>(i);
      out.number(g.alive(v));
      if (!g.alive(v)) continue;
      out.text(g[v].name);
      type(g[v].type);
      tensor(g[v].data);
      extras(g[v].extras);
    }
    place(g.node_slots());
    for (std::size_t i = 0; i < g.node_slots(); ++i) {
      const auto n = static_cast<NodeId>(i);
      out.number(g.alive(n));
      if (g.alive(n)) node(g[n]);
    }
    place(g.inputs.size());
    for (const ValueId v : g.inputs) out.number(v);
    uses(g.outputs);
    place(g.captures.size());
    for (const Capture& c : g.captures) out.number(c.inner).number(c.outer);
    model(g.model);
    extras(g.extras);
  }

  void node(const Node& n) {
    out.text(n.name).text(n.op).text(n.domain).text(n.overload);
    place(n.attrs.all.size());
    for (const Attr& a : n.attrs.all) attr(a);
    uses(n.inputs);
    place(n.outputs.size());
    for (const ValueId v : n.outputs) out.number(v);
    uses(n.captured);
    extras(n.extras);
  }
};

struct Snapshots::Reader {
  const Snapshots& known;
  ByteReader& in;
  const Load& load;
  std::vector<Tensor> fresh = {};
  std::vector<Quant> specs = {};
  std::size_t values = 0;  // of the graph that is being read
  int depth = 0;

  std::size_t place() { return static_cast<std::size_t>(in.count()); }
  /// How many follow, of a byte each at least.
  std::size_t size() {
    const std::size_t n = place();
    if (n > in.left()) ByteReader::fail();
    return n;
  }
  template <class T>
  static const T& at(const std::vector<T>& list, std::size_t i) {
    if (i >= list.size()) ByteReader::fail();
    return list[i];
  }

  Shape shape() {
    Shape s(size());
    for (std::int64_t& d : s) d = in.number<std::int64_t>();
    return s;
  }

  ExtrasPtr extras() {
    const std::size_t i = place();
    return i == nothing ? nullptr : at(known.extras_, i - 1);
  }

  static Tensor renamed(const Tensor& t, DType dtype, Shape shape) {
    if (bit_width(dtype) != bit_width(t.dtype()) || element_count(shape) != t.count()) ByteReader::fail();
    const Tensor typed = dtype == t.dtype() ? t : t.viewed_as(dtype);
    return shape == typed.shape() ? typed : typed.reshaped(std::move(shape));
  }

  Tensor tensor() {
    const Form form = in.choice(Form::stored);
    if (form == Form::none) return {};
    const DType dtype = in.choice(DType::f4e2m1);
    Shape dims = shape();
    if (form == Form::of_base) return renamed(at(known.tensors_, place()), dtype, std::move(dims));
    if (form == Form::again) return renamed(at(fresh, place()), dtype, std::move(dims));
    const std::int64_t count = element_count(dims);
    if (form == Form::strings) {
      if (dtype != DType::string || count > static_cast<std::int64_t>(in.left())) ByteReader::fail();
      std::vector<std::string> strings(static_cast<std::size_t>(count));
      for (std::string& s : strings) s = in.text();
      return Tensor::strings(std::move(dims), std::move(strings));
    }
    if (dtype == DType::string) ByteReader::fail();
    const std::size_t bytes = byte_size(dtype, count);
    std::shared_ptr<Buffer> buffer;
    if (form == Form::stored) {
      buffer = load(in.digest());
      if (!buffer || buffer->bytes().size() != bytes) ByteReader::fail();
    } else {
      const auto raw = in.bytes(bytes);
      Tensor t = Tensor::unset(dtype, dims);
      std::copy(raw.begin(), raw.end(), t.write_bytes().begin());
      if (bytes > 0) fresh.push_back(t);
      return t;
    }
    fresh.emplace_back(dtype, std::move(dims), std::move(buffer));
    return fresh.back();
  }

  const NumberFormat* format() {
    const std::string name = in.text();
    if (name.empty()) return nullptr;
    const NumberFormat* found = find_number(name);
    if (!found) ByteReader::fail();
    return found;
  }

  Quant quant() {
    const std::size_t i = place();
    if (i == nothing) return nullptr;
    if (i <= specs.size()) return specs[i - 1];
    if (i != specs.size() + 1) ByteReader::fail();
    auto q = std::make_shared<QuantSpec>();
    specs.push_back(q);
    q->format = format();
    q->scale_format = format();
    q->alternative = format();
    q->grain.kind = in.choice(Grain::Kind::blocks);
    q->grain.axis = in.number<int>();
    q->grain.group = in.number<std::int64_t>();
    q->grain.group2 = in.number<std::int64_t>();
    q->rule = in.choice(ScaleRule::four_over_six);
    q->second_group = in.number<std::int64_t>();
    q->range_axis = in.number<int>();
    for (bool* flag : {&q->symmetric, &q->narrow, &q->dynamic, &q->is_bias}) *flag = in.flag();
    for (Tensor* t : tensors_of(*q)) *t = tensor();
    q->ranges.resize(size());
    for (IndexRange& r : q->ranges) {
      r.begin = in.number<std::int64_t>();
      r.end = in.number<std::int64_t>();
      r.quant = quant();
      if (r.quant && !r.quant->ranges.empty()) ByteReader::fail();  // itself, or parts of parts
    }
    return q;
  }

  ValueId value() {
    const auto v = static_cast<ValueId>(in.number<std::uint32_t>());
    if (v != ValueId::none && index(v) >= values) ByteReader::fail();
    return v;
  }
  std::vector<ValueId> value_list() {
    std::vector<ValueId> list(size());
    for (ValueId& v : list) v = value();
    return list;
  }
  std::vector<Use> uses() {
    std::vector<Use> list(size());
    for (Use& u : list) {
      u.value = value();
      u.quant = quant();
    }
    return list;
  }

  Type type() {
    Type t;
    t.dtype = in.choice(DType::f4e2m1);
    t.known_dtype = in.flag();
    t.known_rank = in.flag();
    t.kind = in.choice(TypeKind::opaque);
    t.shape = shape();
    t.symbols.resize(size());
    for (std::string& s : t.symbols) s = in.text();
    return t;
  }

  void item(std::int64_t& v) { v = in.number<std::int64_t>(); }
  void item(float& v) { v = in.number<float>(); }
  void item(std::string& s) { s = in.text(); }
  void item(Tensor& t) { t = tensor(); }
  void item(AttrRef& r) { r.name = in.text(); }
  void item(OpaqueAttr&) {}
  void item(std::shared_ptr<const Graph>& g) {
    const std::size_t i = place();
    if (i != nothing) {
      g = at(known.bodies_, i - 1);
      return;
    }
    const std::size_t outer = values;
    g = std::make_shared<const Graph>(graph());
    values = outer;
  }
  template <class T>
  void item(std::vector<T>& list) {
    list.resize(size());
    for (T& v : list) item(v);
  }

  Attr attr() {
    Attr a;
    a.name = in.text();
    with_alternative(in.number<std::uint8_t>(), a.value, [&](auto& v) { item(v); });
    a.extras = extras();
    return a;
  }

  std::shared_ptr<const ModelInfo> model() {
    if (!in.flag()) return in.flag() ? (ByteReader::fail(), nullptr) : nullptr;
    if (!in.flag()) return known.base_.model;
    ModelInfo info;
    if (known.base_.model) info.functions = known.base_.model->functions;
    info.ir_version = in.number<std::int64_t>();
    for (std::size_t n = size(); n > 0; --n) {
      std::string domain = in.text();
      info.opsets[std::move(domain)] = in.number<std::int64_t>();
    }
    info.producer_name = in.text();
    info.producer_version = in.text();
    info.metadata.resize(size());
    for (auto& [name, text] : info.metadata) {
      name = in.text();
      text = in.text();
    }
    info.extras = extras();
    return std::make_shared<const ModelInfo>(std::move(info));
  }

  Node node() {
    Node n;
    for (std::string* s : {&n.name, &n.op, &n.domain, &n.overload}) *s = in.text();
    n.attrs.all.resize(size());
    for (Attr& a : n.attrs.all) a = attr();
    n.inputs = uses();
    n.outputs = value_list();
    n.captured = uses();
    n.extras = extras();
    return n;
  }

  Graph graph() {
    if (++depth > deepest) ByteReader::fail();
    Graph g;
    g.name = in.text();
    values = size();
    for (std::size_t i = 0; i < values; ++i) {
      const bool alive = in.flag();
      Value v;
      if (alive) {
        v.name = in.text();
        v.type = type();
        v.data = tensor();
        v.extras = extras();
      }
      const ValueId id = g.add_value(std::move(v));
      if (!alive) g.erase(id);
    }
    for (std::size_t n = size(); n > 0; --n) {
      const bool alive = in.flag();
      const NodeId id = g.add_node(alive ? node() : Node());
      if (!alive) g.erase(id);
    }
    g.inputs = value_list();
    g.outputs = uses();
    g.captures.resize(size());
    for (Capture& c : g.captures) {
      c.inner = value();
      c.outer = in.number<std::uint32_t>();
    }
    g.model = model();
    g.extras = extras();
    --depth;
    return g;
  }
};

bool Snapshots::can_write(const Graph& graph) const {
  const auto known = [&](const ExtrasPtr& e) { return !e || extras_places_.contains(e.get()); };
  bool all = known(graph.extras);
  if (graph.model && graph.model != base_.model) {
    const auto& own = graph.model->functions;
    const std::vector<Function> none;
    const auto& old = base_.model ? base_.model->functions : none;
    all = all && known(graph.model->extras) &&
          std::equal(own.begin(), own.end(), old.begin(), old.end(),
                     [](const Function& a, const Function& b) { return a.body == b.body && a.name == b.name; });
  }
  for (const ValueId v : graph.values()) all = all && known(graph[v].extras);
  for (const NodeId n : graph.nodes()) {
    all = all && known(graph[n].extras);
    for (const Attr& a : graph[n].attrs.all) all = all && known(a.extras);
    for_each_body(graph[n], [&](const Graph& body) { all = all && (body_places_.contains(&body) || can_write(body)); });
  }
  return all;
}

void Snapshots::write(const Graph& graph, ByteWriter& out, const Save& save) const {
  QTOOL_ENSURE(can_write(graph), "only what the base can tell is written");
  Writer{*this, out, save}.graph(graph);
}

Graph Snapshots::read(ByteReader& in, const Load& load) const { return Reader{*this, in, load}.graph(); }

void write_tensor(ByteWriter& out, const Tensor& t) {
  QTOOL_ENSURE(t.dtype() != DType::string, "only numbers are written by themselves");
  out.number(!t.empty()).number(t.dtype()).numbers<std::int64_t>(t.shape()).bytes(t.bytes());
}

Tensor read_tensor(ByteReader& in) {
  const bool any = in.flag();
  const DType dtype = in.choice(DType::f4e2m1);
  const Shape shape = in.numbers<std::int64_t>();
  if (!any) return {};
  if (dtype == DType::string) ByteReader::fail();
  const auto raw = in.bytes(byte_size(dtype, element_count(shape)));
  Tensor t = Tensor::unset(dtype, shape);
  std::copy(raw.begin(), raw.end(), t.write_bytes().begin());
  return t;
}

}  // namespace qtool
