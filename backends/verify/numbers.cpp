// SPDX-License-Identifier: Apache-2.0
#include "backends/verify/numbers.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace qtool::verify {
namespace {

using Extents = std::vector<std::int64_t>;

constexpr int deepest = 16;  // operators between a constant and its reader

std::optional<Extents> integers(const Scene& model, std::string_view name) {
  const TensorView* t = model.constant(name);
  if (t == nullptr || t->type != i64 || t->count() > 64) return std::nullopt;
  Extents list;
  for (std::int64_t i = 0; i < t->count(); ++i) list.push_back(static_cast<std::int64_t>(t->at(i)));
  return list;
}

/// -1 where an extent is negative, or the product is no number of elements.
std::int64_t product(const Extents& dims) {
  constexpr std::int64_t most = std::int64_t{1} << 48;
  std::int64_t n = 1;
  for (const std::int64_t d : dims) {
    if (d < 0 || (d > 0 && n > most / d)) return -1;
    n *= d;
  }
  return n;
}

std::optional<Numbers> reshaped(const Numbers& x, Extents dims) {
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] == 0 && i < x.dims.size()) dims[i] = x.dims[i];
  }
  const auto open = std::find(dims.begin(), dims.end(), -1);
  if (open != dims.end()) {
    *open = 1;
    const std::int64_t rest = product(dims);
    *open = rest > 0 ? x.count() / rest : 0;
  }
  if (product(dims) != x.count()) return std::nullopt;
  Numbers y = x;
  y.dims = std::move(dims);
  return y;
}

std::optional<Extents> axes_of(const Scene& model, const NodeView& n) {
  if (const auto found = n.lists.find("axes"); found != n.lists.end()) return found->second;
  return integers(model, n.input(1));
}

std::optional<Numbers> squeezed(const Scene& model, const NodeView& n, const Numbers& x) {
  const auto axes = axes_of(model, n);
  Extents dims;
  const auto rank = static_cast<std::int64_t>(x.dims.size());
  for (std::int64_t i = 0; i < rank; ++i) {
    const bool named = axes && std::any_of(axes->begin(), axes->end(), [&](auto a) { return a == i || a + rank == i; });
    if (!(axes ? named : x.dims[static_cast<std::size_t>(i)] == 1)) dims.push_back(x.dims[static_cast<std::size_t>(i)]);
  }
  return reshaped(x, dims);
}

std::optional<Numbers> unsqueezed(const Scene& model, const NodeView& n, const Numbers& x) {
  const auto axes = axes_of(model, n);
  if (!axes) return std::nullopt;
  const auto rank = static_cast<std::int64_t>(x.dims.size() + axes->size());
  Extents dims(static_cast<std::size_t>(rank), -1);
  for (const std::int64_t a : *axes) {
    const std::int64_t at = a < 0 ? a + rank : a;
    if (at < 0 || at >= rank) return std::nullopt;
    dims[static_cast<std::size_t>(at)] = 1;
  }
  std::size_t next = 0;
  for (std::int64_t& d : dims) {
    if (d < 0) d = next < x.dims.size() ? x.dims[next++] : 1;
  }
  return reshaped(x, dims);
}

std::optional<Numbers> transposed(const NodeView& n, const Numbers& x) {
  const std::size_t rank = x.dims.size();
  Extents perm(rank);
  for (std::size_t i = 0; i < rank; ++i) perm[i] = static_cast<std::int64_t>(rank - 1 - i);
  if (const auto found = n.lists.find("perm"); found != n.lists.end()) perm = found->second;
  Extents sorted = perm;
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    if (sorted.size() != rank || sorted[i] != static_cast<std::int64_t>(i)) return std::nullopt;
  }
  Extents strides(rank, 1), dims(rank), steps(rank), at(rank, 0);
  for (std::size_t i = rank; i-- > 1;) strides[i - 1] = strides[i] * x.dims[i];
  for (std::size_t i = 0; i < rank; ++i) {
    dims[i] = x.dims[static_cast<std::size_t>(perm[i])];
    steps[i] = strides[static_cast<std::size_t>(perm[i])];
  }
  const std::vector<float> from = x.all();
  std::vector<float> to(from.size());
  std::int64_t source = 0;
  for (float& value : to) {
    value = from[static_cast<std::size_t>(source)];
    for (std::size_t i = rank; i-- > 0;) {
      source += steps[i];
      if (++at[i] < dims[i]) break;
      source -= steps[i] * dims[i];
      at[i] = 0;
    }
  }
  return Numbers(dims, x.type, std::move(to));
}

