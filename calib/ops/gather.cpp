// SPDX-License-Identifier: Apache-2.0
// Picking elements by index, and putting them back: Gather, Scatter and relatives, Compress, OneHot.
#include <algorithm>
#include <cstring>

#include "calib/ops/copy.h"
#include "calib/ops/pairs.h"

namespace qtool::op {
namespace {

/// Indices in [0, n) from indices in [-n, n).
std::vector<std::int64_t> indices_in(const Tensor& indices, std::int64_t n) {
  std::vector<std::int64_t> result = to_int64s(indices);
  for (std::int64_t& i : result) {
    if (i < -n || i >= n) refuse("index " + std::to_string(i) + " is out of range for extent " + std::to_string(n));
    if (i < 0) i += n;
  }
  return result;
}

void forward_gather(const OpContext& ctx) {
  const Tensor& x = ctx.in(0);
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{0}), x.rank());
  const std::int64_t n = x.shape()[at(axis)];
  const auto indices = indices_in(ctx.in(1), n);
  Shape shape(x.shape().begin(), x.shape().begin() + axis);
  shape.insert(shape.end(), ctx.in(1).shape().begin(), ctx.in(1).shape().end());
  shape.insert(shape.end(), x.shape().begin() + axis + 1, x.shape().end());
  const std::int64_t outer = extent(x.shape(), 0, axis), rest = extent(x.shape(), axis + 1, x.rank());
  if (x.dtype() == DType::string) {
    std::vector<std::string> result;
    for (std::int64_t o = 0; o < outer; ++o) {
      for (const std::int64_t i : indices) {
        for (std::int64_t r = 0; r < rest; ++r) result.push_back(x.read_strings()[at((o * n + i) * rest + r)]);
      }
    }
    return ctx.out(0, Tensor::strings(shape, std::move(result)));
  }
  const std::size_t row = width_of(x) * at(rest);
  Tensor result = Tensor::unset(x.dtype(), shape);
  const std::byte* in = x.bytes().data();
  std::byte* out = result.write_bytes().data();
  if (result.count() != 0) {
    for (std::int64_t o = 0; o < outer; ++o) {
      for (const std::int64_t i : indices) {
        copy_bytes(out, in + at(o * n + i) * row, row);
        out += row;
      }
    }
  }
  ctx.out(0, std::move(result));
}

void backward_gather(BackwardContext& ctx) {
  const Tensor& x = ctx.in(0);
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{0}), x.rank());
  const std::int64_t n = x.shape()[at(axis)];
  const auto indices = indices_in(ctx.in(1), n);
  const std::int64_t outer = extent(x.shape(), 0, axis), rest = extent(x.shape(), axis + 1, x.rank());
  Tensor result(DType::f32, x.shape());
  auto out = result.write<float>();
  const float* g = ctx.grad(0).read<float>().data();
  for (std::int64_t o = 0; o < outer; ++o) {
    for (const std::int64_t i : indices) {
      for (std::int64_t r = 0; r < rest; ++r) out[at((o * n + i) * rest + r)] += *g++;
    }
  }
  ctx.input_gradients[0] = std::move(result);
}

void infer_gather(InferContext& ctx) {
  Type t = ctx.in(0);
  const Type& indices = ctx.in(1);
  t.symbols.clear();
  if (t.known_rank && indices.known_rank) {
    const Type& x = ctx.in(0);
    const std::int64_t axis =
        axis_in(ctx.attrs().get("axis", std::int64_t{0}), static_cast<std::int64_t>(x.shape.size()));
    t.shape.erase(t.shape.begin() + axis);
    t.shape.insert(t.shape.begin() + axis, indices.shape.begin(), indices.shape.end());
    t.symbols = x.symbols;
    t.symbols.resize(x.shape.size());
    t.symbols.erase(t.symbols.begin() + axis);
    std::vector<std::string> names = indices.symbols;
    names.resize(indices.shape.size());
    t.symbols.insert(t.symbols.begin() + axis, names.begin(), names.end());
  } else {
    t.known_rank = false;
    t.shape.clear();
  }
  ctx.out(0, std::move(t));
}

/// Calls f(position in indices, position in x) where x is read or written at the index along `axis`.
template <class F>
void for_elements(const Shape& x, const Tensor& index_tensor, std::int64_t axis, F&& f) {
  const Shape& shape = index_tensor.shape();
  if (shape.size() != x.size()) refuse("indices should have the rank of the data");
  for (std::size_t d = 0; d < x.size(); ++d) {
    if (d != at(axis) && shape[d] > x[d]) refuse("indices reach beyond the data along axis " + std::to_string(d));
  }
  const auto indices = indices_in(index_tensor, x[at(axis)]);
  const auto strides = strides_of(x);
  const std::int64_t n = index_tensor.count();
  for (std::int64_t i = 0; i < n; ++i) {
    std::int64_t rest = i, position = 0;
    for (std::size_t d = x.size(); d-- > 0;) {
      const std::int64_t here = rest % shape[d];
      rest /= shape[d];
      position += (d == at(axis) ? indices[at(i)] : here) * strides[d];
    }
    f(i, position);
  }
}

