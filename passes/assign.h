// SPDX-License-Identifier: Apache-2.0
// What the ways of assigning formats share: the wish for each node (step knobs, overridden by the recipe's first
// matching rule), what is known about its operands, and the reasons of those that stay float. Private to
// assign_formats*.cpp.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/options.h"
#include "formats/ir/graph.h"
#include "formats/ir/quant.h"
#include "passes/pass.h"

namespace qtool::assign {

/// What the recipe asks for at one node.
struct Wish {
  std::string keep;               // "float": leave it alone
  std::string method = "static";  // "static", "dynamic", "weights"
  const NumberFormat* activations = &number::uint8;
  const Scheme* weights = &scheme_of(number::int8);
  std::string grain = "channel";  // of weights: "tensor", "channel", "groups"
  std::int64_t group = 0;         // weights that share a scale, for grain "groups"; 0: as the scheme says, else 32
  bool symmetric = true;          // weights without zero points
  bool attention = true;          // products of two activations
  bool embeddings = false;        // tables that Gather reads
  bool exact_inside = false;      // method weights: float activations also inside the kernel
  bool only_faster = false;       // not what the target runs slower than in float
  void options(Options&);

  /// Block formats have groups whatever the grain.
  bool in_groups() const { return grain == "groups" || weights->group != 0; }
  std::int64_t group_size() const { return group != 0 ? group : weights->group != 0 ? weights->group : 32; }
};

class Plan {
 public:
  /// Wishes of all nodes from the step's own and the context's rules, but those of `too_slow`, which stay float.
  /// `graph` gets the annotations.
  Plan(Graph& graph, PassContext& ctx, const Wish& wish, const std::set<NodeId>& too_slow = {});

  Graph& graph;
  PassContext& ctx;
  const Links links;

  bool keeps_float(NodeId n) const { return wishes_[slot(n)].keep == "float"; }
  const Wish& wish(NodeId n) const { return wishes_[slot(n)]; }
  /// The rule that the wish is from; null: the step itself.
  const Rule* rule(NodeId n) const { return rules_[slot(n)]; }
  /// Method of the step or rule, and the node is one that this step may touch.
  bool wants(NodeId n, std::string_view method) const;

  /// Type after inference (declared types may be missing).
  const Type& type(ValueId v) const { return types_[static_cast<std::size_t>(v)]; }
  std::optional<std::int64_t> rank(ValueId v) const;
  bool is_f32(ValueId v) const { return type(v).known_dtype && type(v).dtype == DType::f32; }
  /// Data of a constant that no caller can override; null otherwise.
  const Tensor* fixed(ValueId v) const;
  bool is_output(ValueId v) const;

  /// Journals, once, why a node stays float.
  void skip(NodeId n, std::string_view why);
  bool skipped(NodeId n) const { return skips_.contains(n); }
  /// Nodes that got a decision, by any method.
  void decided(NodeId n) { decided_[slot(n)] = true; }
  bool is_decided(NodeId n) const { return decided_[slot(n)]; }

 private:
  /// Static activations in a format that the target has, where it lacks the one wished for.
  void carry_activations();
  static std::size_t slot(NodeId n) { return static_cast<std::size_t>(n); }
  std::vector<Wish> wishes_;        // by NodeId
  std::vector<const Rule*> rules_;  // by NodeId
  std::vector<bool> decided_;
  std::vector<Type> types_;  // by ValueId
  std::map<NodeId, std::string> skips_;
};

/// The axis of a MatMul's or Gemm's constant weight (rank 2) that is summed over; the other one holds the columns.
int reduction_axis(const Node& product);
/// The third operand of a product, or none where it has none or multiplies it by 0. `why`: what is wrong with it.
ValueId third_operand(const Node& product, std::string& why);
/// Spec of a constant weight of a product, without scales.
QuantSpec weight_spec(const Wish& wish, const Node& product, const Shape& weight, bool seven_bits);

void assign_weight_only(Plan&);
void assign_dynamic(Plan&);
void assign_static(Plan&);

}  // namespace qtool::assign
