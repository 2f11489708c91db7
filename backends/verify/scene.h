// SPDX-License-Identifier: Apache-2.0
// Scene: a graph of the file as checks look at it: who makes and who reads a value, constants of outer graphs too, and
// a list for what is wrong. Every check is a function of a scene.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backends/verify/onnx_file.h"
#include "backends/verify/verify.h"

namespace qtool::verify {

/// Collects defects; a node that has one already gets no second one of the same kind.
class Findings {
 public:
  void add(const NodeView& n, const std::string& what, const std::string& advice) { add(n.label(), what, advice); }
  void add(const std::string& where, const std::string& what, const std::string& advice);
  std::vector<Defect> all;
};

struct Use {
  const NodeView* node = nullptr;  // null: an output of the graph, or a body that captures the value
  std::size_t input = 0;
};

/// Scale and zero point that codes are read or written with; null where they are absent or computed.
struct Parameters {
  std::string_view scale_name, zero_name;
  const TensorView *scale = nullptr, *zero = nullptr;
};

class Scene {
 public:
  Scene(const GraphView& graph, const FileView& file, const Target& target, Findings& findings,
        const Scene* outer = nullptr);

  const GraphView& graph;
  const FileView& file;
  const Target& target;
  Findings& findings;

  /// The constant of that name, outer graphs included; null: none. Empty names have none.
  const TensorView* constant(std::string_view name) const;
  const TensorView* constant(const NodeView& n, std::size_t input) const { return constant(n.input(input)); }
  const NodeView* producer(std::string_view name) const;
  /// The producer when it is `op` of the standard domain, else null.
  const NodeView* producer(const NodeView& n, std::size_t input, std::string_view op) const;
  const std::vector<Use>& uses(std::string_view name) const;
  bool is_output(std::string_view name) const;
  /// Whether a caller may override it.
  bool is_input(std::string_view name) const;
  bool is_known(std::string_view name) const;  // defined anywhere
  /// The node that alone reads `name` as its input 0; null: there is none, or others see the value too.
  const NodeView* sole_reader(std::string_view name) const;
  std::int64_t opset() const;
  Parameters parameters(const NodeView& n, std::size_t scale, std::size_t zero) const;

 private:
  const Scene* outer_;
  std::map<std::string_view, std::vector<Use>> uses_;
};

/// ", "-joined extents in brackets.
std::string shape_text(const std::vector<std::int64_t>& dims);
/// Number `i` (from 0) with what it counts: "scale 3".
std::string counted(std::int64_t n, const char* what);

/// One number per scale: finite, positive, no subnormal of its type.
void check_scale(const Scene&, const NodeView&, const TensorView& scale);

// The checks of one graph (not its bodies).
void check_structure(const Scene&);
void check_pairs(const Scene&);
void check_parameters(const Scene&);
void check_products(const Scene&);
void check_integer_operators(const Scene&);
void check_blocks(const Scene&);
void check_fusion(const Scene&);

}  // namespace qtool::verify