void forward_gather_elements(const OpContext& ctx) {
  const Tensor& x = ctx.in(0);
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{0}), x.rank());
  Tensor result(x.dtype(), ctx.in(1).shape());
  const std::size_t width = width_of(x);
  const std::byte* in = x.bytes().data();
  std::byte* out = result.write_bytes().data();
  for_elements(x.shape(), ctx.in(1), axis, [&](std::int64_t i, std::int64_t position) {
    std::memcpy(out + at(i) * width, in + at(position) * width, width);
  });
  ctx.out(0, std::move(result));
}

void backward_gather_elements(BackwardContext& ctx) {
  const Tensor& x = ctx.in(0);
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{0}), x.rank());
  Tensor result(DType::f32, x.shape());
  auto out = result.write<float>();
  const auto g = ctx.grad(0).read<float>();
  for_elements(x.shape(), ctx.in(1), axis,
               [&](std::int64_t i, std::int64_t position) { out[at(position)] += g[at(i)]; });
  ctx.input_gradients[0] = std::move(result);
}

void infer_gather_elements(InferContext& ctx) {
  Type t = ctx.in(1);
  t.dtype = ctx.in(0).dtype;
  t.known_dtype = ctx.in(0).known_dtype;
  ctx.out(0, std::move(t));
}

/// Rows that the last axis of `indices` names: their element offsets in a tensor of shape `x`, and their length.
struct Rows {
  std::vector<std::int64_t> offsets;
  std::int64_t length = 1;
  std::int64_t depth = 0;  // entries of an index
};

Rows rows_of(const Shape& x, const Tensor& indices, std::int64_t batch_dims) {
  if (indices.rank() < 1) refuse("indices should have at least one axis");
  const auto rank = static_cast<std::int64_t>(x.size());
  Rows rows;
  rows.depth = indices.shape().back();
  if (batch_dims < 0 || batch_dims >= indices.rank() || batch_dims + rows.depth > rank) {
    refuse("the indices name more axes than the data have");
  }
  const auto strides = strides_of(x);
  rows.length = extent(x, batch_dims + rows.depth, rank);
  const auto all = to_int64s(indices);
  const std::int64_t count = extent(indices.shape(), 0, indices.rank() - 1);
  const std::int64_t batches = extent(x, 0, batch_dims);
  const std::int64_t per_batch = batches == 0 ? 0 : count / batches;
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t offset = batch_dims == 0 ? 0 : (i / per_batch) * extent(x, batch_dims, rank);
    for (std::int64_t k = 0; k < rows.depth; ++k) {
      const std::int64_t n = x[at(batch_dims + k)];
      std::int64_t v = all[at(i * rows.depth + k)];
      if (v < -n || v >= n) refuse("index " + std::to_string(v) + " is out of range for extent " + std::to_string(n));
      if (v < 0) v += n;
      offset += v * strides[at(batch_dims + k)];
    }
    rows.offsets.push_back(offset);
  }
  return rows;
}

Shape gather_nd_shape(const Shape& x, const Shape& indices, std::int64_t batch_dims) {
  Shape shape(indices.begin(), indices.end() - 1);
  shape.insert(shape.end(),
               x.begin() + std::min<std::int64_t>(batch_dims + indices.back(), static_cast<std::int64_t>(x.size())),
               x.end());
  return shape;
}

void forward_gather_nd(const OpContext& ctx) {
  const Tensor& x = ctx.in(0);
  const std::int64_t batch_dims = ctx.attrs().get("batch_dims", std::int64_t{0});
  const Rows rows = rows_of(x.shape(), ctx.in(1), batch_dims);
  Tensor result(x.dtype(), gather_nd_shape(x.shape(), ctx.in(1).shape(), batch_dims));
  const std::size_t width = width_of(x), row = width * at(rows.length);
  std::byte* out = result.write_bytes().data();
  for (const std::int64_t offset : rows.offsets) {
    if (row != 0) std::memcpy(out, x.bytes().data() + at(offset) * width, row);
    out += row;
  }
  ctx.out(0, std::move(result));
}

void backward_gather_nd(BackwardContext& ctx) {
  const Tensor& x = ctx.in(0);
  const Rows rows = rows_of(x.shape(), ctx.in(1), ctx.attrs().get("batch_dims", std::int64_t{0}));
  Tensor result(DType::f32, x.shape());
  auto out = result.write<float>();
  const float* g = ctx.grad(0).read<float>().data();
  for (const std::int64_t offset : rows.offsets) {
    for (std::int64_t r = 0; r < rows.length; ++r) out[at(offset + r)] += *g++;
  }
  ctx.input_gradients[0] = std::move(result);
}

