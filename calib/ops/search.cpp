// SPDX-License-Identifier: Apache-2.0
// Finding elements: TopK, NonZero, Unique, NonMaxSuppression. Ties go to the lower index.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "calib/ops/rows.h"

namespace qtool::op {
namespace {

template <class Context>
std::int64_t k_of(const Context& ctx, const Tensor& k) {
  return ctx.opset < 10 ? ctx.attrs().get("k", std::int64_t{-1}) : one_integer(k, "k");
}

void forward_top_k(const OpContext& ctx) {
  const Tensor x = widened(ctx.in(0));
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{-1}), x.rank());
  const std::int64_t k = k_of(ctx, ctx.in(1)), n = x.shape()[at(axis)], inner = extent(x.shape(), axis + 1, x.rank());
  if (k < 0 || k > n) refuse("the top " + std::to_string(k) + " of " + std::to_string(n) + " elements do not exist");
  const bool largest = ctx.attrs().get("largest", std::int64_t{1}) != 0;
  Shape shape = x.shape();
  shape[at(axis)] = k;
  Tensor values(x.dtype(), shape), indices(DType::i64, shape);
  for_number_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* in = x.read<T>().data();
    T* best = values.write<T>().data();
    std::int64_t* where = indices.write<std::int64_t>().data();
    for_rows(ctx.threads, extent(x.shape(), 0, axis) * inner, n, [&](std::int64_t row) {
      const std::int64_t o = row / inner, r = row % inner;
      const T* v = in + o * n * inner + r;
      std::vector<std::int64_t> order(at(n));
      std::iota(order.begin(), order.end(), 0);
      const auto before = [&](std::int64_t a, std::int64_t b) {
        const T p = v[a * inner], q = v[b * inner];
        if (p != q) return largest ? p > q : p < q;
        return a < b;
      };
      std::partial_sort(order.begin(), order.begin() + k, order.end(), before);
      for (std::int64_t i = 0; i < k; ++i) {
        best[(o * k + i) * inner + r] = v[order[at(i)] * inner];
        where[(o * k + i) * inner + r] = order[at(i)];
      }
    });
  });
  ctx.out(0, narrowed(std::move(values), ctx.in(0).dtype()));
  ctx.out(1, std::move(indices));
}

void backward_top_k(BackwardContext& ctx) {
  const Tensor& x = ctx.in(0);
  if (ctx.grad(0).empty()) return;
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{-1}), x.rank());
  const Shape& shape = ctx.grad(0).shape();
  const std::int64_t n = x.shape()[at(axis)], k = shape[at(axis)], inner = extent(shape, axis + 1, x.rank());
  Tensor result(DType::f32, x.shape());
  auto out = result.write<float>();
  const auto g = ctx.grad(0).read<float>();
  const auto where = ctx.outputs[1].read<std::int64_t>();
  for (std::int64_t i = 0; i < ctx.grad(0).count(); ++i) {
    out[at((i / (k * inner) * n + where[at(i)]) * inner + i % inner)] += g[at(i)];
  }
  ctx.input_gradients[0] = std::move(result);
}

void infer_top_k(InferContext& ctx) {
  Type t = ctx.in(0);
  if (t.known_rank) {
    const std::size_t axis =
        at(axis_in(ctx.attrs().get("axis", std::int64_t{-1}), static_cast<std::int64_t>(t.shape.size())));
    t.shape[axis] = ctx.opset < 10 || !ctx.constant(1).empty() ? k_of(ctx, ctx.constant(1)) : -1;
    if (axis < t.symbols.size()) t.symbols[axis].clear();
  }
  ctx.out(0, t);
  t.dtype = DType::i64;
  t.known_dtype = true;
  ctx.out(1, std::move(t));
}