/// Both operands constant, with the broadcasting of ONNX.
std::optional<Numbers> arithmetic(const NodeView& n, const Numbers& a, const Numbers& b) {
  const std::size_t rank = std::max(a.dims.size(), b.dims.size());
  const auto padded = [&](const Numbers& x) {
    Extents dims(rank - x.dims.size(), 1);
    dims.insert(dims.end(), x.dims.begin(), x.dims.end());
    return dims;
  };
  const Extents da = padded(a), db = padded(b);
  Extents dims(rank);
  for (std::size_t i = 0; i < rank; ++i) {
    if (da[i] != db[i] && da[i] != 1 && db[i] != 1) return std::nullopt;
    dims[i] = std::max(da[i], db[i]);
  }
  if (product(dims) != std::max(a.count(), b.count())) return std::nullopt;  // scales and shifts do not enlarge
  const std::vector<float> x = a.all(), y = b.all();
  std::vector<float> z(static_cast<std::size_t>(product(dims)));
  for (std::size_t e = 0; e < z.size(); ++e) {
    auto rest = static_cast<std::int64_t>(e);
    std::int64_t ia = 0, ib = 0, sa = 1, sb = 1;
    for (std::size_t i = rank; i-- > 0;) {
      const std::int64_t at = rest % dims[i];
      rest /= dims[i];
      ia += da[i] == 1 ? 0 : at * sa;
      ib += db[i] == 1 ? 0 : at * sb;
      sa *= da[i];
      sb *= db[i];
    }
    const float p = x[static_cast<std::size_t>(ia)], q = y[static_cast<std::size_t>(ib)];
    z[e] = rounded(n.op == "Mul" ? p * q : n.op == "Div" ? p / q : n.op == "Add" ? p + q : p - q, a.type);
  }
  return Numbers(dims, a.type, std::move(z));
}

}  // namespace

std::int64_t Numbers::count() const { return product(dims); }

void Numbers::read(std::int64_t first, std::span<float> out) const {
  if (view_ != nullptr) return view_->read(first, out);
  std::copy_n(own_->begin() + first, out.size(), out.begin());
}

std::vector<float> Numbers::all() const {
  std::vector<float> values(static_cast<std::size_t>(count()));
  read(0, values);
  return values;
}

const std::byte* Numbers::floats() const {
  if (own_ != nullptr) return std::as_bytes(std::span(*own_)).data();
  return view_ != nullptr && view_->raw && view_->type == f32 ? view_->bytes.data() : nullptr;
}

float rounded(double x, std::int32_t type) {
  if ((type != f16 && type != bf16) || x == 0 || !std::isfinite(x)) return static_cast<float>(x);
  const int bits = type == f16 ? 10 : 7, least = type == f16 ? -14 : -126;
  const double step = std::ldexp(1.0, std::max(std::ilogb(x), least) - bits);
  const double y = std::nearbyint(x / step) * step;
  constexpr double half_most = 65504;
  if (type == f16 && std::abs(y) > half_most) return static_cast<float>(std::copysign(INFINITY, x));
  return static_cast<float>(y);
}

double relative_step(std::int32_t type) { return type == f16 ? 0x1p-10 : type == bf16 ? 0x1p-7 : 0x1p-23; }

std::optional<Numbers> constant_of(const Scene& model, std::string_view name, int depth) {
  if (name.empty() || depth > deepest) return std::nullopt;
  if (const TensorView* t = model.constant(name)) return is_real(t->type) ? std::optional(Numbers(*t)) : std::nullopt;
  const NodeView* n = model.producer(name);
  if (n == nullptr || !n->domain.empty() || n->outputs.size() != 1) return std::nullopt;
  const auto x = constant_of(model, n->input(0), depth + 1);
  if (!x) return std::nullopt;
  if (n->op == "Identity") return x;
  if (n->op == "Cast") {
    const auto to = static_cast<std::int32_t>(n->integer("to", f32));
    if (!is_real(to)) return std::nullopt;
    std::vector<float> values = x->all();
    for (float& v : values) v = rounded(static_cast<double>(v), to);
    return Numbers(x->dims, to, std::move(values));
  }
  if (n->op == "Transpose") return transposed(*n, *x);
  if (n->op == "Squeeze") return squeezed(model, *n, *x);
  if (n->op == "Unsqueeze") return unsqueezed(model, *n, *x);
  if (n->op == "Reshape") {
    const auto found = n->lists.find("shape");
    const auto dims = found != n->lists.end() ? std::optional(found->second) : integers(model, n->input(1));
    return dims ? reshaped(*x, *dims) : std::nullopt;
  }
  if (n->op == "Mul" || n->op == "Div" || n->op == "Add" || n->op == "Sub") {
    const auto y = constant_of(model, n->input(1), depth + 1);
    return y ? arithmetic(*n, *x, *y) : std::nullopt;
  }
  return std::nullopt;
}

}  // namespace qtool::verify
