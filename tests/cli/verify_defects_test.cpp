// SPDX-License-Identifier: Apache-2.0
// Mistakes as they happen to those who write quantized files, each planted into a file that is right: the check must
// find it and say so. The list follows the traps of onnx-quantized.md.
#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "backends/backend.h"
#include "backends/verify/verify.h"
#include "formats/base/rng.h"
#include "formats/file/reader.h"
#include "formats/ir/text.h"
#include "formats/lock.h"
#include "passes/rewrite.h"
#include "tests/cli/program.h"

using namespace qtool;
using namespace qtool::test;

namespace {

using Mutation = std::function<void(Graph&)>;

/// Float graphs that the samples have no like of: their text, and the shapes of their constants.
struct Small {
  const char* text;
  std::vector<std::pair<const char*, Shape>> constants;
};

const std::map<std::string, Small>& small_models() {
  static const std::map<std::string, Small> models{
      // Three blocks of 16 in 40 rows: the last one is not full, and an odd number of zero points.
      {"blocks",
       {R"(<ir_version: 8, opset_import: ["" : 17]>
          g (float[N,40] x) => (float[N,6] y) <float[1] w = {0}, float[1] b = {0}>
          { h = MatMul (x, w)  y = Add (h, b) })",
        {{"w", {40, 6}}, {"b", {6}}}}},
      {"tied",
       {R"(<ir_version: 8, opset_import: ["" : 17]>
          g (float[N,64] x) => (float[N,64] y) <float[1] w = {0}>
          { h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, w) })",
        {{"w", {64, 64}}}}},
      {"table",
       {R"(<ir_version: 8, opset_import: ["" : 17]>
          g (int64[N] ids) => (float[N,32] y) <float[1] t = {0}, float[1] w = {0}>
          { e = Gather (t, ids)  y = MatMul (e, w) })",
        {{"t", {50, 48}}, {"w", {48, 32}}}}},
      // Sums of so many codes leave int32.
      {"deep",
       {R"(<ir_version: 8, opset_import: ["" : 17]>
          g (float[1,140000] x) => (float[1,2] y) <float[1] w = {0}>
          { y = MatMul (x, w) })",
        {{"w", {140000, 2}}}}},
  };
  return models;
}

struct Base {
  const char *model, *recipe;
  std::vector<std::string> set;
  const char* target = "ort-cpu";
};

const std::map<std::string, Base>& bases() {
  static const std::map<std::string, Base> all{
      {"cnn", {"digits_cnn", "int8_static", {}}},
      {"cnn operators", {"digits_cnn", "int8_static", {"emit.form=qoperator"}}},
      {"cnn dynamic", {"digits_cnn", "int8_dynamic", {}}},
      {"transformer", {"digits_transformer", "int8_static", {}}},
      {"dynamic", {"digits_transformer", "int8_dynamic", {}}},
      {"blocks",
       {"blocks",
        "int4_weights",
        {"assign_formats.weights=uint4", "assign_formats.symmetric=false", "assign_formats.group=16"}}},
      {"tied", {"tied", "int8_weights", {}}},
      {"table",
       {"table",
        "int4_weights",
        {"assign_formats.weights=uint4", "assign_formats.symmetric=false", "assign_formats.group=16",
         "assign_formats.embeddings=true"}}},
      {"deep", {"deep", "int8_static", {}}},
      {"tensorrt", {"digits_transformer", "int4_weights", {}, "tensorrt"}},
      {"tensorrt pairs", {"digits_cnn", "int8_static", {}, "tensorrt"}},
  };
  return all;
}

/// Quantized once, by the program.
class Workshop {
 public:
  std::filesystem::path model(const std::string& base) const {
    const std::string name = bases().at(base).model;
    return small_models().contains(name) ? folder_ / (name + ".onnx") : std::filesystem::path(sample_model(name));
  }

