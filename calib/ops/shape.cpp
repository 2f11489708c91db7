// SPDX-License-Identifier: Apache-2.0
// The same elements under another shape, or in another order.
#include <algorithm>
#include <numeric>
#include <optional>

#include "calib/ops/support.h"

namespace qtool::op {
namespace {

/// Operators that keep the bytes: the gradient gets the input's shape back.
void backward_reshape(BackwardContext& ctx) { ctx.input_gradients[0] = ctx.grad(0).reshaped(ctx.in(0).shape()); }

/// Axes from input 1 (opset 13 on) or the attribute; empty optional: not given.
template <class Context>
std::optional<std::vector<std::int64_t>> given_axes(const Context& ctx, const Tensor& input) {
  if (!input.empty()) return to_int64s(input);
  if (ctx.attrs().has("axes")) return ctx.attrs().get("axes", std::vector<std::int64_t>{});
  return std::nullopt;
}

Shape reshape_target(const Shape& from, std::vector<std::int64_t> wanted, bool allow_zero) {
  std::int64_t known = 1, free_axis = -1;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i] == 0 && !allow_zero) {
      if (i >= from.size()) refuse("a 0 in the new shape " + to_string(wanted) + " has no axis to copy");
      wanted[i] = from[i];
    }
    if (wanted[i] == -1) {
      if (free_axis >= 0) refuse("the new shape " + to_string(wanted) + " has two unknown extents");
      free_axis = static_cast<std::int64_t>(i);
    }
  }
  Shape fixed = wanted;
  if (free_axis >= 0) fixed[static_cast<std::size_t>(free_axis)] = 1;
  known = element_count(fixed);
  const std::int64_t count = element_count(from);
  if (free_axis >= 0) {
    if (known == 0 || count % known != 0) {
      refuse("a tensor of shape " + to_string(from) + " cannot take the shape " + to_string(wanted));
    }
    wanted[static_cast<std::size_t>(free_axis)] = count / known;
  } else if (known != count) {
    refuse("a tensor of shape " + to_string(from) + " cannot take the shape " + to_string(wanted));
  }
  return wanted;
}

void forward_reshape(const OpContext& ctx) {
  const bool allow_zero = ctx.attrs().get("allowzero", std::int64_t{0}) != 0;
  ctx.out(0, ctx.in(0).reshaped(reshape_target(ctx.in(0).shape(), to_int64s(ctx.in(1)), allow_zero)));
}

void infer_reshape(InferContext& ctx) {
  Type t = ctx.in(0);
  t.known_rank = false;
  t.shape.clear();
  t.symbols.clear();
  std::vector<std::int64_t> wanted;
  if (!ctx.constant(1).empty()) {
    wanted = to_int64s(ctx.constant(1));
  } else {
    if (const Type& shape = ctx.in(1);
        shape.known_rank && shape.shape.size() == 1 && shape.shape[0] >= 0 && shape.shape[0] <= 64) {
      t.known_rank = true;
      t.shape.assign(static_cast<std::size_t>(shape.shape[0]), -1);
    }
    return ctx.out(0, std::move(t));
  }
  const Type& from = ctx.in(0);
  const bool allow_zero = ctx.attrs().get("allowzero", std::int64_t{0}) != 0;
  const bool fixed =
      from.known_rank && std::all_of(from.shape.begin(), from.shape.end(), [](auto d) { return d >= 0; });
  t.known_rank = true;
  if (fixed) {
    t.shape = reshape_target(from.shape, std::move(wanted), allow_zero);
    return ctx.out(0, std::move(t));
  }
  t.symbols.resize(wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i] != 0 || allow_zero) continue;
    wanted[i] = from.known_rank && i < from.shape.size() ? from.shape[i] : -1;
    if (from.known_rank && i < from.symbols.size()) t.symbols[i] = from.symbols[i];
  }
  t.shape = std::move(wanted);
  ctx.out(0, std::move(t));
}

void forward_flatten(const OpContext& ctx) {
  const Shape& from = ctx.in(0).shape();
  const std::int64_t rank = ctx.in(0).rank();
  std::int64_t axis = ctx.attrs().get("axis", std::int64_t{1});
  if (axis < -rank || axis > rank) refuse("axis " + std::to_string(axis) + " is out of range");
  if (axis < 0) axis += rank;
  ctx.out(0, ctx.in(0).reshaped({extent(from, 0, axis), extent(from, axis, rank)}));
}

