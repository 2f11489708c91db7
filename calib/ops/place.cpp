// SPDX-License-Identifier: Apache-2.0
// One tensor placed in another: CenterCropPad, and TensorScatter, which writes into a key-value cache.
#include <algorithm>
#include <cstring>

#include "calib/ops/support.h"

namespace qtool::op {
namespace {

template <class Context>
Shape centred_shape(const Context& ctx, Shape shape, const Tensor& wanted) {
  const auto extents = to_int64s(wanted);
  std::vector<std::int64_t> axes;
  for (std::size_t i = 0; i < shape.size(); ++i) axes.push_back(static_cast<std::int64_t>(i));
  axes = ctx.attrs().get("axes", axes);
  if (axes.size() != extents.size()) refuse("there should be one extent per axis");
  for (std::size_t i = 0; i < axes.size(); ++i) {
    shape[at(axis_in(axes[i], static_cast<std::int64_t>(shape.size())))] = extents[i];
  }
  return shape;
}

void forward_center_crop_pad(const OpContext& ctx) {
  const Tensor& x = ctx.in(0);
  const Shape to = centred_shape(ctx, x.shape(), ctx.in(1));
  Tensor y(x.dtype(), to);
  // What both have, and where it starts in each.
  Shape shared;
  std::int64_t from_start = 0, to_start = 0;
  const auto from_strides = strides_of(x.shape()), to_strides = strides_of(to);
  for (std::size_t d = 0; d < to.size(); ++d) {
    shared.push_back(std::min(x.shape()[d], to[d]));
    from_start += (x.shape()[d] - shared[d]) / 2 * from_strides[d];
    to_start += (to[d] - shared[d]) / 2 * to_strides[d];
  }
  const std::size_t width = width_of(x);
  std::byte* out = y.write_bytes().data();
  const Walk<2> w = make_walk<2>(shared, {from_strides, to_strides});
  for_runs(w, 0, w.count, [&](std::int64_t, const auto& starts, const auto& steps, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      std::memcpy(out + at(to_start + starts[1] + i * steps[1]) * width,
                  x.bytes().data() + at(from_start + starts[0] + i * steps[0]) * width, width);
    }
  });
  ctx.out(0, std::move(y));
}

void infer_center_crop_pad(InferContext& ctx) {
  Type t = ctx.in(0);
  t.symbols.clear();
  if (t.known_rank && !ctx.constant(1).empty()) {
    t.shape = centred_shape(ctx, t.shape, ctx.constant(1));
  } else if (t.known_rank) {
    t.shape.assign(t.shape.size(), -1);
  }
  ctx.out(0, std::move(t));
}

void forward_tensor_scatter(const OpContext& ctx) {
  const Tensor &cache = ctx.in(0), &update = ctx.in(1);
  const std::int64_t rank = cache.rank(), axis = axis_in(ctx.attrs().get("axis", std::int64_t{-2}), rank);
  if (update.dtype() != cache.dtype() || update.rank() != rank || axis == 0)
    refuse("the update does not fit the cache");
  for (std::int64_t d = 0; d < rank; ++d) {
    if (d != axis && update.shape()[at(d)] != cache.shape()[at(d)]) refuse("the update does not fit the cache");
  }
  const std::int64_t batch = cache.shape()[0], room = cache.shape()[at(axis)], length = update.shape()[at(axis)];
  const bool circular = ctx.attrs().get("mode", "linear") == "circular";
  std::vector<std::int64_t> starts(at(batch), 0);
  if (ctx.has(2)) starts = to_int64s(ctx.in(2));
  if (starts.size() != at(batch) || length > room) refuse("the update does not fit the cache");
  Tensor y = cache;
  const std::int64_t outer = extent(cache.shape(), 1, axis), inner = extent(cache.shape(), axis + 1, rank);
  const std::size_t row = width_of(cache) * at(inner);
  std::byte* out = y.write_bytes().data();
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t start = starts[at(b)];
    if (start < 0 || start > room || (!circular && start + length > room))
      refuse("the update reaches beyond the cache");
    for (std::int64_t o = b * outer; o < (b + 1) * outer; ++o) {
      for (std::int64_t i = 0; i < length && row > 0; ++i) {
        std::memcpy(out + at(o * room + (start + i) % room) * row, update.bytes().data() + at(o * length + i) * row,
                    row);
      }
    }
  }
  ctx.out(0, std::move(y));
}

}  // namespace

constinit const OpDef CenterCropPad{"CenterCropPad", "", 18, infer_center_crop_pad, forward_center_crop_pad, nullptr};
constinit const OpDef TensorScatter{"TensorScatter", "", 24, infer_same, forward_tensor_scatter, nullptr};

}  // namespace qtool::op