  std::filesystem::path written(const std::string& base) {
    std::string stem = base;
    std::replace(stem.begin(), stem.end(), ' ', '_');
    std::filesystem::path file = folder_ / (stem + ".q.onnx");
    if (std::filesystem::exists(file)) return file;
    const Base& b = bases().at(base);
    if (const auto found = small_models().find(b.model); found != small_models().end()) {
      write_small(found->second, model(base));
    }
    const bool digits = std::string(b.model).starts_with("digits");
    std::vector<std::string> words{"quantize",
                                   model(base).string(),
                                   "--recipe",
                                   b.recipe,
                                   "-o",
                                   file.string(),
                                   "--target",
                                   b.target,
                                   "--quiet",
                                   "--calib",
                                   digits ? sample_data("digits_calib") : "random",
                                   "--set",
                                   "data.samples=16"};
    for (const std::string& s : b.set) words.insert(words.end(), {"--set", s});
    const Outcome done = run_qtool(words);
    CAPTURE(done.err);
    REQUIRE(done.code == 0);
    return file;
  }

  Verification check(const std::string& base, const std::filesystem::path& file, bool alone, bool with_lock) {
    const Target target = find_backend(bases().at(base).target)->target();
    const Lock lock = read_lock(written(base).string() + ".lock");
    VerifyRequest request;
    request.file = file;
    request.target = &target;
    if (!alone) request.against = model(base);
    if (!alone && with_lock) request.lock = &lock;
    Threads threads(2);
    return verify_file(request, threads);
  }

 private:
  static void write_small(const Small& small, const std::filesystem::path& file) {
    Graph g = parse_graph(small.text);
    for (const auto& [name, shape] : small.constants) {
      Tensor t(DType::f32, shape);
      Rng rng(7, "verify", name);
      std::uint64_t at = 0;
      for (float& v : t.write<float>()) v = static_cast<float>(rng.normal(at++));
      Value& value = g[*g.find_value(name)];
      value.type.shape = shape;
      value.data = std::move(t);
    }
    write_onnx(g, file);
  }

  ScratchFolder folder_own_;
  const std::filesystem::path folder_ = folder_own_.path();
};

Workshop& workshop() {
  static Workshop w;
  return w;
}

Value& value(Graph& g, const std::string& name) {
  const auto id = g.find_value(name);
  REQUIRE_MESSAGE(id, name);
  return g[*id];
}

NodeId node(const Graph& g, const std::string& name) {
  for (const NodeId id : g.nodes()) {
    if (g[id].name == name || (!g[id].outputs.empty() && g[g[id].outputs[0]].name == name)) return id;
  }
  REQUIRE_MESSAGE(false, name);
  return NodeId::none;
}

/// f(elements) of a constant.
template <class T>
Mutation edit(std::string name, std::function<void(std::span<T>)> f) {
  return [=](Graph& g) { f(value(g, name).data.template write<T>()); };
}

Mutation number(const char* name, std::size_t i, float x) {
  return edit<float>(name, [=](auto v) { v[i] = x; });
}

Mutation bytes(const char* name, std::function<void(std::span<std::byte>)> f) {
  return [=](Graph& g) { f(value(g, name).data.write_bytes()); };
}

/// Another tensor in place of a constant.
Mutation constant(const char* name, std::function<Tensor(const Tensor&)> f) {
  return [=](Graph& g) {
    Value& v = value(g, name);
    v.data = f(v.data);
    v.type.dtype = v.data.dtype();
    v.type.shape = v.data.shape();
    v.type.symbols.clear();
  };
}

Mutation shaped(const char* name, DType dtype, Shape shape) {
  return constant(name, [=](const Tensor&) { return Tensor(dtype, shape); });
}

/// Input `i` of a node reads another value.
Mutation rewire(const char* at, std::size_t i, const char* to) {
  return [=](Graph& g) { g[node(g, at)].inputs[i].value = *g.find_value(to); };
}

/// Input `i` of a node reads a changed copy of its constant.
template <class T>
Mutation own_copy(const char* at, std::size_t i, std::function<void(std::span<T>)> f) {
  return [=](Graph& g) {
    const NodeId n = node(g, at);
    Tensor copy = g[g[n].inputs[i].value].data;
    f(copy.template write<T>());
    g[n].inputs[i].value = add_constant(g, "planted", std::move(copy));
  };
}

Mutation attribute(const char* at, const char* name, std::int64_t to) {
  return [=](Graph& g) { g[node(g, at)].attrs.set(name, to); };
}

Mutation info(std::function<void(ModelInfo&)> f) {
  return [=](Graph& g) {
    ModelInfo m = *g.model;
    f(m);
    g.model = std::make_shared<const ModelInfo>(m);
  };
}

