// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/support.h"

#include <algorithm>
#include <cstring>

#include "calib/ops/copy.h"

namespace qtool::op {
namespace {

/// An element of a given width, moved and never computed with.
template <std::size_t Bytes>
struct Element {
  std::byte bytes[Bytes];
};

template <class E>
void copy_runs(Threads& threads, const Walk<2>& w, const std::byte* in, std::byte* out) {
  for_runs(threads, w, [&](std::int64_t, const auto& starts, const auto& steps, std::int64_t n) {
    const auto* from = reinterpret_cast<const E*>(in) + starts[0];
    auto* to = reinterpret_cast<E*>(out) + starts[1];
    if (steps[0] == 1) {
      copy_bytes(reinterpret_cast<std::byte*>(to), reinterpret_cast<const std::byte*>(from),
                 static_cast<std::size_t>(n) * sizeof(E));
    } else {
      for (std::int64_t i = 0; i < n; ++i) to[i] = from[i * steps[0]];
    }
  });
}

/// Codes of a packed type, one per byte.
Tensor one_per_byte(const Tensor& packed) {
  const auto bits = static_cast<std::size_t>(bit_width(packed.dtype()));
  const auto in = packed.bytes();
  Tensor result(DType::u8, packed.shape());
  for (std::size_t at = 0; std::uint8_t & code : result.write<std::uint8_t>()) {
    code = 0;
    for (std::size_t b = 0; b < bits; ++b, ++at) {
      const auto bit = (std::to_integer<unsigned>(in[at / 8]) >> (at % 8)) & 1u;
      code = static_cast<std::uint8_t>(code | (bit << b));
    }
  }
  return result;
}

Tensor repacked(const Tensor& codes, DType dtype) {
  const auto bits = static_cast<std::size_t>(bit_width(dtype));
  Tensor result(dtype, codes.shape());
  const auto out = result.write_bytes();
  std::size_t at = 0;
  for (const std::uint8_t code : codes.read<std::uint8_t>()) {
    for (std::size_t b = 0; b < bits; ++b, ++at) out[at / 8] |= static_cast<std::byte>(((code >> b) & 1u) << (at % 8));
  }
  return result;
}

}  // namespace

std::int64_t one_integer(const Tensor& t, const char* name) {
  if (t.count() != 1 || is_float(t.dtype())) refuse(std::string(name) + " should be one integer");
  return to_int64s(t)[0];
}

double one_number(const Tensor& t, const char* name) {
  if (t.count() != 1) refuse(std::string(name) + " should be one number");
  return t.dtype() == DType::f64 ? t.read<double>()[0] : static_cast<double>(to_f32(t).read<float>()[0]);
}

std::int64_t axis_in(std::int64_t axis, std::int64_t rank) {
  if (axis < -rank || axis >= rank) {
    refuse("axis " + std::to_string(axis) + " is out of range for rank " + std::to_string(rank));
  }
  return axis < 0 ? axis + rank : axis;
}

std::vector<std::int64_t> axes_in(std::vector<std::int64_t> axes, std::int64_t rank) {
  for (std::int64_t& axis : axes) axis = axis_in(axis, rank);
  std::sort(axes.begin(), axes.end());
  if (std::adjacent_find(axes.begin(), axes.end()) != axes.end()) refuse("an axis is named twice");
  return axes;
}

std::int64_t extent(const Shape& shape, std::int64_t begin, std::int64_t end) {
  return element_count(Shape(shape.begin() + begin, shape.begin() + end));
}

std::vector<std::int64_t> strides_of(const Shape& shape) {
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t step = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    // Only beside an extent of 0 can this overflow, where nothing is ever read.
    if (__builtin_mul_overflow(step, shape[i], &step)) step = 0;
  }
  return strides;
}

Shape broadcast(const Shape& a, const Shape& b) {
  const Shape& longer = a.size() >= b.size() ? a : b;
  const Shape& shorter = a.size() >= b.size() ? b : a;
  Shape result = longer;
  const std::size_t skip = longer.size() - shorter.size();
  for (std::size_t i = 0; i < shorter.size(); ++i) {
    std::int64_t& d = result[skip + i];
    if (d == shorter[i] || shorter[i] == 1) continue;
    if (d != 1) refuse("the shapes " + to_string(a) + " and " + to_string(b) + " do not broadcast");
    d = shorter[i];
  }
  return result;
}