void infer_gather_nd(InferContext& ctx) {
  Type t = ctx.in(0);
  t.symbols.clear();
  const Type &x = ctx.in(0), &indices = ctx.in(1);
  const std::int64_t batch_dims = ctx.attrs().get("batch_dims", std::int64_t{0});
  if (x.known_rank && indices.known_rank && !indices.shape.empty() && indices.shape.back() >= 0 && batch_dims >= 0) {
    t.shape = gather_nd_shape(x.shape, indices.shape, batch_dims);
  } else {
    t.known_rank = false;
    t.shape.clear();
  }
  ctx.out(0, std::move(t));
}

/// How an update meets what is there.
template <class T>
T reduced(const std::string& how, T old, T update) {
  if (how == "none") return update;
  if (how == "add") return static_cast<T>(old + update);
  if (how == "mul") return static_cast<T>(old * update);
  if (how == "max") return std::max(old, update);
  if (how == "min") return std::min(old, update);
  refuse("reduction \"" + how + "\" is not known");
}

/// Writes updates[i] to result[position] for the pairs that `for_each_pair` produces, in that order.
template <class F>
Tensor scatter(const Tensor& x, const Tensor& updates, const std::string& how, F&& for_each_pair) {
  require_same_type(x, updates);
  if (how == "none") {
    Tensor result = x;
    const std::size_t width = width_of(x);
    std::byte* out = result.write_bytes().data();
    for_each_pair([&](std::int64_t i, std::int64_t position) {
      std::memcpy(out + at(position) * width, updates.bytes().data() + at(i) * width, width);
    });
    return result;
  }
  Tensor result = widened(x);
  const Tensor u = widened(updates);
  for_any_type(result.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (std::is_same_v<T, bool>) {
      refuse_type(DType::boolean);
    } else {
      auto out = result.write<T>();
      const auto from = u.read<T>();
      for_each_pair([&](std::int64_t i, std::int64_t position) {
        out[at(position)] = reduced(how, out[at(position)], from[at(i)]);
      });
    }
  });
  return narrowed(std::move(result), x.dtype());
}

void forward_scatter_elements(const OpContext& ctx) {
  const Tensor& x = ctx.in(0);
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{0}), x.rank());
  if (ctx.in(2).shape() != ctx.in(1).shape()) refuse("updates should have the shape of the indices");
  ctx.out(0, scatter(x, ctx.in(2), ctx.attrs().get("reduction", "none"),
                     [&](auto&& put) { for_elements(x.shape(), ctx.in(1), axis, put); }));
}

void backward_scatter_elements(BackwardContext& ctx) {
  if (ctx.attrs().get("reduction", "none") != "none") return;
  const Tensor& x = ctx.in(0);
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{0}), x.rank());
  Tensor below = ctx.grad(0), updates(DType::f32, ctx.in(1).shape());
  const auto g = ctx.grad(0).read<float>();
  auto u = updates.write<float>();
  auto b = below.write<float>();
  for_elements(x.shape(), ctx.in(1), axis, [&](std::int64_t i, std::int64_t position) {
    u[at(i)] = g[at(position)];
    b[at(position)] = 0;
  });
  ctx.input_gradients[0] = std::move(below);
  ctx.input_gradients[2] = std::move(updates);
}

void forward_scatter_nd(const OpContext& ctx) {
  const Tensor& x = ctx.in(0);
  const Rows rows = rows_of(x.shape(), ctx.in(1), 0);
  if (ctx.in(2).count() != static_cast<std::int64_t>(rows.offsets.size()) * rows.length) {
    refuse("updates of shape " + to_string(ctx.in(2).shape()) + " do not fit the indices");
  }
  ctx.out(0, scatter(x, ctx.in(2), ctx.attrs().get("reduction", "none"), [&](auto&& put) {
            std::int64_t i = 0;
            for (const std::int64_t offset : rows.offsets) {
              for (std::int64_t r = 0; r < rows.length; ++r) put(i++, offset + r);
            }
          }));
}

void backward_scatter_nd(BackwardContext& ctx) {
  if (ctx.attrs().get("reduction", "none") != "none") return;
  const Rows rows = rows_of(ctx.in(0).shape(), ctx.in(1), 0);
  Tensor below = ctx.grad(0), updates(DType::f32, ctx.in(2).shape());
  const auto g = ctx.grad(0).read<float>();
  auto b = below.write<float>();
  float* u = updates.write<float>().data();
  for (const std::int64_t offset : rows.offsets) {
    for (std::int64_t r = 0; r < rows.length; ++r) {
      *u++ = g[at(offset + r)];
      b[at(offset + r)] = 0;
    }
  }
  ctx.input_gradients[0] = std::move(below);
  ctx.input_gradients[2] = std::move(updates);
}

