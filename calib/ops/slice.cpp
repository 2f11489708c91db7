// SPDX-License-Identifier: Apache-2.0
// Cutting tensors and putting them together: Concat, Split, Slice, Pad.
#include <algorithm>
#include <cstring>
#include <limits>

#include "calib/ops/copy.h"
#include "calib/ops/support.h"

namespace qtool::op {
namespace {

/// Bytes of `count` elements. Requires: whole bytes per element.
std::size_t bytes_of(DType t, std::int64_t count) {
  if (bit_width(t) % 8 != 0 || t == DType::string) refuse_type(t);
  return byte_size(t, count);
}

std::int64_t concat_axis(const Attrs& attrs, std::int64_t rank) {
  return axis_in(attrs.get("axis", std::int64_t{0}), rank);
}

void forward_concat(const OpContext& ctx) {
  if (ctx.inputs.empty()) refuse("there is nothing to concatenate");
  const Tensor& first = ctx.in(0);
  const std::int64_t axis = concat_axis(ctx.attrs(), first.rank());
  Shape shape = first.shape();
  shape[at(axis)] = 0;
  for (const Tensor& x : ctx.inputs) {
    if (x.dtype() != first.dtype()) refuse("the inputs have different types");
    bool fits = x.shape().size() == shape.size();
    for (std::size_t d = 0; fits && d < shape.size(); ++d) fits = d == at(axis) || x.shape()[d] == shape[d];
    if (!fits) {
      refuse("shapes " + to_string(first.shape()) + " and " + to_string(x.shape()) + " do not concatenate along axis " +
             std::to_string(axis));
    }
    shape[at(axis)] += x.shape()[at(axis)];
  }
  const std::int64_t outer = extent(shape, 0, axis), rest = extent(shape, axis + 1, first.rank());
  if (first.dtype() == DType::string) {
    std::vector<std::string> all;
    for (std::int64_t o = 0; o < outer; ++o) {
      for (const Tensor& x : ctx.inputs) {
        const std::int64_t n = x.shape()[at(axis)] * rest;
        const auto& from = x.read_strings();
        all.insert(all.end(), from.begin() + o * n, from.begin() + (o + 1) * n);
      }
    }
    return ctx.out(0, Tensor::strings(shape, std::move(all)));
  }
  Tensor result = Tensor::unset(first.dtype(), shape);
  std::byte* to = result.write_bytes().data();
  const std::size_t row = bytes_of(first.dtype(), shape[at(axis)] * rest);
  for (const Tensor& x : ctx.inputs) {
    const std::size_t part = bytes_of(x.dtype(), x.shape()[at(axis)] * rest);
    const std::byte* from = x.bytes().data();
    if (part == 0) continue;
    for (std::int64_t o = 0; o < outer; ++o) copy_bytes(to + at(o) * row, from + at(o) * part, part);
    to += part;
  }
  ctx.out(0, std::move(result));
}

/// A view of `x` from `start` on along `axis`, of extent `n`.
Tensor part_of(Threads& threads, const Tensor& x, std::int64_t axis, std::int64_t start, std::int64_t n) {
  Shape shape = x.shape();
  shape[at(axis)] = n;
  const auto strides = strides_of(x.shape());
  return gather_strided(threads, x, shape, strides, start * strides[at(axis)]);
}

void backward_concat(BackwardContext& ctx) {
  const std::int64_t axis = concat_axis(ctx.attrs(), ctx.in(0).rank());
  std::int64_t start = 0;
  for (std::size_t k = 0; k < ctx.inputs.size(); ++k) {
    const std::int64_t n = ctx.in(k).shape()[at(axis)];
    if (ctx.wants(k)) ctx.input_gradients[k] = part_of(ctx.threads, ctx.grad(0), axis, start, n);
    start += n;
  }
}

void infer_concat(InferContext& ctx) {
  Type t = ctx.in(0);
  t.symbols.clear();
  bool known = t.known_rank;
  for (const Type& x : ctx.inputs) known = known && x.known_rank && x.shape.size() == t.shape.size();
  if (!known) {
    t.known_rank = false;
    t.shape.clear();
    return ctx.out(0, std::move(t));
  }
  const std::size_t axis = at(concat_axis(ctx.attrs(), static_cast<std::int64_t>(t.shape.size())));
  t.symbols.resize(t.shape.size());
  for (std::size_t d = 0; d < t.shape.size(); ++d) {
    if (d == axis) {
      t.shape[d] = 0;
      for (const Type& x : ctx.inputs) {
        if (x.shape[d] < 0) t.shape[d] = -1;
        if (t.shape[d] >= 0) t.shape[d] += x.shape[d];
      }
      continue;
    }
    for (const Type& x : ctx.inputs) {
      if (t.shape[d] < 0) t.shape[d] = x.shape[d];
      if (t.shape[d] < 0 && t.symbols[d].empty() && d < x.symbols.size()) t.symbols[d] = x.symbols[d];
    }
  }
  ctx.out(0, std::move(t));
}

std::vector<std::int64_t> split_sizes(const Node& node, std::int64_t opset, const Tensor& given, std::int64_t whole) {
  std::vector<std::int64_t> sizes;
  if (!given.empty()) {
    sizes = to_int64s(given);
  } else if (node.attrs.has("split")) {
    sizes = node.attrs.get("split", std::vector<std::int64_t>{});
  } else {
    const auto parts = static_cast<std::int64_t>(node.outputs.size());
    if (parts == 0) refuse("there are no outputs");
    if (opset < 18 && whole % parts != 0) {
      refuse("extent " + std::to_string(whole) + " does not split into " + std::to_string(parts) + " equal parts");
    }
    const std::int64_t part = (whole + parts - 1) / parts;  // from opset 18 on the last may be shorter
    for (std::int64_t i = 0; i < parts; ++i) sizes.push_back(std::clamp<std::int64_t>(whole - i * part, 0, part));
  }
  std::int64_t sum = 0;
  for (const std::int64_t n : sizes) {
    if (n < 0 || n > whole) refuse("a part of extent " + std::to_string(n) + " is not possible");
    sum += n;
  }
  if (sum != whole || sizes.size() != node.outputs.size()) {
    refuse("the parts " + to_string(sizes) + " do not make up extent " + std::to_string(whole) + " in " +
           std::to_string(node.outputs.size()) + " outputs");
  }
  return sizes;
}

void forward_split(const OpContext& ctx) {
  const Tensor& x = ctx.in(0);
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{0}), x.rank());
  const auto sizes = split_sizes(ctx.node, ctx.opset, ctx.in(1), x.shape()[at(axis)]);
  std::int64_t start = 0;
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    if (ctx.wants(k)) ctx.out(k, part_of(ctx.threads, x, axis, start, sizes[k]));
    start += sizes[k];
  }
}