Type broadcast(const Type& a, const Type& b) {
  Type result;
  result.dtype = a.known_dtype ? a.dtype : b.dtype;
  result.known_dtype = a.known_dtype || b.known_dtype;
  if (!a.known_rank || !b.known_rank) return result;
  result.known_rank = true;
  const Type& longer = a.shape.size() >= b.shape.size() ? a : b;
  const Type& shorter = a.shape.size() >= b.shape.size() ? b : a;
  result.shape = longer.shape;
  result.symbols = longer.symbols;
  result.symbols.resize(result.shape.size());
  const std::size_t skip = longer.shape.size() - shorter.shape.size();
  for (std::size_t i = 0; i < shorter.shape.size(); ++i) {
    std::int64_t& d = result.shape[skip + i];
    const std::int64_t e = shorter.shape[i];
    std::string& symbol = result.symbols[skip + i];
    const std::string other = i < shorter.symbols.size() ? shorter.symbols[i] : std::string();
    if (e == 1 || d == e) {
      if (d < 0 && e < 0 && symbol != other) symbol.clear();
    } else if (d == 1) {
      d = e;
      symbol = other;
    } else if (d < 0) {  // e > 1: the unknown extent is 1 or e
      d = e;
      symbol.clear();
    } else if (e >= 0) {
      refuse("the shapes " + to_string(a.shape) + " and " + to_string(b.shape) + " do not broadcast");
    }
  }
  return result;
}

std::vector<std::int64_t> broadcast_strides(const Shape& from, const Shape& to) {
  std::vector<std::int64_t> strides(to.size(), 0);
  const std::vector<std::int64_t> dense = strides_of(from);
  const std::size_t skip = to.size() - from.size();
  for (std::size_t i = 0; i < from.size(); ++i) {
    if (from[i] != 1) strides[skip + i] = dense[i];
  }
  return strides;
}

Tensor sum_to(const Tensor& gradient, const Shape& shape) {
  if (gradient.shape() == shape) return gradient;
  const Walk<2> w =
      make_walk<2>(gradient.shape(), {strides_of(gradient.shape()), broadcast_strides(shape, gradient.shape())});
  std::vector<double> sums(static_cast<std::size_t>(element_count(shape)), 0);
  const auto g = gradient.read<float>();
  for_runs(w, 0, w.count, [&](std::int64_t, const auto& starts, const auto& steps, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      sums[static_cast<std::size_t>(starts[1] + i * steps[1])] += g[static_cast<std::size_t>(starts[0] + i * steps[0])];
    }
  });
  Tensor result(DType::f32, shape);
  std::transform(sums.begin(), sums.end(), result.write<float>().begin(),
                 [](double s) { return static_cast<float>(s); });
  return result;
}

Tensor gather_strided(Threads& threads, const Tensor& in, Shape shape, const std::vector<std::int64_t>& strides,
                      std::int64_t offset) {
  if (in.dtype() == DType::string) {
    std::vector<std::string> result(static_cast<std::size_t>(element_count(shape)));
    const auto& from = in.read_strings();
    const Walk<1> w = make_walk<1>(shape, {strides});
    for_runs(w, 0, w.count, [&](std::int64_t at, const auto& starts, const auto& steps, std::int64_t n) {
      for (std::int64_t i = 0; i < n; ++i) {
        result[static_cast<std::size_t>(at + i)] = from[static_cast<std::size_t>(offset + starts[0] + i * steps[0])];
      }
    });
    return Tensor::strings(std::move(shape), std::move(result));
  }
  const int bits = bit_width(in.dtype());
  if (bits % 8 != 0)
    return repacked(gather_strided(threads, one_per_byte(in), std::move(shape), strides, offset), in.dtype());
  Tensor result = Tensor::unset(in.dtype(), shape);
  if (result.count() == 0) return result;
  const Walk<2> w = make_walk<2>(shape, {strides, strides_of(shape)});
  const auto size = static_cast<std::size_t>(bits / 8);
  const std::byte* from = in.bytes().data() + static_cast<std::size_t>(offset) * size;
  std::byte* to = result.write_bytes().data();
  switch (size) {
    case 1: copy_runs<Element<1>>(threads, w, from, to); break;
    case 2: copy_runs<Element<2>>(threads, w, from, to); break;
    case 4: copy_runs<std::uint32_t>(threads, w, from, to); break;
    case 8: copy_runs<std::uint64_t>(threads, w, from, to); break;
    default: copy_runs<Element<16>>(threads, w, from, to);
  }
  return result;
}

void infer_same(InferContext& ctx) { ctx.out(0, ctx.in(0)); }

void infer_chosen(InferContext& ctx) {
  Type t = ctx.in(0);
  t.symbols.clear();
  if (!ctx.attrs().has("axis")) {
    t.known_rank = true;
    t.shape = {-1};
  } else if (t.known_rank) {
    t.shape[at(axis_in(ctx.attrs().get("axis", std::int64_t{0}), static_cast<std::int64_t>(t.shape.size())))] = -1;
  }
  ctx.out(0, std::move(t));
}

void infer_broadcast(InferContext& ctx) {
  Type t = ctx.in(0);
  for (std::size_t i = 1; i < ctx.inputs.size(); ++i) t = broadcast(t, ctx.in(i));
  ctx.out(0, std::move(t));
}

void infer_broadcast_bool(InferContext& ctx) {
  infer_broadcast(ctx);
  for (Type& t : ctx.outputs) {
    t.dtype = DType::boolean;
    t.known_dtype = true;
  }
}

}  // namespace qtool::op