Mutation inputs(const char* at, std::function<void(std::vector<Use>&)> f) {
  return [=](Graph& g) { f(g[node(g, at)].inputs); };
}

Tensor transposed(const Tensor& t) {
  Tensor out(t.dtype(), {t.shape()[1], t.shape()[0]});
  const std::size_t rows = static_cast<std::size_t>(t.shape()[0]), columns = static_cast<std::size_t>(t.shape()[1]);
  const std::size_t size = t.size_bytes() / (rows * columns);
  for (std::size_t i = 0; i < rows * columns; ++i) {
    std::copy_n(t.bytes().data() + i * size, size,
                out.write_bytes().data() + (i % columns * rows + i / columns) * size);
  }
  return out;
}

std::byte swapped(std::byte b) { return (b << 4) | (b >> 4); }

constexpr float nan = std::numeric_limits<float>::quiet_NaN(), infinite = std::numeric_limits<float>::infinity();

enum class With : std::uint8_t { nothing, model, lock };

struct Planted {
  const char* name;
  const char* base;
  With with;  // what is given beside the file
  Mutation mutation;
  const char* words;  // that one of the defects has
};

const std::vector<Planted>& table() {
  static const std::vector<Planted> all{
      // Scales.
      {"a scale is zero", "cnn", With::nothing, number("widen.conv.weight_scale", 2, 0), "scale 2 is 0"},
      {"a scale is NaN", "cnn", With::nothing, number("image_scale", 0, nan), "scale 0 is nan"},
      {"a scale is negative", "cnn", With::nothing, number("widen.conv.weight_scale", 1, -0.01F), "scale 1 is -0.01"},
      {"a scale is infinite", "cnn operators", With::nothing, number("image_scale", 0, infinite), "scale 0 is inf"},
      {"a scale is subnormal", "dynamic", With::nothing, number("head.logits.weight_scale", 3, 1e-41F), "subnormal"},
      {"a scale of a block is zero", "blocks", With::nothing, number("w_scales", 5, 0), "scale 5 is 0"},
      {"scales of two channels are swapped", "cnn", With::model,
       edit<float>("widen.conv.weight_scale", [](auto s) { std::swap(s[0], s[1]); }), "is the nearest to"},
      {"a scale is rounded to a power of two, its codes are not", "cnn", With::model,
       edit<float>("last.conv.weight_scale", [](auto s) { s[3] = std::exp2(std::round(std::log2(s[3]))); }), "codes are not the nearest"},
      {"too few scales", "cnn", With::nothing, shaped("last.conv.weight_scale", DType::f32, {3}), "3 scales"},
      {"scales lie along the input channels", "cnn", With::nothing, attribute("head.hidden.weight_dequantized", "axis", 5),
       "axis 5 is outside"},
      {"axis off by one", "cnn", With::nothing, attribute("widen.conv.weight_dequantized", "axis", 1), "on axis 1"},
      {"the axis of the bias is the default", "cnn", With::nothing,
       [](Graph& g) { g[node(g, "stem.conv.bias_dequantized")].attrs.erase("axis"); }, "axis 1 is outside"},
      {"scales of blocks are transposed", "blocks", With::nothing, constant("w_scales", transposed), "not [N, blocks]"},
      {"scales of blocks in pairs are transposed", "tensorrt", With::nothing,
       constant("block0.mlp.up.weight_scale", transposed), "not the shape of the blocks"},
      {"blocks lie along the output channels", "tensorrt", With::nothing,
       [](Graph& g) {
         attribute("block0.mlp.up.weight_dequantized", "axis", 1)(g);
         const Shape w = value(g, "block0.mlp.up.weight_quantized").data.shape();
         const Shape s{w[0], (w[1] + 31) / 32};
         for (const char* name : {"block0.mlp.up.weight_scale", "block0.mlp.up.weight_zero_point"}) {
           const DType dtype = value(g, name).data.dtype();
           shaped(name, dtype, s)(g);
         }
         for (float& v : value(g, "block0.mlp.up.weight_scale").data.write<float>()) v = 0.1F;
       },
       "blocks lie along axis 1"},

      // Zero points.
      {"int32 codes have a zero point", "cnn", With::nothing,
       edit<std::int32_t>("stem.conv.bias_zero_point", [](auto z) { z[0] = 3; }), "int32 codes have a zero point"},
      {"the zero point of int8 codes is uint8", "cnn", With::nothing,
       constant("stem.conv.weight_zero_point", [](const Tensor& t) { return Tensor(DType::u8, t.shape()); }), "differ in type"},
      {"one zero point for many scales", "cnn", With::nothing, shaped("last.conv.weight_zero_point", DType::i8, {1}),
       "1 zero point"},
      {"a Gemm weight without zero point", "cnn", With::nothing,
       inputs("head.hidden.weight_dequantized", [](auto& in) { in.resize(2); }), "explicit zero point"},
      {"a zero point that cuts what Relu keeps", "cnn", With::nothing,
       edit<std::uint8_t>("stem.relu.out_zero_point", [](auto z) { z[0] = 5; }), "it cuts values"},
      {"codes are read with another zero point", "cnn", With::nothing,
       own_copy<std::uint8_t>("image_dequantized", 2, [](auto z) { z[0] = static_cast<std::uint8_t>(z[0] + 1); }),
       "another zero point"},
      {"packed zero points of an odd row on the wrong side", "blocks", With::nothing,
       bytes("w_zero_points", [](auto z) { z[1] = swapped(z[1]); }), "behind the last zero point"},
      {"packed zero points have their nibbles swapped", "blocks", With::model,
       bytes("w_zero_points",
             [](auto z) {
               for (std::size_t i = 0; i < z.size(); i += 2) z[i] = swapped(z[i]);
             }),
       "codes are not the nearest"},
      {"packed zero points without a new byte per row", "blocks", With::nothing, shaped("w_zero_points", DType::u8, {9}),
       "packed row by row"},
      {"zero points are left out", "blocks", With::model, inputs("h", [](auto& in) { in.resize(3); }), "codes are not the nearest"},
      {"zero points of a table are left out", "table", With::model, inputs("e", [](auto& in) { in.resize(3); }),
       "codes are not the nearest"},
      {"float zero points", "blocks", With::nothing, shaped("w_zero_points", DType::f32, {6, 3}), "float zero points"},
      {"TensorRT gets a zero point", "tensorrt pairs", With::nothing,
       [](Graph& g) {
         for (const ValueId v : g.values()) {
           if (g[v].name.ends_with("out_zero_point")) return void(g[v].data.write<std::int8_t>()[0] = 4);
         }
       },
       "takes no zero points but 0"},
      {"TensorRT gets uint8", "tensorrt pairs", With::nothing,
       constant("last.conv.weight_zero_point", [](const Tensor& t) { return Tensor(DType::u8, t.shape()); }),
       "reads uint8 codes as int8"},

      // Codes.
      {"one bit of one code", "cnn", With::model,
       edit<std::int8_t>("last.conv.weight_quantized", [](auto q) { q[17] = static_cast<std::int8_t>(q[17] ^ 2); }), "(1 of "},
      {"one nibble of one block", "tensorrt", With::model,
       bytes("block1.mlp.up.weight_quantized", [](auto q) { q[40] ^= std::byte{0x10}; }), "(1 of "},
      {"codes of another run of the recipe", "cnn", With::lock,
       edit<std::int8_t>("last.conv.weight_quantized", [](auto q) { q[18] = static_cast<std::int8_t>(q[18] + 1); }),
       "not those of the lock"},
      {"two rows of a weight are swapped", "cnn", With::model,
       edit<std::int8_t>("head.logits.weight_quantized",
                         [](auto q) { std::swap_ranges(q.begin(), q.begin() + 48, q.begin() + 48); }),
       "codes are not the nearest"},
      {"a weight with the other sign", "transformer", With::model,
       edit<std::int8_t>("embed.weight_quantized", [](auto q) { for (auto& c : q) c = static_cast<std::int8_t>(-c); }),
       "codes are not the nearest"},
      {"codes are cut to seven bits, their scale is not", "cnn", With::model,
       edit<std::int8_t>("last.conv.weight_quantized",
                         [](auto q) { for (auto& c : q) c = std::clamp<std::int8_t>(c, -64, 63); }),
       "more than half of its range"},
      {"codes are cut where no format ends", "cnn", With::model,
       edit<std::int8_t>("last.conv.weight_quantized",
                         [](auto q) { for (auto& c : q) c = std::clamp<std::int8_t>(c, -100, 100); }),
       "which ends no format"},
      {"codes are truncated, not rounded", "cnn dynamic", With::model,
       edit<std::int8_t>("head.hidden.weight_quantized",
                         [](auto q) { for (auto& c : q) c = static_cast<std::int8_t>(c > 0 ? c - 1 : c); }),
       "codes are not the nearest"},
      {"a square weight is stored transposed", "transformer", With::model,
       constant("block0.attention.query.weight_quantized", transposed), "codes are not the nearest"},
      {"nibbles are swapped", "blocks", With::model, bytes("w_packed", [](auto q) { for (auto& b : q) b = swapped(b); }),
       "codes are not the nearest"},
      {"nibbles of a table are swapped", "table", With::model,
       bytes("t_packed", [](auto q) { for (auto& b : q) b = swapped(b); }), "codes are not the nearest"},
      {"signed codes without the offset of unsigned ones", "tied", With::model,
       bytes("w_packed", [](auto q) { for (auto& b : q) b ^= std::byte{0x80}; }), "codes are not the nearest"},
      {"the last block is filled up with other codes", "blocks", With::nothing,
       bytes("w_packed", [](auto q) { q[23] = std::byte{0x88}; }), "behind the end of column 0"},
      {"codes of int8 are declared as uint8", "cnn", With::nothing,
       constant("last.conv.weight_quantized", [](const Tensor& t) { return Tensor(DType::u8, t.shape()); }), "differ in type"},
      {"a tied weight is on two sets of scales", "tied", With::model,
       edit<float>("w_scales_1", [](auto s) { for (float& v : s) v *= 1.0001F; }), "on other scales than"},
      {"one set of codes is read on two scales", "cnn", With::nothing,
       [](Graph& g) {
         const NodeId n = node(g, "last.conv.weight_dequantized");
         Node copy = g[n];
         Tensor scale = g[copy.inputs[1].value].data;
         for (float& s : scale.write<float>()) s *= 2;
         copy.inputs[1].value = add_constant(g, "planted", std::move(scale));
         copy.name = "second";
         Value out = g[copy.outputs[0]];
         out.name = "second_out";
         copy.outputs[0] = g.add_value(out);
         const ValueId v = copy.outputs[0];
         g.add_node(copy);
         g[node(g, "last.conv")].inputs[1].value = v;
       },
       "with another scale"},

      // Biases.
      {"the scale of a bias lacks that of the weight", "cnn", With::nothing,
       [](Graph& g) {
         const float x = value(g, "stem.relu.out_scale").data.read<float>()[0];
         for (float& s : value(g, "widen.conv.bias_scale").data.write<float>()) s = x;
       },
       "not the product of input and weight scale"},
      {"the scale of a Gemm bias is ten times too large", "cnn", With::nothing,
       edit<float>("head.hidden.bias_scale", [](auto s) { for (float& v : s) v *= 10; }), "not the product"},
      {"one per cent is enough", "cnn", With::nothing, edit<float>("last.conv.bias_scale", [](auto s) { s[0] *= 1.01F; }),
       "bias scale 0"},
      {"a bias on the scale of another input", "cnn operators", With::lock,
       edit<std::int32_t>("last.conv.bias_quantized", [](auto q) { for (auto& c : q) c = c * 3 / 2; }), "biases are wrong"},
      {"the bias was not folded with its weight", "cnn dynamic", With::lock,
       [](Graph& g) {
         const Graph model = read_onnx(sample_model("digits_cnn"));
         Tensor& b = value(g, "last.conv.bias").data;
         for (float& v : b.write<float>()) v = 0.01F;
       },
       "biases are wrong"},
      {"one bias code", "cnn", With::lock, edit<std::int32_t>("head.logits.bias_quantized", [](auto q) { q[2] += 2; }),
       "bias 2 does not hold"},
      {"the bias was dropped", "cnn", With::lock, inputs("head.hidden", [](auto& in) { in.resize(2); }), "bias is missing"},
      {"the bias was dropped in an operator", "cnn operators", With::lock, inputs("last.conv", [](auto& in) { in.resize(8); }),
       "bias is missing"},
      {"a bias is cut off at the end of int32", "cnn", With::nothing,
       edit<std::int32_t>("head.logits.bias_quantized", [](auto q) { q[0] = 2147483647; }), "end of int32"},
      {"a bias and its sums leave int32", "cnn", With::nothing,
       edit<std::int32_t>("last.conv.bias_quantized", [](auto q) { q[0] = 2147483000; }), "beyond int32"},
      {"sums leave int32", "deep", With::nothing,
       [](Graph& g) {
         for (const ValueId v : g.values()) {
           if (g[v].name == "w_quantized") std::ranges::fill(g[v].data.write<std::int8_t>(), std::int8_t{127});
         }
       },
       "beyond int32"},
      {"an integer operator with a float bias", "cnn operators", With::nothing,
       constant("last.conv.bias_quantized", [](const Tensor& t) { return Tensor(DType::f32, t.shape()); }), "its bias is float32"},
      {"a bias of another length", "transformer", With::nothing, shaped("embed.bias", DType::f32, {7}),
       "not one number per output channel"},

      // Pairs and operators.
      {"DequantizeLinear is missing", "cnn", With::nothing, rewire("widen.conv", 0, "stem.relu.out_quantized"), "for numbers"},
      {"DequantizeLinear of a weight is missing", "cnn", With::nothing, rewire("widen.conv", 1, "widen.conv.weight_quantized"),
       "for numbers"},
      {"codes are read with another scale", "cnn", With::nothing,
       own_copy<float>("image_dequantized", 1, [](auto s) { s[0] *= 1.5F; }), "another scale"},
      {"an operator reads codes with another scale", "cnn operators", With::nothing,
       own_copy<float>("widen.conv", 1, [](auto s) { s[0] *= 1.5F; }), "another scale"},
      {"an operator takes uint8 codes with an int8 zero point", "transformer", With::nothing,
       [](Graph& g) {
         g[node(g, "embed.matmul")].inputs[4].value = add_constant(g, "planted", Tensor(DType::i8, {}));
       },
       "its zero point is int8"},
      {"the scale comes from another DynamicQuantizeLinear", "dynamic", With::nothing,
       [](Graph& g) {
         std::vector<NodeId> found;
         for (const NodeId n : g.nodes()) {
           if (g[n].op == "MatMulIntegerToFloat") found.push_back(n);
         }
         for (const NodeId n : found) {
           if (g[n].inputs[2].value != g[found[0]].inputs[2].value) {
             g[n].inputs[2] = g[found[0]].inputs[2];
             return;
           }
         }
       },
       "another scale"},
      {"an operator has scales per channel where it takes one", "cnn operators", With::nothing,
       [](Graph& g) {
         Tensor scale(DType::f32, {8});
         for (float& v : scale.write<float>()) v = 0.02F;
         g[node(g, "widen.conv")].inputs[6].value = add_constant(g, "planted", std::move(scale));
       },
       "where its kernel takes one"},
      {"a convolution without a quantizer behind it", "cnn", With::nothing, rewire("widen.conv", 0, "stem.relu.out"),
       "no QuantizeLinear behind it"},
      {"a float layer between pairs", "cnn", With::nothing,
       [](Graph& g) {
         const Shape shape = value(g, "widen.conv.weight_quantized").data.shape();
         Tensor w(DType::f32, shape);
         g[node(g, "widen.conv")].inputs[1].value = add_constant(g, "planted", std::move(w));
       },
       "quantize it by itself"},
      {"a pool between two scales", "cnn", With::nothing,
       [](Graph& g) {
         for (const char* at : {"widen.pool.out_quantized", "widen.pool.out_dequantized"}) {
           own_copy<float>(at, 1, [](auto s) { s[0] *= 2; })(g);
         }
       },
       "between codes of two scales"},
      {"codes are inputs of the graph", "cnn", With::nothing,
       [](Graph& g) { g.inputs.push_back(*g.find_value("last.conv.weight_quantized")); }, "input of the graph"},
      {"a table is dequantized for every call", "cnn", With::nothing,
       [](Graph& g) {
         Node gather;
         gather.op = "Gather";
         gather.name = "planted";
         gather.inputs = {{*g.find_value("head.logits.weight_dequantized"), nullptr},
                          {add_constant(g, "index", Tensor::of<std::int64_t>({1}, {0})), nullptr}};
         Value out = value(g, "head.hidden.out");
         out.name = "planted_out";
         gather.outputs = {g.add_value(out)};
         g.add_node(gather);
       },
       "dequantized for every call"},

      // Attributes of operators.
      {"block_size without a kernel", "blocks", With::nothing, attribute("h", "block_size", 24), "block_size 24 has no kernel"},
      {"three bits", "blocks", With::nothing, attribute("h", "bits", 3), "3 bits have no kernel"},
      {"another K", "blocks", With::nothing, attribute("h", "K", 56), "weight is not [N, blocks, bytes per block]"},
      {"codes of two dimensions", "blocks", With::nothing,
       constant("w_packed", [](const Tensor& t) { return t.reshaped({6, 24}); }), "weight is not [N, blocks, bytes per block]"},
      {"no accuracy level", "blocks", With::nothing, [](Graph& g) { g[node(g, "h")].attrs.erase("accuracy_level"); },
       "left to the session"},
      {"g_idx", "blocks", With::nothing,
       inputs("h", [](auto& in) {
         in.resize(4);
         in.push_back(in[3]);
       }),
       "g_idx"},
      {"blocks of a table along the other axis", "table", With::nothing, attribute("e", "quantize_axis", 0), "along the rows"},
      {"scales of a table for other blocks", "table", With::nothing, attribute("e", "block_size", 32), "scales per row"},

      // Versions and names.
      {"IR beyond the runtime", "cnn", With::nothing, info([](ModelInfo& m) { m.ir_version = 14; }), "IR version 14"},
      {"opset beyond the runtime", "cnn", With::nothing, info([](ModelInfo& m) { m.opsets[""] = 27; }), "opset 27"},
      {"opset without scales per channel", "cnn", With::nothing, info([](ModelInfo& m) { m.opsets[""] = 12; }), "needs opset 13"},
      {"opset without blocks", "tensorrt", With::nothing, info([](ModelInfo& m) { m.opsets[""] = 19; }), "needs opset 21"},
      {"opset without dynamic quantization", "dynamic", With::nothing, info([](ModelInfo& m) { m.opsets[""] = 10; }),
       "needs opset 11"},
      {"IR without 4-bit types", "tensorrt", With::nothing, info([](ModelInfo& m) { m.ir_version = 8; }), "needs IR version 10"},
      {"a domain is not imported", "blocks", With::nothing, info([](ModelInfo& m) { m.opsets.erase("com.microsoft"); }),
       "is not imported"},
      {"an output lost its name", "cnn", With::model, [](Graph& g) { g[g.outputs[0].value].name = "other"; }, "keep the names"},

      // What stayed float.
      {"a float weight was not folded", "cnn dynamic", With::model,
       [](Graph& g) {
         const Graph model = read_onnx(sample_model("digits_cnn"));
         value(g, "last.conv.weight").data = model[*model.find_value("last.conv.weight")].data;
       },
       "the model's became"},
      {"a constant that no pass touches", "dynamic", With::model, number("block0.mlp.norm.scale", 3, 1.25F),
       "not those of the model"},
  };
  return all;
}

}  // namespace

TEST_CASE("verify: every planted defect is found, and the files are clean without it") {
  const ScratchFolder folder;
  int found = 0;
  for (const Planted& p : table()) {
    const std::string name = p.name;
    CAPTURE(name);
    const std::filesystem::path clean = workshop().written(p.base);
    const bool alone = p.with == With::nothing, with_lock = p.with == With::lock;
    CHECK(workshop().check(p.base, clean, alone, with_lock).clean());
    Graph g = read_onnx(clean);
    p.mutation(g);
    write_onnx(g, folder / "m.onnx");
    const Verification v = workshop().check(p.base, folder / "m.onnx", alone, with_lock);
    std::string all;
    bool told = false;
    for (const Defect& d : v.defects) {
      all += "\n" + d.text() + "; " + d.advice;
      told = told || (d.text() + "; " + d.advice).find(p.words) != std::string::npos;
    }
    CAPTURE(all);
    CHECK(told);
    found += told ? 1 : 0;
  }
  CHECK(found >= 40);
}