/// Writes `part` into `whole` from `start` on along `axis`.
void put_part(Tensor& whole, const Tensor& part, std::int64_t axis, std::int64_t start) {
  const std::int64_t rest = extent(whole.shape(), axis + 1, whole.rank()), outer = extent(whole.shape(), 0, axis);
  const auto row = at(whole.shape()[at(axis)] * rest), n = at(part.shape()[at(axis)] * rest);
  const auto from = part.read<float>();
  auto to = whole.write<float>();
  for (std::size_t o = 0; o < at(outer); ++o) {
    for (std::size_t i = 0; i < n; ++i) to[o * row + at(start * rest) + i] = from[o * n + i];
  }
}

void backward_split(BackwardContext& ctx) {
  const Tensor& x = ctx.in(0);
  const std::int64_t axis = axis_in(ctx.attrs().get("axis", std::int64_t{0}), x.rank());
  Tensor result(DType::f32, x.shape());
  const auto sizes = split_sizes(ctx.node, ctx.opset, ctx.in(1), x.shape()[at(axis)]);
  std::int64_t start = 0;
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    if (!ctx.grad(k).empty()) put_part(result, ctx.grad(k), axis, start);
    start += sizes[k];
  }
  ctx.input_gradients[0] = std::move(result);
}

void infer_split(InferContext& ctx) {
  const Type& x = ctx.in(0);
  for (std::size_t k = 0; k < ctx.outputs.size(); ++k) ctx.out(k, x);
  if (!x.known_rank) return;
  const std::int64_t axis =
      axis_in(ctx.attrs().get("axis", std::int64_t{0}), static_cast<std::int64_t>(x.shape.size()));
  const bool open = ctx.has(1) && ctx.constant(1).empty();
  std::vector<std::int64_t> sizes(ctx.outputs.size(), -1);
  if (!open && x.shape[at(axis)] >= 0) {
    sizes = split_sizes(ctx.node, ctx.opset, ctx.constant(1), x.shape[at(axis)]);
  } else if (!ctx.constant(1).empty()) {
    sizes = to_int64s(ctx.constant(1));
    sizes.resize(ctx.outputs.size(), -1);
  }
  for (std::size_t k = 0; k < ctx.outputs.size(); ++k) {
    ctx.outputs[k].shape[at(axis)] = sizes[k];
    if (at(axis) < ctx.outputs[k].symbols.size()) ctx.outputs[k].symbols[at(axis)].clear();
  }
}