void infer_flatten(InferContext& ctx) {
  const Type& from = ctx.in(0);
  Type t = from;
  t.symbols.clear();
  t.shape = {-1, -1};
  t.known_rank = true;
  std::int64_t axis = ctx.attrs().get("axis", std::int64_t{1});
  if (from.known_rank) {
    const auto rank = static_cast<std::int64_t>(from.shape.size());
    if (axis < -rank || axis > rank) refuse("axis " + std::to_string(axis) + " is out of range");
    if (axis < 0) axis += rank;
    const auto product = [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        if (from.shape[static_cast<std::size_t>(i)] < 0) return std::int64_t{-1};
      }
      return extent(from.shape, begin, end);
    };
    t.shape = {product(0, axis), product(axis, rank)};
    if (axis == 1 && !from.symbols.empty()) t.symbols = {from.symbols[0], ""};
  }
  ctx.out(0, std::move(t));
}

Shape squeezed(const Shape& from, const std::optional<std::vector<std::int64_t>>& axes) {
  Shape result;
  std::vector<std::int64_t> drop;
  if (axes) drop = axes_in(*axes, static_cast<std::int64_t>(from.size()));
  for (std::size_t i = 0; i < from.size(); ++i) {
    const bool named = std::find(drop.begin(), drop.end(), static_cast<std::int64_t>(i)) != drop.end();
    if (named && from[i] > 1) refuse("axis " + std::to_string(i) + " of " + to_string(from) + " is not of extent 1");
    if (axes ? !named : from[i] != 1) result.push_back(from[i]);
  }
  return result;
}

void forward_squeeze(const OpContext& ctx) {
  ctx.out(0, ctx.in(0).reshaped(squeezed(ctx.in(0).shape(), given_axes(ctx, ctx.in(1)))));
}

void infer_squeeze(InferContext& ctx) {
  Type t = ctx.in(0);
  const auto axes = given_axes(ctx, ctx.constant(1));
  const bool unknown_axes = !axes && ctx.has(1);
  const bool unknown_extent = std::any_of(t.shape.begin(), t.shape.end(), [](auto d) { return d < 0; });
  if (t.known_rank && !unknown_axes && (axes || !unknown_extent)) {
    if (axes) {
      const auto drop = axes_in(*axes, static_cast<std::int64_t>(t.shape.size()));
      for (std::size_t i = drop.size(); i-- > 0;) {
        t.shape.erase(t.shape.begin() + drop[i]);
        if (drop[i] < static_cast<std::int64_t>(t.symbols.size())) t.symbols.erase(t.symbols.begin() + drop[i]);
      }
    } else {
      t.symbols.clear();
      t.shape = squeezed(t.shape, axes);
    }
  } else {
    t.known_rank = false;
    t.shape.clear();
    t.symbols.clear();
  }
  ctx.out(0, std::move(t));
}

Shape unsqueezed(const Shape& from, const std::vector<std::int64_t>& axes,
                 std::vector<std::string>* symbols = nullptr) {
  if (axes.size() > 1024) refuse("there are too many axes");
  const auto sorted = axes_in(axes, static_cast<std::int64_t>(from.size() + axes.size()));
  Shape result = from;
  if (symbols != nullptr) symbols->resize(from.size());
  for (const std::int64_t axis : sorted) {
    result.insert(result.begin() + axis, 1);
    if (symbols != nullptr) symbols->insert(symbols->begin() + axis, std::string());
  }
  return result;
}

void forward_unsqueeze(const OpContext& ctx) {
  const auto axes = given_axes(ctx, ctx.in(1));
  if (!axes) refuse("no axes are given");
  ctx.out(0, ctx.in(0).reshaped(unsqueezed(ctx.in(0).shape(), *axes)));
}

void infer_unsqueeze(InferContext& ctx) {
  Type t = ctx.in(0);
  const auto axes = given_axes(ctx, ctx.constant(1));
  if (t.known_rank && axes) {
    t.shape = unsqueezed(t.shape, *axes, &t.symbols);
  } else {
    t.known_rank = false;
    t.shape.clear();
    t.symbols.clear();
  }
  ctx.out(0, std::move(t));
}

/// [start, end) of Shape, with the attributes of opset 15.
std::pair<std::int64_t, std::int64_t> shape_range(const Attrs& attrs, std::int64_t rank) {
  std::int64_t start = attrs.get("start", std::int64_t{0}), end = attrs.get("end", rank);
  if (start < 0) start += rank;
  if (end < 0) end += rank;
  start = std::clamp<std::int64_t>(start, 0, rank);
  end = std::clamp<std::int64_t>(end, start, rank);
  return {start, end};
}

void forward_shape(const OpContext& ctx) {
  const Shape& s = ctx.in(0).shape();
  const auto [start, end] = shape_range(ctx.attrs(), ctx.in(0).rank());
  ctx.out(0,
          Tensor::of<std::int64_t>({end - start}, std::span(s.data() + start, static_cast<std::size_t>(end - start))));
}

