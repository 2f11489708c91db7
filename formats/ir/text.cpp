// SPDX-License-Identifier: Apache-2.0
// The parser is that of libonnx; printing is ours, since names need quoting and decisions need comments.
#include "formats/ir/text.h"

#include <onnx/defs/parser.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <set>

#include "formats/base/error.h"
#include "formats/file/reader.h"
#include "formats/ir/quant.h"

namespace qtool {
namespace {

constexpr std::int64_t shown_elements = 16;  // longer constants are summarised

/// Spelling of an element type in ONNX text (onnx/defs/parser.h; newer types as onnx.proto names them).
std::string type_word(DType dtype) {
  switch (dtype) {
    case DType::f32: return "float";
    case DType::f64: return "double";
    case DType::f16: return "float16";
    case DType::bf16: return "bfloat16";
    case DType::i8: return "int8";
    case DType::u8: return "uint8";
    case DType::i16: return "int16";
    case DType::u16: return "uint16";
    case DType::i32: return "int32";
    case DType::u32: return "uint32";
    case DType::i64: return "int64";
    case DType::u64: return "uint64";
    case DType::boolean: return "bool";
    case DType::string: return "string";
    case DType::c64: return "complex64";
    case DType::c128: return "complex128";
    case DType::i4: return "int4";
    case DType::u4: return "uint4";
    case DType::i2: return "int2";
    case DType::u2: return "uint2";
    default: return "float" + std::string(name_of(dtype)).substr(1);
  }
}

template <class T>
std::string number_text(T value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return {buffer, end};
}

std::string float_text(double value) {
  // The parser tells floats from integers by the point or the exponent.
  std::string text = number_text(static_cast<float>(value));
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      constexpr char digits[] = "0123456789abcdef";
      out += "\\x";
      out += digits[byte >> 4];
      out += digits[byte & 15];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string name_text(const std::string& name) {
  const auto plain = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  const bool identifier = !name.empty() && std::all_of(name.begin(), name.end(), plain) &&
                          std::isdigit(static_cast<unsigned char>(name[0])) == 0;
  return identifier ? name : quoted(name);
}

std::string shape_text(const Shape& shape, const std::vector<std::string>& symbols) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) out += ", ";
    if (shape[i] >= 0) {
      out += std::to_string(shape[i]);
    } else {
      out += i < symbols.size() && !symbols[i].empty() ? name_text(symbols[i]) : "?";
    }
  }
  return out + "]";
}

std::string type_text(const Type& type) {
  switch (type.kind) {
    case TypeKind::sequence: return "seq";
    case TypeKind::optional: return "optional";
    case TypeKind::map: return "map";
    case TypeKind::opaque: return "opaque";
    case TypeKind::sparse_tensor:
    case TypeKind::tensor: break;
  }
  if (!type.known_dtype) return {};
  std::string out = type_word(type.dtype);
  if (!type.known_rank) {
    out += "[]";  // a rank that is not known
  } else if (!type.shape.empty()) {
    out += shape_text(type.shape, type.symbols);
  }
  return type.kind == TypeKind::sparse_tensor ? "sparse_tensor(" + out + ")" : out;
}

template <class List, class F>
std::string joined(const List& list, F text) {
  std::string out;
  for (const auto& item : list) {
    if (!out.empty()) out += ", ";
    out += text(item);
  }
  return out;
}

/// FNV-1a over the bytes: enough to see in a diff that a long constant changed.
std::string short_hash(const Tensor& t) {
  std::uint64_t h = 0xcbf29ce484222325ULL;
  for (const std::byte b : t.bytes()) h = (h ^ std::to_integer<std::uint64_t>(b)) * 0x100000001b3ULL;
  char buffer[17];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, h, 16).ptr;
  return std::string(static_cast<std::size_t>(buffer + 16 - end), '0') + std::string(buffer, end);
}

std::string elements_text(const Tensor& t) {
  if (t.dtype() == DType::string) return "{" + joined(t.read_strings(), quoted) + "}";
  if (t.dtype() == DType::c64 || t.dtype() == DType::c128 || t.count() > shown_elements) {
    return "{...}";
  }
  if (t.dtype() == DType::f64) return "{" + joined(t.read<double>(), number_text<double>) + "}";
  if (t.dtype() == DType::u64) return "{" + joined(t.read<std::uint64_t>(), number_text<std::uint64_t>) + "}";
  if (is_integer(t.dtype()) || t.dtype() == DType::boolean) {
    return "{" + joined(to_int64s(t), number_text<std::int64_t>) + "}";
  }
  const Tensor floats = to_f32(t);
  return "{" + joined(floats.read<float>(), float_text) + "}";
}