/// What a Slice takes along each axis of its input.
struct Cut {
  std::vector<std::int64_t> starts, steps;
  Shape shape;
};

/// `starts`, `ends` and so on as given; empty axes: all in order, empty steps: ones.
Cut cut_of(const Shape& from, const std::vector<std::int64_t>& starts, const std::vector<std::int64_t>& ends,
           std::vector<std::int64_t> axes, std::vector<std::int64_t> steps) {
  const auto rank = static_cast<std::int64_t>(from.size());
  if (axes.empty()) {
    for (std::size_t i = 0; i < starts.size(); ++i) axes.push_back(static_cast<std::int64_t>(i));
  }
  if (steps.empty()) steps.assign(starts.size(), 1);
  if (ends.size() != starts.size() || axes.size() != starts.size() || steps.size() != starts.size()) {
    refuse("starts, ends, axes and steps have different lengths");
  }
  Cut cut{std::vector<std::int64_t>(from.size(), 0), std::vector<std::int64_t>(from.size(), 1), from};
  for (std::size_t i = 0; i < starts.size(); ++i) {
    const std::size_t axis = at(axis_in(axes[i], rank));
    const std::int64_t n = from[axis], step = steps[i];
    if (step == 0) refuse("a step of 0 goes nowhere");
    const auto place = [n](std::int64_t v) {
      return v < 0 ? std::max(v, -n - 1) + n : std::min(v, n);
    };  // -1: before 0
    std::int64_t start = place(starts[i]), end = place(ends[i]);
    if (step > 0) {
      start = std::max<std::int64_t>(start, 0);
      end = std::max<std::int64_t>(end, 0);
      cut.shape[axis] = end > start ? (end - start - 1) / step + 1 : 0;
    } else {
      start = std::min(start, n - 1);
      // -(step + 1) + 1 in place of -step: the lowest step has no negative.
      cut.shape[axis] = start > end ? static_cast<std::int64_t>(static_cast<std::uint64_t>(start - end - 1) /
                                                                (std::uint64_t{0} - static_cast<std::uint64_t>(step))) +
                                          1
                                    : 0;
    }
    cut.starts[axis] = start;
    cut.steps[axis] = cut.shape[axis] <= 1 ? 1 : step;  // a single element needs no step, however large
  }
  return cut;
}

template <class Context>
Cut cut_of(const Context& ctx, const Shape& from, const Tensor& starts, const Tensor& ends, const Tensor& axes,
           const Tensor& steps) {
  const std::vector<std::int64_t> none;
  if (ctx.opset < 10) {
    return cut_of(from, ctx.attrs().get("starts", none), ctx.attrs().get("ends", none), ctx.attrs().get("axes", none),
                  {});
  }
  return cut_of(from, to_int64s(starts), to_int64s(ends), axes.empty() ? none : to_int64s(axes),
                steps.empty() ? none : to_int64s(steps));
}

