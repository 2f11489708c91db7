// SPDX-License-Identifier: Apache-2.0
#include "calib/op.h"

#include <algorithm>
#include <iterator>
#include <tuple>

namespace qtool {
namespace {

const Tensor no_tensor;
const Type no_type;

const OpDef* const all_ops[] = {
#define QTOOL_OP(name) &op::name,
#include "calib/ops/list.inc"
#undef QTOOL_OP
};

bool by_name(const OpDef* a, const OpDef* b) { return std::tie(a->domain, a->name) < std::tie(b->domain, b->name); }

}  // namespace

const Tensor& OpContext::in(std::size_t i) const { return i < inputs.size() ? inputs[i] : no_tensor; }

void OpContext::out(std::size_t i, Tensor t) const {
  if (i < outputs.size()) outputs[i] = std::move(t);
}

Tensor OpContext::reuse(std::size_t i, DType dtype, const Shape& shape) const {
  const Tensor& x = in(i);
  // The executor hands over a dying value without keeping it, so a sole owner means that nobody will miss it.
  if (x.sole_owner() && x.dtype() == dtype && x.shape() == shape) return std::move(const_cast<Tensor&>(x));
  return Tensor::unset(dtype, shape);
}

const Tensor& BackwardContext::in(std::size_t i) const { return i < inputs.size() ? inputs[i] : no_tensor; }

const Type& InferContext::in(std::size_t i) const { return i < inputs.size() ? inputs[i] : no_type; }

const Tensor& InferContext::constant(std::size_t i) const { return i < constants.size() ? constants[i] : no_tensor; }

void InferContext::out(std::size_t i, Type t) const {
  if (i < outputs.size()) outputs[i] = std::move(t);
}

void InferContext::out(std::size_t i, DType dtype) const {
  Type t;
  t.dtype = dtype;
  t.known_dtype = true;
  out(i, std::move(t));
}

void InferContext::out(std::size_t i, DType dtype, Shape shape) const {
  Type t;
  t.dtype = dtype;
  t.known_dtype = t.known_rank = true;
  t.shape = std::move(shape);
  out(i, std::move(t));
}

const OpDef* find_op(std::string_view domain, std::string_view name) {
  static const std::vector<const OpDef*> sorted = [] {
    std::vector<const OpDef*> table(std::begin(all_ops), std::end(all_ops));
    std::sort(table.begin(), table.end(), by_name);
    return table;
  }();
  const OpDef wanted{name, domain == "ai.onnx" ? std::string_view{} : domain, 0, nullptr, nullptr, nullptr};
  const auto found = std::lower_bound(sorted.begin(), sorted.end(), &wanted, by_name);
  if (found == sorted.end() || by_name(&wanted, *found)) return nullptr;
  return *found;
}

std::span<const OpDef* const> ops() { return all_ops; }

}  // namespace qtool