/// " # sha..." when the elements are not all shown.
std::string summary(const Tensor& t) {
  if (t.dtype() == DType::string || elements_text(t) != "{...}") return {};
  return "  # " + short_hash(t);
}

std::string tensor_text(const Tensor& t) {
  return type_word(t.dtype()) + (t.shape().empty() ? std::string() : shape_text(t.shape(), {})) + " " +
         elements_text(t);
}

std::string grain_text(const Grain& grain) {
  switch (grain.kind) {
    case Grain::Kind::tensor: return "tensor";
    case Grain::Kind::axis: return "axis " + std::to_string(grain.axis);
    case Grain::Kind::groups:
      return "groups of " + std::to_string(grain.group) + " along axis " + std::to_string(grain.axis);
    case Grain::Kind::blocks: return "blocks of " + std::to_string(grain.group) + " x " + std::to_string(grain.group2);
  }
  return {};
}

std::string few(const Tensor& t) {
  return t.count() == 1 ? joined(to_f32(t).read<float>(), number_text<float>) : short_hash(t);
}

std::string quant_text(const QuantSpec& spec) {
  std::string out = spec.format == nullptr ? "?" : std::string(spec.format->name);
  out += " " + grain_text(spec.grain);
  if (spec.dynamic) out += " dynamic";
  if (spec.is_bias) out += " bias";
  if (spec.rule != ScaleRule::range) out += " rule=" + std::string(name_of(spec.rule));
  if (spec.alternative != nullptr) out += " or " + std::string(spec.alternative->name);
  if (!spec.scale.empty()) out += " scale=" + few(spec.scale);
  if (!spec.second_scale.empty()) out += " second_scale=" + few(spec.second_scale);
  if (!spec.scale_mean.empty()) out += " scale_mean=" + few(spec.scale_mean);
  if (!spec.zero_point.empty()) out += " zp=" + few(spec.zero_point);
  if (!spec.minimum.empty()) out += " min=" + few(spec.minimum);
  if (!spec.codes.empty()) out += " codes=" + short_hash(spec.codes);
  for (const IndexRange& r : spec.ranges) {
    out += " [" + std::to_string(r.begin) + ", " + std::to_string(r.end) + ") along axis " +
           std::to_string(spec.range_axis) + ": " + (r.quant ? quant_text(*r.quant) : "float");
  }
  return out;
}

class Printer {
 public:
  std::string print(const Graph& graph);

 private:
  void graph_text(const Graph& graph, const std::vector<std::string>& captured, int depth);
  void node_text(const Graph& graph, const Node& node, int depth);
  void attr_text(const Attr& attr, const std::vector<std::string>& captured, int depth);
  void quants_text(const Graph& graph, const Node& node);
  void function_text(const Function& function);
  std::string value_name(ValueId v) const {
    return v == ValueId::none ? "\"\"" : name_text(names_[static_cast<std::size_t>(v)]);
  }
  std::string typed(const Graph& graph, ValueId v) const {
    const std::string type = type_text(graph[v].type);
    return (type.empty() ? std::string() : type + " ") + value_name(v);
  }
  void indent(int depth) { out_.append(2 * static_cast<std::size_t>(depth), ' '); }

  std::string out_;
  std::vector<std::string> names_;  // of the graph that is being printed
};

void Printer::attr_text(const Attr& attr, const std::vector<std::string>& captured, int depth) {
  const auto named = [&](const std::string& text) { out_ += attr.name + " = " + text; };
  if (const auto* i = std::get_if<std::int64_t>(&attr.value)) named(std::to_string(*i));
  if (const auto* f = std::get_if<float>(&attr.value)) named(float_text(*f));
  if (const auto* s = std::get_if<std::string>(&attr.value)) named(quoted(*s));
  if (const auto* t = std::get_if<Tensor>(&attr.value)) named(tensor_text(*t));
  if (const auto* v = std::get_if<std::vector<std::int64_t>>(&attr.value)) {
    named("[" + joined(*v, number_text<std::int64_t>) + "]");
  }
  if (const auto* v = std::get_if<std::vector<float>>(&attr.value)) named("[" + joined(*v, float_text) + "]");
  if (const auto* v = std::get_if<std::vector<std::string>>(&attr.value)) named("[" + joined(*v, quoted) + "]");
  if (const auto* v = std::get_if<std::vector<Tensor>>(&attr.value)) named("[" + joined(*v, tensor_text) + "]");
  if (const auto* r = std::get_if<AttrRef>(&attr.value)) named("@" + r->name);
  if (std::holds_alternative<OpaqueAttr>(attr.value)) named("?");
  const auto body = [&](const Graph& g) {
    const auto outer = names_;
    graph_text(g, captured, depth + 2);
    names_ = outer;
  };
  if (const auto* g = std::get_if<std::shared_ptr<const Graph>>(&attr.value)) {
    named("");
    body(**g);
  }
  if (const auto* list = std::get_if<std::vector<std::shared_ptr<const Graph>>>(&attr.value)) {
    named("[");
    for (const auto& g : *list) body(*g);
    out_ += "]";
  }
}