void forward_slice(const OpContext& ctx) {
  const Tensor& x = ctx.in(0);
  const Cut cut = cut_of(ctx, x.shape(), ctx.in(1), ctx.in(2), ctx.in(3), ctx.in(4));
  if (cut.shape == x.shape() && std::all_of(cut.steps.begin(), cut.steps.end(), [](auto s) { return s == 1; })) {
    return ctx.out(0, x);
  }
  auto strides = strides_of(x.shape());
  std::int64_t offset = 0;
  for (std::size_t d = 0; d < strides.size(); ++d) {
    offset += cut.starts[d] * strides[d];
    strides[d] *= cut.steps[d];
  }
  if (element_count(cut.shape) == 0) offset = 0;
  ctx.out(0, gather_strided(ctx.threads, x, cut.shape, strides, offset));
}

void backward_slice(BackwardContext& ctx) {
  const Tensor& x = ctx.in(0);
  const Cut cut = cut_of(ctx, x.shape(), ctx.in(1), ctx.in(2), ctx.in(3), ctx.in(4));
  Tensor result(DType::f32, x.shape());
  auto strides = strides_of(x.shape());
  std::int64_t offset = 0;
  for (std::size_t d = 0; d < strides.size(); ++d) {
    offset += cut.starts[d] * strides[d];
    strides[d] *= cut.steps[d];
  }
  const auto g = ctx.grad(0).read<float>();
  auto out = result.write<float>();
  const Walk<1> w = make_walk<1>(cut.shape, {strides});
  for_runs(w, 0, w.count, [&](std::int64_t position, const auto& starts, const auto& steps, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) out[at(offset + starts[0] + i * steps[0])] = g[at(position + i)];
  });
  ctx.input_gradients[0] = std::move(result);
}

void infer_slice(InferContext& ctx) {
  Type t = ctx.in(0);
  const bool known =
      ctx.opset < 10 || (!ctx.constant(1).empty() && !ctx.constant(2).empty() &&
                         (!ctx.has(3) || !ctx.constant(3).empty()) && (!ctx.has(4) || !ctx.constant(4).empty()));
  if (!t.known_rank) return ctx.out(0, std::move(t));
  if (!known) {
    // Axes may be constant where starts and ends are not.
    const bool axes_known = !ctx.constant(3).empty();
    const auto axes = axes_known ? axes_in(to_int64s(ctx.constant(3)), static_cast<std::int64_t>(t.shape.size()))
                                 : std::vector<std::int64_t>{};
    t.symbols.resize(t.shape.size());
    for (std::size_t d = 0; d < t.shape.size(); ++d) {
      if (axes_known && std::find(axes.begin(), axes.end(), static_cast<std::int64_t>(d)) == axes.end()) continue;
      t.shape[d] = -1;
      t.symbols[d].clear();
    }
    return ctx.out(0, std::move(t));
  }
  // An unknown extent stays one, unless nothing is cut from it.
  Shape from = t.shape;
  for (std::int64_t& d : from) d = d < 0 ? std::numeric_limits<std::int32_t>::max() : d;
  const Cut cut = cut_of(ctx, from, ctx.constant(1), ctx.constant(2), ctx.constant(3), ctx.constant(4));
  for (std::size_t d = 0; d < t.shape.size(); ++d) {
    if (t.shape[d] >= 0) {
      t.shape[d] = cut.shape[d];
    } else if (cut.shape[d] != from[d] && d < t.symbols.size()) {
      t.symbols[d].clear();
    }
  }
  ctx.out(0, std::move(t));
}

/// Amounts before and after each axis (negative: cut off).
struct Padding {
  std::vector<std::int64_t> before, after;
};