void infer_shape(InferContext& ctx) {
  if (!ctx.in(0).known_rank) return ctx.out(0, DType::i64, {-1});
  const auto [start, end] = shape_range(ctx.attrs(), static_cast<std::int64_t>(ctx.in(0).shape.size()));
  ctx.out(0, DType::i64, {end - start});
}

void forward_size(const OpContext& ctx) { ctx.out(0, Tensor::scalar<std::int64_t>(ctx.in(0).count())); }
void infer_size(InferContext& ctx) { ctx.out(0, DType::i64, {}); }

void forward_identity(const OpContext& ctx) { ctx.out(0, ctx.in(0)); }

/// At inference: the identity, with a mask of ones.
void forward_dropout(const OpContext& ctx) {
  if (ctx.has(2) && to_int64s(ctx.in(2)) == std::vector<std::int64_t>{1}) {
    const double ratio = ctx.has(1) ? one_number(ctx.in(1), "the ratio") : 0.5;
    if (ratio != 0) refuse("Dropout in training mode cannot be quantized");
  }
  if (ctx.wants(1)) {
    const DType mask = ctx.opset >= 10 ? DType::boolean : ctx.in(0).dtype();
    Tensor ones(mask, ctx.in(0).shape());
    if (mask == DType::boolean) {
      for (bool& v : ones.write<bool>()) v = true;
    } else {
      Tensor f(DType::f32, ctx.in(0).shape());
      for (float& v : f.write<float>()) v = 1;
      ones = mask == DType::f32 ? f : from_f32(f, mask);
    }
    ctx.out(1, std::move(ones));
  }
  ctx.out(0, ctx.in(0));
}

void infer_dropout(InferContext& ctx) {
  ctx.out(0, ctx.in(0));
  Type mask = ctx.in(0);
  if (ctx.opset >= 10) mask.dtype = DType::boolean;
  ctx.out(1, std::move(mask));
}

std::vector<std::int64_t> permutation(const Attrs& attrs, std::int64_t rank) {
  std::vector<std::int64_t> perm(static_cast<std::size_t>(rank));
  std::iota(perm.rbegin(), perm.rend(), 0);
  perm = attrs.get("perm", perm);
  if (perm.size() != static_cast<std::size_t>(rank)) {
    refuse("perm has " + std::to_string(perm.size()) + " entries for rank " + std::to_string(rank));
  }
  axes_in(perm, rank);  // each axis once
  for (std::int64_t& p : perm) p = axis_in(p, rank);
  return perm;
}

Tensor transposed(Threads& threads, const Tensor& x, const std::vector<std::int64_t>& perm) {
  const auto dense = strides_of(x.shape());
  Shape shape;
  std::vector<std::int64_t> strides, moved;  // moved: axes of extent > 1 in their new order
  for (const std::int64_t p : perm) {
    shape.push_back(x.shape()[static_cast<std::size_t>(p)]);
    strides.push_back(dense[static_cast<std::size_t>(p)]);
    if (shape.back() != 1) moved.push_back(p);
  }
  if (std::is_sorted(moved.begin(), moved.end())) return x.reshaped(shape);
  return gather_strided(threads, x, std::move(shape), strides);
}

void forward_transpose(const OpContext& ctx) {
  ctx.out(0, transposed(ctx.threads, ctx.in(0), permutation(ctx.attrs(), ctx.in(0).rank())));
}

void backward_transpose(BackwardContext& ctx) {
  const auto perm = permutation(ctx.attrs(), ctx.in(0).rank());
  std::vector<std::int64_t> inverse(perm.size());
  for (std::size_t i = 0; i < perm.size(); ++i)
    inverse[static_cast<std::size_t>(perm[i])] = static_cast<std::int64_t>(i);
  ctx.input_gradients[0] = transposed(ctx.threads, ctx.grad(0), inverse);
}

void infer_transpose(InferContext& ctx) {
  const Type& from = ctx.in(0);
  Type t = from;
  if (from.known_rank) {
    const auto perm = permutation(ctx.attrs(), static_cast<std::int64_t>(from.shape.size()));
    t.symbols.assign(perm.size(), "");
    for (std::size_t i = 0; i < perm.size(); ++i) {
      const auto p = static_cast<std::size_t>(perm[i]);
      t.shape[i] = from.shape[p];
      if (p < from.symbols.size()) t.symbols[i] = from.symbols[p];
    }
  } else if (ctx.attrs().has("perm")) {
    t.known_rank = true;
    t.shape.assign(ctx.attrs().get("perm", std::vector<std::int64_t>{}).size(), -1);
  }
  ctx.out(0, std::move(t));
}