void Printer::quants_text(const Graph& graph, const Node& node) {
  std::string notes;
  const auto note = [&](const Use& use) {
    if (use.quant)
      notes += (notes.empty() ? "  # " : "; ") + name_text(graph[use.value].name) + ": " + quant_text(*use.quant);
  };
  for (const Use& use : node.inputs) note(use);
  for (const Use& use : node.captured) note(use);
  out_ += notes;
}

void Printer::node_text(const Graph& graph, const Node& node, int depth) {
  indent(depth);
  if (!node.outputs.empty()) out_ += joined(node.outputs, [&](ValueId v) { return value_name(v); }) + " = ";
  if (!node.domain.empty()) out_ += node.domain + ".";
  out_ += node.op;
  if (!node.overload.empty()) out_ += ":" + node.overload;
  if (!node.attrs.all.empty()) {
    std::vector<std::string> captured;
    for (const Use& use : node.captured) captured.push_back(names_[static_cast<std::size_t>(use.value)]);
    out_ += " <";
    for (std::size_t i = 0; i < node.attrs.all.size(); ++i) {
      if (i > 0) out_ += ", ";
      attr_text(node.attrs.all[i], captured, depth);
    }
    out_ += ">";
  }
  // An input left out is an empty place, as the parser wants it; in the first place only quotes can show it.
  out_ += " (";
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    if (i > 0) out_ += ", ";
    if (i == 0 || node.inputs[i].value != ValueId::none) out_ += value_name(node.inputs[i].value);
  }
  out_ += ")";
  quants_text(graph, node);
  if (!node.name.empty()) out_ += "  # " + node.name;
  for (const Attr& attr : node.attrs.all) {
    if (const auto* t = std::get_if<Tensor>(&attr.value)) out_ += summary(*t);
  }
  out_ += "\n";
}

void Printer::graph_text(const Graph& graph, const std::vector<std::string>& captured, int depth) {
  names_.assign(graph.value_slots(), {});
  for (const ValueId v : graph.values()) names_[static_cast<std::size_t>(v)] = graph[v].name;
  for (const Capture& c : graph.captures) {
    if (c.outer < captured.size()) names_[static_cast<std::size_t>(c.inner)] = captured[c.outer];
  }
  const auto names = names_;
  out_ += graph.name.empty() ? "graph" : name_text(graph.name);
  out_ += " (" + joined(graph.inputs, [&](ValueId v) { return typed(graph, v); }) + ") => (" +
          joined(graph.outputs, [&](const Use& use) { return typed(graph, use.value); }) + ")";
  std::string notes;
  for (const Use& use : graph.outputs) {
    if (use.quant)
      notes += (notes.empty() ? "  # " : "; ") + name_text(graph[use.value].name) + ": " + quant_text(*use.quant);
  }
  out_ += notes + "\n";
  bool any = false;
  for (const ValueId v : graph.values()) {
    const Tensor& data = graph[v].data;
    if (data.empty()) continue;
    indent(depth);
    out_ += std::string(any ? "  " : "< ") + type_word(data.dtype()) +
            (data.shape().empty() ? std::string() : shape_text(data.shape(), {})) + " " + value_name(v) + " = " +
            elements_text(data) + "," + summary(data) + "\n";
    any = true;
  }
  if (any) {
    // The last comma goes; it stands before the comment of its line, if there is one.
    const std::size_t line = out_.rfind('\n', out_.size() - 2) + 1;
    out_.erase(out_.find("},", line) + 1, 1);
    indent(depth);
    out_ += ">\n";
  }
  indent(depth);
  out_ += "{\n";
  for (const NodeId n : graph.order()) {
    node_text(graph, graph[n], depth + 1);
    names_ = names;
  }
  indent(depth);
  out_ += "}";
}

std::string opsets_text(const std::map<std::string, std::int64_t>& opsets) {
  return "opset_import: [" +
         joined(opsets, [](const auto& entry) { return quoted(entry.first) + " : " + std::to_string(entry.second); }) +
         "]";
}