void forward_non_zero(const OpContext& ctx) {
  const Tensor x = widened(ctx.in(0));
  std::vector<std::int64_t> found;
  for_any_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const auto v = x.read<T>();
    for (std::size_t i = 0; i < v.size(); ++i) {
      if (v[i] != T(0)) found.push_back(static_cast<std::int64_t>(i));
    }
  });
  const auto count = static_cast<std::int64_t>(found.size());
  Tensor result(DType::i64, {std::max<std::int64_t>(x.rank(), 1), count});
  auto out = result.write<std::int64_t>();
  for (std::size_t i = 0; i < found.size(); ++i) {
    std::int64_t rest = found[i];
    for (std::int64_t d = x.rank(); d-- > 0;) {
      out[at(d * count) + i] = rest % x.shape()[at(d)];
      rest /= x.shape()[at(d)];
    }
  }
  ctx.out(0, std::move(result));
}

void infer_non_zero(InferContext& ctx) {
  const Type& x = ctx.in(0);
  ctx.out(0, DType::i64,
          {x.known_rank ? std::max<std::int64_t>(static_cast<std::int64_t>(x.shape.size()), 1) : -1, -1});
}

void forward_unique(const OpContext& ctx) {
  Tensor x = widened(ctx.in(0));
  const bool along = ctx.attrs().has("axis");
  if (!along) x = x.reshaped({x.count()});
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{0}), x.rank());
  const std::int64_t n = x.shape()[at(axis)], outer = extent(x.shape(), 0, axis),
                     inner = extent(x.shape(), axis + 1, x.rank());
  for_any_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const auto v = x.read<T>();
    const auto compare = [&](std::int64_t a, std::int64_t b) {  // slices a and b along the axis
      for (std::int64_t o = 0; o < outer; ++o) {
        for (std::int64_t r = 0; r < inner; ++r) {
          const T p = v[at((o * n + a) * inner + r)], q = v[at((o * n + b) * inner + r)];
          if (p < q) return -1;
          if (q < p) return 1;
        }
      }
      return 0;
    };
    std::vector<std::int64_t> order(at(n));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return compare(a, b) < 0; });
    struct Group {
      std::int64_t first, count;
      std::vector<std::int64_t> members;
    };
    std::vector<Group> groups;
    for (const std::int64_t i : order) {
      if (groups.empty() || compare(groups.back().first, i) != 0) groups.push_back({i, 0, {}});
      ++groups.back().count;
      groups.back().members.push_back(i);
    }
    if (ctx.attrs().get("sorted", std::int64_t{1}) == 0) {
      std::sort(groups.begin(), groups.end(), [](const Group& a, const Group& b) { return a.first < b.first; });
    }
    const auto m = static_cast<std::int64_t>(groups.size());
    Shape shape = x.shape();
    shape[at(axis)] = m;
    Tensor values(x.dtype(), shape), first(DType::i64, {m}), inverse(DType::i64, {n}), counts(DType::i64, {m});
    auto out = values.template write<T>();
    for (std::int64_t g = 0; g < m; ++g) {
      const Group& group = groups[at(g)];
      for (std::int64_t o = 0; o < outer; ++o) {
        for (std::int64_t r = 0; r < inner; ++r)
          out[at((o * m + g) * inner + r)] = v[at((o * n + group.first) * inner + r)];
      }
      first.write<std::int64_t>()[at(g)] = group.first;
      counts.write<std::int64_t>()[at(g)] = group.count;
      for (const std::int64_t i : group.members) inverse.write<std::int64_t>()[at(i)] = g;
    }
    ctx.out(0, narrowed(std::move(values), ctx.in(0).dtype()));
    ctx.out(1, std::move(first));
    ctx.out(2, std::move(inverse));
    ctx.out(3, std::move(counts));
  });
}

void infer_unique(InferContext& ctx) {
  infer_chosen(ctx);
  for (std::size_t i = 1; i < 4; ++i) ctx.out(i, DType::i64, {-1});
}

struct Box {
  float top, left, bottom, right;
  float area() const { return (bottom - top) * (right - left); }
};

