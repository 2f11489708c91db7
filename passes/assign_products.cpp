// SPDX-License-Identifier: Apache-2.0
// Decisions that concern one product alone: weights in groups with float activations, and activations quantized while
// the model runs.
#include <algorithm>

#include "passes/assign.h"

namespace qtool::assign {
namespace {

Quant shared(QuantSpec spec) { return std::make_shared<const QuantSpec>(std::move(spec)); }

ValueId input(const Node& node, int i) {
  return i >= 0 && static_cast<std::size_t>(i) < node.inputs.size() ? node.inputs[static_cast<std::size_t>(i)].value
                                                                    : ValueId::none;
}

/// Convolutions have a scale per output channel: what they sum over lies along several axes.
bool by_channels(const Ability& row) { return row.op == "Conv"; }
bool is_recurrent(const Ability& row) { return row.second_weight >= 0; }

/// Why the constant weight at `position` does not serve the kernel of `row`; empty: it does.
std::string weight_objection(const Plan& plan, const Node& node, const Ability& row, int position) {
  const ValueId w = input(node, position);
  const Tensor* weight = plan.fixed(w);
  if (weight == nullptr) return "its weight is no constant";
  const std::int64_t axes = weight->rank();
  const bool batched = row.batched_weights && node.op == "MatMul";
  if (is_recurrent(row) ? axes != 3 : by_channels(row) ? axes < 3 : batched ? axes < 2 : axes != 2) {
    return "its weight has " + std::to_string(axes) + " dimensions, the kernel takes " +
           (is_recurrent(row)  ? "3"
            : by_channels(row) ? "3 or more"
                               : "2");
  }
  if (weight->count() == 0) return "its weight is empty";
  if (!row.data_inputs.empty()) {
    const auto rank = plan.rank(input(node, row.data_inputs[0]));
    if (rank && *rank < 2) return "its input has less than 2 dimensions";
  }
  std::string why;
  third_operand(node, why);
  return why;
}

/// The group to use: the one asked for, or for whole channels the smallest that holds one. 0: none, see `why`.
std::int64_t group_for(const Wish& wish, const Ability& row, std::int64_t k, std::string& why) {
  if (by_channels(row)) {
    if (wish.grain == "channel" && wish.weights->group == 0) return k;
    why = "a convolution has a scale per output channel; use grain: channel";
    return 0;
  }
  const auto at_least = [&](std::int64_t n) {
    const auto found = std::find_if(row.groups.begin(), row.groups.end(), [&](std::int64_t g) { return g >= n; });
    return found == row.groups.end() ? 0 : *found;
  };
  if (!wish.in_groups()) {
    const std::int64_t whole = at_least(k);
    if (whole == 0) {
      why = "the kernel shares a scale among at most " + std::to_string(row.groups.back()) +
            " weights, a channel has " + std::to_string(k) + "; use grain: groups";
    }
    return whole;
  }
  if (std::find(row.groups.begin(), row.groups.end(), wish.group_size()) == row.groups.end()) {
    why = "the kernel takes groups of";
    for (const std::int64_t g : row.groups) why += " " + std::to_string(g);
    why += ", not " + std::to_string(wish.group_size());
    return 0;
  }
  return std::min(wish.group_size(), at_least(std::min(k, wish.group_size())));  // no padding beyond one short group
}

std::size_t packed_bytes(std::int64_t n, std::int64_t k, std::int64_t group, int bits, bool zero_points) {
  const std::int64_t blocks = (k + group - 1) / group;
  const std::int64_t per_block = group * bits / 8 + 4 + (zero_points ? 1 : 0);
  return static_cast<std::size_t>(n * blocks * per_block);
}

/// The weight at `position` of the node.
void assign_weight_only(Plan& plan, NodeId n, const Ability& row, int position) {
  Node& node = plan.graph[n];
  const Wish& wish = plan.wish(n);
  const bool table = node.op == "Gather";
  if (table && !wish.embeddings) return plan.skip(n, "tables are left alone unless `embeddings: true` asks for them");
  if (const auto ok = plan.ctx.target.accepts(node, Role::weight_only, {}, wish.weights->name); !ok) {
    return plan.skip(n, ok.why);
  }
  if (const std::string why = weight_objection(plan, node, row, position); !why.empty()) {
    if (!table || plan.fixed(input(node, 0))) plan.skip(n, why);
    return;
  }
  Use& weight = node.inputs[static_cast<std::size_t>(position)];
  const Tensor& data = plan.graph[weight.value].data;
  if (data.dtype() != DType::f32 && data.dtype() != DType::f16) {
    return plan.skip(n,
                     "the kernel computes in float32 or float16, the weight is " + std::string(name_of(data.dtype())));
  }
  if (row.unfit != nullptr) {
    const std::string_view unfit = row.unfit(node, plan.type(input(node, 0)).shape, data.shape());
    if (!unfit.empty()) return plan.skip(n, unfit);
  }
  const Scheme& scheme = *wish.weights;
  if (data.dtype() == DType::f16 && scheme.scale != nullptr) {
    return plan.skip(n, "the scales of " + std::string(scheme.name) + " do not all fit float16, the type of the model");
  }
  const bool channels = by_channels(row);
  const int last = static_cast<int>(data.rank()) - 1;
  const int k_axis = channels                     ? 1
                     : table || is_recurrent(row) ? last
                     : node.op == "MatMul"        ? last - 1
                                                  : reduction_axis(node);
  const std::int64_t k = channels ? data.count() / data.shape()[0] : data.shape()[static_cast<std::size_t>(k_axis)];
  const std::int64_t columns = data.count() / k;  // of all matrices together
  std::string why;
  const std::int64_t group = group_for(wish, row, k, why);
  if (group == 0) return plan.skip(n, why);
  const bool book = !scheme.element->is_integer && !scheme.element->onnx;  // MatMulBnb4 and its like
  if (book && data.dtype() != DType::f32) return plan.skip(n, "the kernel of code books computes in float32");
  if ((row.whole_groups || book) && k % group != 0) {
    return plan.skip(n, "the kernel takes whole groups, and " + std::to_string(group) + " does not divide " +
                            std::to_string(k) + " weights");
  }
  const int bits = scheme.element->bits <= 2 ? 2 : scheme.element->bits <= 4 ? 4 : 8;
  if (table && k * bits % 8 != 0) return plan.skip(n, "a row of the table does not fill whole bytes");
  if (packed_bytes(columns, k, group, bits, !wish.symmetric) >= data.size_bytes()) {
    return plan.skip(n, "codes and scales would take more room than the float weights");
  }

  QuantSpec spec = spec_of(
      scheme, channels ? Grain{Grain::Kind::axis, 1 - k_axis, 0, 0} : Grain{Grain::Kind::groups, k_axis, group, 0});
  spec.symmetric = wish.symmetric || scheme.scale != nullptr || !scheme.element->is_integer;
  weight.quant = shared(spec);
  if (!table && scheme.element->is_integer && plan.ctx.target.arithmetic.quantizes_inside(bits, group) &&
      !wish.exact_inside) {
    // The kernel rounds activations to 8 bits per block of K as it reads them.
    const auto rank = plan.rank(node.inputs[0].value);
    QuantSpec x;
    x.format = &number::int8;
    x.narrow = true;
    x.dynamic = true;
    x.grain = {Grain::Kind::groups, static_cast<int>(rank ? *rank - 1 : 1), group, 0};
    if (rank) {
      node.inputs[0].quant = shared(x);
    } else {
      return plan.skip(n, "the rank of its input is not known"), void(weight.quant = nullptr);
    }
  }
  plan.decided(n);
}

void assign_dynamic(Plan& plan, NodeId n, const Ability& row) {
  Node& node = plan.graph[n];
  const Wish& wish = plan.wish(n);
  if (const auto ok = plan.ctx.target.accepts(node, Role::dynamic, wish.activations->name, wish.weights->name); !ok) {
    return plan.skip(n, ok.why);
  }
  if (const std::string why = weight_objection(plan, node, row, row.weight_input); !why.empty())
    return plan.skip(n, why);
  Use& weight = node.inputs[static_cast<std::size_t>(row.weight_input)];
  const Tensor& data = plan.graph[weight.value].data;
  if (data.dtype() != DType::f32) {
    return plan.skip(n, "the kernel computes in float32, the weight is " + std::string(name_of(data.dtype())));
  }
  if (wish.grain == "groups") return plan.skip(n, "the kernel has one weight scale per column; use grain: channel");
  if (!wish.symmetric && wish.weights->element->lowest < 0) {
    return plan.skip(n, "signed weights have no zero points here; use symmetric: true");
  }
  const std::int64_t columns = data.shape()[static_cast<std::size_t>(1 - reduction_axis(node))];
  if (static_cast<std::size_t>(data.count() + 5 * columns) >= data.size_bytes()) {
    return plan.skip(n, "codes and scales would take more room than the float weights");
  }
  weight.quant = shared(weight_spec(wish, node, data.shape(), plan.ctx.target.saturating_u8s8));
  QuantSpec x;
  x.format = wish.activations;
  x.symmetric = false;
  x.dynamic = true;
  node.inputs[0].quant = shared(x);
  plan.decided(n);
}

}  // namespace

void assign_weight_only(Plan& plan) {
  for (const NodeId n : plan.graph.nodes()) {
    if (!plan.wants(n, "weights")) continue;
    const Ability* row = plan.ctx.target.find(plan.graph[n], Role::weight_only);
    if (row == nullptr) continue;
    assign_weight_only(plan, n, *row, row->weight_input);
    if (row->second_weight >= 0) assign_weight_only(plan, n, *row, row->second_weight);
  }
}

void assign_dynamic(Plan& plan) {
  std::map<ValueId, Quant> inputs;  // products of one value share its codes
  for (const NodeId n : plan.graph.nodes()) {
    if (!plan.wants(n, "dynamic")) continue;
    const Ability* row = plan.ctx.target.find(plan.graph[n], Role::dynamic);
    if (row == nullptr) continue;
    assign_dynamic(plan, n, *row);
    Use& x = plan.graph[n].inputs[0];
    if (plan.is_decided(n)) x.quant = inputs.emplace(x.value, x.quant).first->second;
  }
}

}  // namespace qtool::assign