void Printer::function_text(const Function& function) {
  out_ += "\n<domain: " + quoted(function.domain) + ", " + opsets_text(function.opsets) + ">\n";
  const auto plain = [](const std::string& name) { return name; };
  std::vector<std::string> attributes = function.attributes;
  if (!attributes.empty()) out_ += "# attributes: " + joined(attributes, plain) + "\n";
  graph_text(*function.body, {}, 0);
  out_ += "\n";
}

std::string Printer::print(const Graph& graph) {
  if (graph.model) {
    out_ += "<ir_version: " + std::to_string(graph.model->ir_version) + ", " + opsets_text(graph.model->opsets) + ">\n";
  }
  graph_text(graph, {}, 0);
  out_ += "\n";
  if (graph.model) {
    for (const Function& function : graph.model->functions) function_text(function);
  }
  return std::move(out_);
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size() - 1);
    lines.push_back(text.substr(0, end + 1));
    text.remove_prefix(end + 1);
  }
  return lines;
}

/// Quotes that close, so that the parser of libonnx never looks beyond the end.
void check_quotes(std::string_view text) {
  bool open = false, comment = false;
  std::size_t line = 1, opened = 1;
  for (const char c : text) {
    if (c == '\n') {
      ++line;
      comment = false;
    } else if (c == '#' && !open) {
      comment = true;
    } else if (c == '"' && !comment) {
      open = !open;
      opened = line;
    }
  }
  if (open) throw Error(Code::input, "line " + std::to_string(opened) + ": a quotation mark is never closed");
}

}  // namespace

Graph parse_graph(std::string_view text) {
  check_quotes(text);
  const std::string source(text);  // the parser wants it to outlive the parse, and zero-terminated
  onnx::ModelProto model;
  onnx::OnnxParser parser(source.c_str());
  try {
    const auto status = parser.Parse(model);
    if (!status.IsOK()) {
      std::string message = status.ErrorMessage();
      std::replace(message.begin(), message.end(), '\n', ' ');
      throw Error(Code::input, "the ONNX text cannot be parsed: " + message);
    }
    if (!parser.EndOfInput()) {
      throw Error(Code::input, "the ONNX text goes on after the model, at " + parser.GetCurrentPos());
    }
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {  // numbers out of range
    throw Error(Code::input, "the ONNX text has a number that cannot be read, at " + parser.GetCurrentPos());
  }
  if (!model.has_graph()) throw Error(Code::input, "the ONNX text holds no graph");
  const std::string bytes = model.SerializeAsString();
  return read_onnx_bytes(std::as_bytes(std::span(bytes.data(), bytes.size())), "text");
}

std::string print_graph(const Graph& graph) { return Printer().print(graph); }

std::string diff_graphs(const Graph& before, const Graph& after) {
  const std::string old_text = print_graph(before), new_text = print_graph(after);
  const auto a = lines_of(old_text), b = lines_of(new_text);
  // Myers' greedy algorithm (1986) would be shorter for large graphs; equal ends are cut first, and what is left is
  // a table of longest common subsequences, or plain lists when the table would be large.
  std::size_t head = 0, tail = 0;
  while (head < std::min(a.size(), b.size()) && a[head] == b[head]) ++head;
  while (tail < std::min(a.size(), b.size()) - head && a[a.size() - 1 - tail] == b[b.size() - 1 - tail]) ++tail;
  const std::size_t n = a.size() - head - tail, m = b.size() - head - tail;
  std::string out;
  const auto removed = [&](std::size_t i) { out += "-" + std::string(a[head + i]); };
  const auto added = [&](std::size_t j) { out += "+" + std::string(b[head + j]); };
  constexpr std::size_t table_limit = std::size_t{1} << 24;
  if (n * m > table_limit) {
    for (std::size_t i = 0; i < n; ++i) removed(i);
    for (std::size_t j = 0; j < m; ++j) added(j);
    return out;
  }
  std::vector<std::uint32_t> common((n + 1) * (m + 1), 0);  // of a[i..], b[j..]
  const auto at = [&](std::size_t i, std::size_t j) -> std::uint32_t& { return common[i * (m + 1) + j]; };
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t j = m; j-- > 0;) {
      at(i, j) = a[head + i] == b[head + j] ? at(i + 1, j + 1) + 1 : std::max(at(i + 1, j), at(i, j + 1));
    }
  }
  std::size_t i = 0, j = 0;
  while (i < n || j < m) {
    if (i < n && j < m && a[head + i] == b[head + j]) {
      ++i;
      ++j;
    } else if (i < n && (j == m || at(i + 1, j) >= at(i, j + 1))) {
      removed(i++);
    } else {
      added(j++);
    }
  }
  return out;
}

}  // namespace qtool