float overlap(const Box& a, const Box& b) {  // intersection over union
  const float height = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
  const float width = std::min(a.right, b.right) - std::max(a.left, b.left);
  if (height <= 0 || width <= 0) return 0;
  const float shared = height * width, all = a.area() + b.area() - shared;
  return all <= 0 ? 0 : shared / all;
}

void forward_non_max_suppression(const OpContext& ctx) {
  const Tensor &boxes = ctx.in(0), &scores = ctx.in(1);  // [batch, n, 4], [batch, classes, n]
  if (boxes.rank() != 3 || scores.rank() != 3 || boxes.shape()[2] != 4 || boxes.shape()[0] != scores.shape()[0] ||
      boxes.shape()[1] != scores.shape()[2]) {
    refuse("boxes should be [batch, n, 4] and scores [batch, classes, n]");
  }
  const std::int64_t most = ctx.has(2) ? one_integer(ctx.in(2), "the largest number of boxes") : 0;
  const float limit = ctx.has(3) ? static_cast<float>(one_number(ctx.in(3), "the limit of overlap")) : 0.0f;
  const bool thresholded = ctx.has(4);
  const float least = thresholded ? static_cast<float>(one_number(ctx.in(4), "the least score")) : 0.0f;
  const bool centred = ctx.attrs().get("center_point_box", std::int64_t{0}) != 0;
  const std::int64_t n = boxes.shape()[1], classes = scores.shape()[1];
  const auto b = boxes.read<float>(), s = scores.read<float>();
  std::vector<std::int64_t> result;
  for (std::int64_t batch = 0; batch < boxes.shape()[0]; ++batch) {
    std::vector<Box> all;
    for (std::int64_t i = 0; i < n; ++i) {
      const float* v = &b[at((batch * n + i) * 4)];
      if (centred) {  // x, y, width, height
        all.push_back({v[1] - v[3] / 2, v[0] - v[2] / 2, v[1] + v[3] / 2, v[0] + v[2] / 2});
      } else {  // two opposite corners
        all.push_back({std::min(v[0], v[2]), std::min(v[1], v[3]), std::max(v[0], v[2]), std::max(v[1], v[3])});
      }
    }
    for (std::int64_t c = 0; c < classes; ++c) {
      const float* score = s.data() + (batch * classes + c) * n;
      std::vector<std::int64_t> order;
      for (std::int64_t i = 0; i < n; ++i) {
        if (!thresholded || score[i] > least) order.push_back(i);
      }
      std::stable_sort(order.begin(), order.end(), [&](auto p, auto q) { return score[p] > score[q]; });
      std::vector<std::int64_t> kept;
      for (const std::int64_t i : order) {
        if (static_cast<std::int64_t>(kept.size()) >= most) break;
        const bool hidden =
            std::any_of(kept.begin(), kept.end(), [&](auto k) { return overlap(all[at(k)], all[at(i)]) > limit; });
        if (!hidden) kept.push_back(i);
      }
      for (const std::int64_t i : kept) result.insert(result.end(), {batch, c, i});
    }
  }
  ctx.out(0, Tensor::of<std::int64_t>({static_cast<std::int64_t>(result.size()) / 3, 3}, result));
}

void infer_non_max_suppression(InferContext& ctx) { ctx.out(0, DType::i64, {-1, 3}); }

}  // namespace

constinit const OpDef TopK{"TopK", "", 7, infer_top_k, forward_top_k, backward_top_k};
constinit const OpDef NonZero{"NonZero", "", 9, infer_non_zero, forward_non_zero, nullptr};
constinit const OpDef Unique{"Unique", "", 11, infer_unique, forward_unique, nullptr};
constinit const OpDef NonMaxSuppression{"NonMaxSuppression",         "",     10, infer_non_max_suppression,
                                        forward_non_max_suppression, nullptr};

}  // namespace qtool::op