void forward_compress(const OpContext& ctx) {
  Tensor x = ctx.in(0);
  if (!ctx.attrs().has("axis")) x = x.reshaped({x.count()});
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{0}), x.rank());
  const auto condition = ctx.in(1).read<bool>();
  std::vector<std::int64_t> chosen;
  for (std::size_t i = 0; i < condition.size() && i < at(x.shape()[at(axis)]); ++i) {
    if (condition[i]) chosen.push_back(static_cast<std::int64_t>(i));
  }
  Shape shape = x.shape();
  shape[at(axis)] = static_cast<std::int64_t>(chosen.size());
  Tensor result(x.dtype(), shape);
  const std::int64_t outer = extent(shape, 0, axis);
  const std::size_t row = width_of(x) * at(extent(shape, axis + 1, x.rank()));
  std::byte* out = result.write_bytes().data();
  for (std::int64_t o = 0; o < outer; ++o) {
    for (const std::int64_t i : chosen) {
      std::memcpy(out, x.bytes().data() + at(o * x.shape()[at(axis)] + i) * row, row);
      out += row;
    }
  }
  ctx.out(0, std::move(result));
}

void forward_one_hot(const OpContext& ctx) {
  const std::int64_t depth = static_cast<std::int64_t>(one_number(ctx.in(1), "the depth"));
  if (depth < 0) refuse("the depth should not be negative");
  const Tensor& given = ctx.in(0);
  const auto indices = to_int64s(is_float(given.dtype()) ? from_f32(to_f32(given), DType::i64) : given);
  const Tensor& values = ctx.in(2);  // [off, on]
  if (values.count() != 2) refuse("values should be a pair, off and on");
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{-1}), given.rank() + 1);
  Shape shape = given.shape();
  shape.insert(shape.begin() + axis, depth);
  Tensor result(values.dtype(), shape);
  const std::size_t width = width_of(values);
  std::byte* out = result.write_bytes().data();
  const std::int64_t n = result.count();
  for (std::int64_t i = 0; i < n; ++i) std::memcpy(out + at(i) * width, values.bytes().data(), width);
  const std::int64_t inner = extent(given.shape(), axis, given.rank());
  for (std::size_t i = 0; i < indices.size(); ++i) {
    std::int64_t k = indices[i];
    if (k < -depth || k >= depth) continue;  // all off
    if (k < 0) k += depth;
    const std::int64_t o = static_cast<std::int64_t>(i) / inner, r = static_cast<std::int64_t>(i) % inner;
    std::memcpy(out + at((o * depth + k) * inner + r) * width, values.bytes().data() + width, width);
  }
  ctx.out(0, std::move(result));
}

void infer_one_hot(InferContext& ctx) {
  Type t = ctx.in(2);
  t.known_rank = ctx.in(0).known_rank;
  t.shape = ctx.in(0).shape;
  t.symbols.clear();
  if (t.known_rank) {
    const std::int64_t axis =
        axis_in(ctx.attrs().get("axis", std::int64_t{-1}), static_cast<std::int64_t>(t.shape.size()) + 1);
    const Tensor& depth = ctx.constant(1);
    const bool known = !depth.empty() && is_integer(depth.dtype()) && depth.count() == 1;
    t.shape.insert(t.shape.begin() + axis, known ? std::max<std::int64_t>(to_int64s(depth)[0], 0) : -1);
  }
  ctx.out(0, std::move(t));
}

}  // namespace

constinit const OpDef Gather{"Gather", "", 7, infer_gather, forward_gather, backward_gather};
constinit const OpDef GatherElements{"GatherElements",        "", 11, infer_gather_elements, forward_gather_elements,
                                     backward_gather_elements};
constinit const OpDef GatherND{"GatherND", "", 11, infer_gather_nd, forward_gather_nd, backward_gather_nd};
constinit const OpDef Scatter{"Scatter", "", 9, infer_same, forward_scatter_elements, backward_scatter_elements};
constinit const OpDef ScatterElements{"ScatterElements",        "", 11, infer_same, forward_scatter_elements,
                                      backward_scatter_elements};
constinit const OpDef ScatterND{"ScatterND", "", 11, infer_same, forward_scatter_nd, backward_scatter_nd};
constinit const OpDef Compress{"Compress", "", 9, infer_chosen, forward_compress, nullptr};
constinit const OpDef OneHot{"OneHot", "", 9, infer_one_hot, forward_one_hot, nullptr};

}  // namespace qtool::op