Shape expanded_shape(const OpContext& ctx) { return broadcast(ctx.in(0).shape(), to_int64s(ctx.in(1))); }

void forward_expand(const OpContext& ctx) {
  const Shape shape = expanded_shape(ctx);
  if (shape == ctx.in(0).shape()) return ctx.out(0, ctx.in(0));
  ctx.out(0, gather_strided(ctx.threads, ctx.in(0), shape, broadcast_strides(ctx.in(0).shape(), shape)));
}

void backward_expand(BackwardContext& ctx) { ctx.input_gradients[0] = sum_to(ctx.grad(0), ctx.in(0).shape()); }

void infer_expand(InferContext& ctx) {
  Type t = ctx.in(0);
  if (!ctx.constant(1).empty()) {
    Type wanted;
    wanted.known_rank = true;
    wanted.shape = to_int64s(ctx.constant(1));
    t = broadcast(t, wanted);
  } else {
    const Type& shape = ctx.in(1);
    const bool known = t.known_rank && shape.known_rank && shape.shape.size() == 1 && shape.shape[0] >= 0;
    t.symbols.clear();
    if (known) {
      t.shape.assign(std::max(t.shape.size(), static_cast<std::size_t>(std::min<std::int64_t>(shape.shape[0], 64))),
                     -1);
    } else {
      t.known_rank = false;
      t.shape.clear();
    }
  }
  ctx.out(0, std::move(t));
}

void forward_tile(const OpContext& ctx) {
  const Tensor& x = ctx.in(0);
  const std::vector<std::int64_t> repeats = to_int64s(ctx.in(1));
  if (repeats.size() != x.shape().size()) refuse("repeats should have one entry per axis");
  // Every axis becomes two, of which the first is walked with step 0.
  Shape shape, split;
  std::vector<std::int64_t> strides;
  const auto dense = strides_of(x.shape());
  for (std::size_t i = 0; i < repeats.size(); ++i) {
    if (repeats[i] < 0) refuse("repeats should not be negative");
    split.push_back(repeats[i]);
    split.push_back(x.shape()[i]);
    strides.push_back(0);
    strides.push_back(dense[i]);
    shape.push_back(element_count({repeats[i], x.shape()[i]}));
  }
  ctx.out(0, gather_strided(ctx.threads, x, split, strides).reshaped(shape));
}

void backward_tile(BackwardContext& ctx) {
  const Shape& from = ctx.in(0).shape();
  Shape split, kept;
  for (std::size_t i = 0; i < from.size(); ++i) {
    split.push_back(from[i] == 0 ? 0 : ctx.grad(0).shape()[i] / from[i]);
    split.push_back(from[i]);
    kept.push_back(1);
    kept.push_back(from[i]);
  }
  ctx.input_gradients[0] = sum_to(ctx.grad(0).reshaped(split), kept).reshaped(from);
}

void infer_tile(InferContext& ctx) {
  Type t = ctx.in(0);
  t.symbols.clear();
  const std::vector<std::int64_t> repeats =
      ctx.constant(1).empty() ? std::vector<std::int64_t>{} : to_int64s(ctx.constant(1));
  const bool known = t.known_rank && repeats.size() == t.shape.size();
  for (std::size_t i = 0; i < t.shape.size(); ++i) {
    t.shape[i] = known && t.shape[i] >= 0 && repeats[i] >= 0 ? element_count({t.shape[i], repeats[i]}) : -1;
  }
  ctx.out(0, std::move(t));
}

}  // namespace

constinit const OpDef Reshape{"Reshape", "", 7, infer_reshape, forward_reshape, backward_reshape};
constinit const OpDef Flatten{"Flatten", "", 7, infer_flatten, forward_flatten, backward_reshape};
constinit const OpDef Squeeze{"Squeeze", "", 7, infer_squeeze, forward_squeeze, backward_reshape};
constinit const OpDef Unsqueeze{"Unsqueeze", "", 7, infer_unsqueeze, forward_unsqueeze, backward_reshape};
constinit const OpDef Shape_{"Shape", "", 7, infer_shape, forward_shape, nullptr};
constinit const OpDef Size{"Size", "", 7, infer_size, forward_size, nullptr};
constinit const OpDef Identity{"Identity", "", 7, infer_same, forward_identity, backward_reshape};
constinit const OpDef Dropout{"Dropout", "", 7, infer_dropout, forward_dropout, backward_reshape};
constinit const OpDef Transpose{"Transpose", "", 7, infer_transpose, forward_transpose, backward_transpose};
constinit const OpDef Expand{"Expand", "", 8, infer_expand, forward_expand, backward_expand};
constinit const OpDef Tile{"Tile", "", 7, infer_tile, forward_tile, backward_tile};

}  // namespace qtool::op
