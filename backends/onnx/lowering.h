// SPDX-License-Identifier: Apache-2.0
// Lowering: a graph on its way from decisions to nodes. It holds the graph as decided (`decided`, never changed) and
// the graph being written (`out`), which share ids: a rule reads decisions from the first and rewrites the second.
// New names are derived from old ones, so that the same graph always gives the same file.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/journal.h"
#include "formats/ir/graph.h"
#include "formats/ir/quant.h"
#include "formats/target.h"

namespace qtool::onnx_form {

/// The initializers that carry a spec's scales and zero points, as inputs for Q and DQ nodes.
struct Parameters {
  ValueId scale = ValueId::none, zero_point = ValueId::none;
};

class Lowering {
 public:
  Lowering(Graph graph, const Target& target, Journal& journal);

  const Graph decided;
  const Links links;  // of `decided`
  Graph out;
  const Target& target;
  Journal& journal;

  /// `stem`, or `stem_1`, ...: not the name of any value or node, bodies included.
  std::string fresh(std::string_view stem);
  ValueId constant(std::string_view stem, Tensor data);
  /// A value that a node will produce; the type of `like` with another element type.
  ValueId value(std::string_view stem, const Type& like, DType dtype);
  /// Adds a node named after its first output's value and the operator.
  NodeId node(std::string_view op, std::string_view domain, const std::vector<ValueId>& inputs,
              std::vector<ValueId> outputs, Attrs attrs = {});
  /// Imports com.microsoft version 1.
  void use_contrib();

  /// The spec of input `position` of a node, as decided; null when that input is as stored or absent.
  Quant quant(NodeId n, std::size_t position) const;
  /// The value at input `position`, or none.
  ValueId input(NodeId n, std::size_t position) const;
  /// The third operand of Conv or Gemm; none where there is none or Gemm multiplies it by 0.
  ValueId third_operand(NodeId n) const;
  /// The single node that uses `v`, when exactly one use of it exists and that is a node input.
  std::optional<Links::Consumer> only_consumer(ValueId v) const;
  /// Extents of a value where they are known; empty optional: rank unknown.
  std::optional<Shape> shape(ValueId v) const;

  /// Journals that node `n` runs as `kernel`.
  void emitted(NodeId n, std::string_view kernel);
  /// Journals that the written form of `n` is larger or slower than float, and why.
  void costs(NodeId n, std::string_view why);

  /// Erases constants that lost their last use, raises the IR to what opset and types need, checks that no
  /// annotation is left, and hands the graph over.
  Graph finish();

 private:
  std::set<std::string, std::less<>> names_;
};

/// `spec` with scales and codes for constant `data`: what is missing is taken from the data, nearest codes. Both levels
/// of scales are multiplied out.
QuantSpec resolved(const QuantSpec& spec, const Tensor& data);
/// The ONNX element type that stores the codes: the format's own, or the integer of 4 or 8 bits that holds it (int7).
DType storage_type(const NumberFormat& format);
/// Codes packed in storage_type().
Tensor stored_codes(const QuantSpec& spec);
/// The spec's zero points in `dtype`, zeros where there are none; shape of the scale.
Tensor stored_zero_point(const QuantSpec& spec, DType dtype);

/// True for an 8-bit activation whose scale is fixed before run time.
bool is_static(const Quant& quant);

}  // namespace qtool::onnx_form