template <class Context>
Padding padding_of(const Context& ctx, std::size_t rank, const Tensor& pads, const Tensor& axes_given) {
  std::vector<std::int64_t> amounts;
  if (ctx.opset < 11) {
    amounts = ctx.attrs().get("pads", std::vector<std::int64_t>{});
  } else {
    amounts = to_int64s(pads);
  }
  std::vector<std::int64_t> axes;
  if (!axes_given.empty()) {
    axes = to_int64s(axes_given);
  } else {
    for (std::size_t d = 0; d < rank; ++d) axes.push_back(static_cast<std::int64_t>(d));
  }
  if (amounts.size() != 2 * axes.size()) refuse("pads should have two entries per axis");
  Padding p{std::vector<std::int64_t>(rank, 0), std::vector<std::int64_t>(rank, 0)};
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const std::size_t axis = at(axis_in(axes[i], static_cast<std::int64_t>(rank)));
    p.before[axis] = amounts[i];
    p.after[axis] = amounts[i + axes.size()];
  }
  return p;
}

std::int64_t padded_extent(std::int64_t d, std::int64_t before, std::int64_t after) {
  constexpr std::int64_t most = std::int64_t{1} << 40;
  if (before > most || after > most || before < -most || after < -most) refuse("a pad is too large");
  const std::int64_t n = d + before + after;
  if (n < 0) refuse("more is cut off than there is");
  return n;
}

/// Where index i of the padded axis comes from; -1: from the pad value.
std::int64_t source_of(std::int64_t i, std::int64_t n, const std::string& mode) {
  if (i >= 0 && i < n) return i;
  if (mode == "constant") return -1;
  if (n == 0) refuse("an empty axis cannot be padded in mode " + mode);
  if (mode == "edge") return std::clamp<std::int64_t>(i, 0, n - 1);
  if (mode == "wrap") return ((i % n) + n) % n;
  if (mode != "reflect") refuse("pad mode \"" + mode + "\" is not known");
  if (n == 1) return 0;
  const std::int64_t period = 2 * (n - 1);
  const std::int64_t r = ((i % period) + period) % period;
  return r < n ? r : period - r;
}

/// Per axis the source index of every output index.
std::vector<std::vector<std::int64_t>> pad_sources(const Shape& from, const Shape& to, const Padding& p,
                                                   const std::string& mode) {
  std::vector<std::vector<std::int64_t>> sources(from.size());
  for (std::size_t d = 0; d < from.size(); ++d) {
    for (std::int64_t i = 0; i < to[d]; ++i) sources[d].push_back(source_of(i - p.before[d], from[d], mode));
  }
  return sources;
}

/// Calls f(output row start, input row start or -1) for every row along the last axis.
template <class F>
void for_pad_rows(const Shape& from, const Shape& to, const std::vector<std::vector<std::int64_t>>& sources, F&& f) {
  const std::size_t rank = to.size();
  const auto in_strides = strides_of(from);
  const std::int64_t rows = rank == 0 ? 1 : extent(to, 0, static_cast<std::int64_t>(rank) - 1);
  for (std::int64_t row = 0; row < rows; ++row) {
    std::int64_t rest = row, start = 0;
    bool inside = true;
    for (std::size_t d = rank - 1; d-- > 0;) {
      const std::int64_t source = sources[d][at(rest % to[d])];
      rest /= to[d];
      inside = inside && source >= 0;
      start += source * in_strides[d];
    }
    f(row * to[rank - 1], inside ? start : -1);
  }
}

Shape padded_shape(const Shape& from, const Padding& p) {
  Shape to = from;
  for (std::size_t d = 0; d < to.size(); ++d) to[d] = padded_extent(from[d], p.before[d], p.after[d]);
  return to;
}

