// SPDX-License-Identifier: Apache-2.0
// What convert_opset.cpp and the rules share: the facts of operator versions, and one node on its way over one
// version boundary.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/ir/graph.h"

namespace qtool::opset {

/// An operator of the standard domain as of version `since` (opset_facts.inc).
struct Signature {
  std::string_view op;
  int since;
  bool deprecated;
  std::int64_t least_inputs, most_inputs, most_outputs;
  std::string_view attributes, inputs, outputs;
};

/// The signature in force at `version`; null: there is none yet.
const Signature* find_signature(std::string_view op, std::int64_t version);
bool known_operator(std::string_view op);

struct AttributeFact {
  std::string_view name;
  bool required = false;
  char kind = 0;  // i, f, s: has a default; 0: has none
  std::string_view text;
};
std::vector<AttributeFact> attributes_of(const Signature&);
/// Mask of the element types that formal input (or output) i may have.
std::uint32_t types_of(std::string_view masks, std::size_t i);
std::uint32_t type_bit(DType);

/// A graph on the way, and the node around it if it is a body.
struct Level {
  Graph& graph;
  std::set<std::string>& names;  // all names of the model
  const Level* outer = nullptr;
  const Node* owner = nullptr;
};

/// One node crossing one boundary. Rules change it through this.
class Step {
 public:
  Step(const Level& level, NodeId id) : level_(level), id_(id) {}

  Graph& graph() const { return level_.graph; }
  Node& node() const { return level_.graph[id_]; }
  [[noreturn]] void refuse(const std::string& why) const;

  bool has_input(std::size_t i) const { return i < node().inputs.size() && node().inputs[i].value != ValueId::none; }
  ValueId input(std::size_t i) const { return has_input(i) ? node().inputs[i].value : ValueId::none; }
  void set_input(std::size_t i, ValueId v) const;
  /// Cuts inputs from i on.
  void cut_inputs(std::size_t i) const;
  /// Adds a constant of a fresh name and makes it input i.
  void set_input(std::size_t i, std::string_view role, Tensor data) const;
  ValueId add_constant(std::string_view role, Tensor data) const;
  /// Puts `op` in front of input i: the node then reads its output.
  ValueId put_before(std::size_t i, std::string_view op, const std::vector<ValueId>& inputs,
                     std::vector<Attr> attrs) const;
  /// Puts `op` behind output 0, which keeps its value: op reads what the node produces (and `others`).
  void put_behind(std::string_view op, const std::vector<ValueId>& others, std::vector<Attr> attrs) const;

  /// Data of a value that no run can change: an initializer that is no input, or the output of Constant.
  Tensor constant(ValueId v) const;
  /// Of input i, or Error naming `what` when it is not constant.
  Tensor need_constant(std::size_t i, const char* what) const;
  std::optional<std::int64_t> rank(ValueId v) const;
  std::optional<DType> dtype(ValueId v) const;
  DType need_dtype(std::size_t i) const;
  bool used(ValueId v) const;

 private:
  const Level& level_;
  NodeId id_;
};

struct Rule {
  std::string_view op;
  int version;              // crosses between version - 1 and version
  void (*up)(const Step&);  // null: the signatures say it all
  void (*down)(const Step&);
};

std::span<const Rule> signature_rules();  // opset_rules_inputs.cpp: attributes became inputs
std::span<const Rule> meaning_rules();    // opset_rules_meaning.cpp: the same words mean something else

/// An operator that the standard domain had on trial until version 9; `rewrite` spells it out in standard operators of
/// the version that the step comes from.
struct Experimental {
  std::string_view op;
  void (*rewrite)(const Step&);
};
const Experimental* find_experimental(std::string_view op);  // opset_rules_experimental.cpp

inline Tensor int64_list(const std::vector<std::int64_t>& values) {
  return Tensor::of<std::int64_t>({static_cast<std::int64_t>(values.size())}, values);
}

}  // namespace qtool::opset
