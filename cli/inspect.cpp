// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <filesystem>
#include <map>

#include "cli/command.h"
#include "cli/text.h"
#include "cli/weights.h"
#include "formats/file/reader.h"
#include "formats/ir/text.h"

namespace qtool {
namespace {

/// Counts over a graph and all its bodies.
struct Census {
  std::map<std::string, std::int64_t> ops;
  struct Constants {
    std::int64_t tensors = 0, elements = 0;
    std::uint64_t bytes = 0;
  };
  std::map<std::string, Constants> constants;  // by type
  std::int64_t nodes = 0, quantized = 0;

  void add(const Graph& graph) {
    for (const ValueId id : graph.values()) {
      const Tensor& data = graph[id].data;
      if (data.empty()) continue;
      Constants& c = constants[std::string(name_of(data.dtype()))];
      ++c.tensors;
      c.elements += data.count();
      c.bytes += data.size_bytes();
    }
    for (const NodeId id : graph.nodes()) {
      const Node& node = graph[id];
      ++nodes;
      ++ops[(node.domain.empty() ? "" : node.domain + ".") + node.op];
      quantized += is_quantized(node.op);
      for_each_body(node, [this](const Graph& body) { add(body); });
    }
  }
  static bool is_quantized(const std::string& op) {
    static constexpr std::array parts{"QuantizeLinear", "DequantizeLinear", "QLinear",        "Integer",        "NBits",
                                      "QGemm",          "QAttention",       "BlockQuantized", "DynamicQuantize"};
    return std::any_of(parts.begin(), parts.end(), [&](const char* p) { return op.find(p) != std::string::npos; });
  }
};

std::string shape_text(const Type& type) {
  if (!type.known_rank) return "?";
  std::string text = "[";
  for (std::size_t i = 0; i < type.shape.size(); ++i) {
    const bool named = type.shape[i] < 0 && i < type.symbols.size() && !type.symbols[i].empty();
    text += (i ? ", " : "") + (named ? type.symbols[i] : type.shape[i] < 0 ? "?" : std::to_string(type.shape[i]));
  }
  return text + "]";
}

Json value_json(const Value& value) {
  Json object = Json::object();
  object.set("name", value.name).set("dtype", value.type.known_dtype ? Json(name_of(value.type.dtype)) : Json());
  if (!value.type.known_rank) return object.set("shape", Json());
  Json shape = Json::array();
  for (std::size_t i = 0; i < value.type.shape.size(); ++i) {
    const std::int64_t extent = value.type.shape[i];
    const bool named = extent < 0 && i < value.type.symbols.size() && !value.type.symbols[i].empty();
    shape.push(named ? Json(value.type.symbols[i]) : extent < 0 ? Json() : Json(extent));
  }
  return object.set("shape", std::move(shape));
}

class Inspect final : public Command {
  std::string model_;
  bool text_ = false;

 public:
  void arguments(Arguments& a) override {
    a.positional("MODEL", model_, "ONNX file");
    a.flag("--text", text_, "print the graph in ONNX text syntax instead");
  }

  void run(Console& console) override {
    const Graph graph = read_model(model_);
    if (text_) return console.print(print_graph(graph));
    Census census;
    census.add(graph);
    console.print(describe(graph, census));
    console.result(json_of(graph, census));
  }

 private:
  std::string describe(const Graph& graph, const Census& census) const {
    const ModelInfo& info = *graph.model;
    std::string text = model_ + ": " + bytes_text(model_bytes(model_, graph)) + "\n";
    text += "IR " + std::to_string(info.ir_version) + ", opset";
    for (const auto& [domain, version] : info.opsets) {
      text += " " + (domain.empty() ? "" : domain + " ") + std::to_string(version);
    }
    if (!info.producer_name.empty()) text += ", made by " + info.producer_name + " " + info.producer_version;
    text += "\n\n";
    Table values({"", "name", "type", "shape"});
    values.left(1).left(2).left(3);
    const auto row = [&](const char* what, const Value& v) {
      values.row({what, v.name, v.type.known_dtype ? std::string(name_of(v.type.dtype)) : "?", shape_text(v.type)});
    };
    for (const ValueId id : graph.inputs) {
      if (!graph.is_constant(id)) row("input", graph[id]);
    }
    for (const Use& use : graph.outputs) row("output", graph[use.value]);
    text += values.text() + "\n";
    Table ops({"operator", "nodes"});
    std::vector<std::pair<std::string, std::int64_t>> counts(census.ops.begin(), census.ops.end());
    std::stable_sort(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
    for (const auto& [op, count] : counts) ops.row({op, std::to_string(count)});
    ops.row({"all", std::to_string(census.nodes)});
    text += ops.text() + "\n";
    Table constants({"constants", "tensors", "elements", "bytes"});
    for (const auto& [dtype, c] : census.constants) {
      constants.row(
          {dtype, std::to_string(c.tensors), grouped(static_cast<std::uint64_t>(c.elements)), grouped(c.bytes)});
    }
    text += constants.text();
    return text + "\n" +
           (census.quantized == 0 ? "nothing is quantized"
                                  : std::to_string(census.quantized) +
                                        " nodes quantize, dequantize or compute "
                                        "in low precision") +
           "\n";
  }

  Json json_of(const Graph& graph, const Census& census) const {
    const ModelInfo& info = *graph.model;
    Json report = Json::object();
    report.set("model", model_).set("bytes", model_bytes(model_, graph)).set("ir_version", info.ir_version);
    Json opsets = Json::object();
    for (const auto& [domain, version] : info.opsets) opsets.set(domain.empty() ? "ai.onnx" : domain, version);
    report.set("opsets", std::move(opsets)).set("producer", info.producer_name);
    Json inputs = Json::array(), outputs = Json::array(), ops = Json::object(), constants = Json::object();
    for (const ValueId id : graph.inputs) {
      if (!graph.is_constant(id)) inputs.push(value_json(graph[id]));
    }
    for (const Use& use : graph.outputs) outputs.push(value_json(graph[use.value]));
    for (const auto& [op, count] : census.ops) ops.set(op, count);
    for (const auto& [dtype, c] : census.constants) {
      Json row = Json::object();
      constants.set(dtype, row.set("tensors", c.tensors).set("elements", c.elements).set("bytes", c.bytes));
    }
    Json metadata = Json::object();
    for (const auto& [key, value] : info.metadata) metadata.set(key, value);
    report.set("inputs", std::move(inputs)).set("outputs", std::move(outputs)).set("nodes", census.nodes);
    report.set("operators", std::move(ops)).set("constants", std::move(constants));
    return report.set("quantized_nodes", census.quantized).set("metadata", std::move(metadata));
  }
};

}  // namespace

constinit const CommandDef command::inspect{
    "inspect",
    "tell what is in a model: inputs, outputs, operators, sizes by type, what is quantized already",
    "",
    "qtool inspect model.onnx\nqtool inspect model.onnx --text | less\nqtool inspect model.onnx --json -",
    false,
    false,
    make_command<Inspect>};

}  // namespace qtool