void forward_pad(const OpContext& ctx) {
  const Tensor& x = ctx.in(0);
  const std::string mode = ctx.attrs().get("mode", "constant");
  const Padding p = padding_of(ctx, x.shape().size(), ctx.in(1), ctx.in(3));
  const Shape to = padded_shape(x.shape(), p);
  Tensor result(x.dtype(), to);
  if (x.rank() == 0) return ctx.out(0, x);
  const std::size_t size = bytes_of(x.dtype(), 1);
  std::vector<std::byte> value(size);
  if (ctx.has(2) && ctx.in(2).count() > 0) {
    if (ctx.in(2).dtype() != x.dtype()) refuse("the pad value has another type than the input");
    std::copy_n(ctx.in(2).bytes().begin(), size, value.begin());
  } else if (ctx.opset < 11) {
    const Tensor v = from_f32(Tensor::scalar<float>(ctx.attrs().get("value", 0.0f)), x.dtype());
    std::copy_n(v.bytes().begin(), size, value.begin());
  }
  if (result.count() == 0) return ctx.out(0, std::move(result));
  const auto sources = pad_sources(x.shape(), to, p, mode);
  const std::byte* in = x.bytes().data();
  std::byte* out = result.write_bytes().data();
  // A row is made of runs of neighbours in the input, and of runs of the value, which zeros are already.
  const bool zero = std::all_of(value.begin(), value.end(), [](std::byte b) { return b == std::byte{0}; });
  const auto& last = sources.back();
  std::vector<std::size_t> ends;
  for (std::size_t i = 1; i <= last.size(); ++i) {
    if (i == last.size() || last[i] != (last[i - 1] < 0 ? -1 : last[i - 1] + 1)) ends.push_back(i);
  }
  for_pad_rows(x.shape(), to, sources, [&](std::int64_t row, std::int64_t start) {
    std::size_t i = 0;
    for (const std::size_t end : ends) {
      std::byte* const run = out + (at(row) + i) * size;
      if (start >= 0 && last[i] >= 0) {
        std::memcpy(run, in + at(start + last[i]) * size, (end - i) * size);
      } else if (!zero) {
        for (std::size_t k = 0; k < end - i; ++k) std::memcpy(run + k * size, value.data(), size);
      }
      i = end;
    }
  });
  ctx.out(0, std::move(result));
}

void backward_pad(BackwardContext& ctx) {
  const Tensor& x = ctx.in(0);
  const Padding p = padding_of(ctx, x.shape().size(), ctx.in(1), ctx.in(3));
  Tensor result(DType::f32, x.shape());
  auto out = result.write<float>();
  const auto g = ctx.grad(0).read<float>();
  if (x.rank() == 0 || g.empty()) {
    if (x.rank() == 0) result = ctx.grad(0);
    ctx.input_gradients[0] = std::move(result);
    return;
  }
  const Shape& to = ctx.grad(0).shape();
  const auto sources = pad_sources(x.shape(), to, p, ctx.attrs().get("mode", "constant"));
  for_pad_rows(x.shape(), to, sources, [&](std::int64_t row, std::int64_t start) {
    for (std::size_t i = 0; i < sources.back().size(); ++i) {
      if (start >= 0 && sources.back()[i] >= 0) out[at(start + sources.back()[i])] += g[at(row) + i];
    }
  });
  ctx.input_gradients[0] = std::move(result);
}

void infer_pad(InferContext& ctx) {
  Type t = ctx.in(0);
  if (t.known_rank) {
    const bool known = ctx.opset < 11 || (!ctx.constant(1).empty() && (!ctx.has(3) || !ctx.constant(3).empty()));
    t.symbols.resize(t.shape.size());
    Padding p;
    if (known) p = padding_of(ctx, t.shape.size(), ctx.constant(1), ctx.constant(3));
    for (std::size_t d = 0; d < t.shape.size(); ++d) {
      if (known && p.before[d] == 0 && p.after[d] == 0) continue;
      t.shape[d] = known && t.shape[d] >= 0 ? padded_extent(t.shape[d], p.before[d], p.after[d]) : -1;
      t.symbols[d].clear();
    }
  }
  ctx.out(0, std::move(t));
}

}  // namespace

constinit const OpDef Concat{"Concat", "", 7, infer_concat, forward_concat, backward_concat};
constinit const OpDef Split{"Split", "", 7, infer_split, forward_split, backward_split};
constinit const OpDef Slice{"Slice", "", 7, infer_slice, forward_slice, backward_slice};
constinit const OpDef Pad{"Pad", "", 7, infer_pad, forward_pad, backward_pad};

}  // namespace qtool::op
