// SPDX-License-Identifier: Apache-2.0
#include "passes/probe.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <sstream>

#include "calib/executor.h"
#include "formats/base/error.h"
#include "passes/changes.h"

namespace qtool {
namespace {

/// Largest made-up input: enough for a picture, too little to hurt.
constexpr std::int64_t most_elements = std::int64_t{1} << 22;

std::vector<ValueId> output_ids(const Graph& graph) {
  std::vector<ValueId> ids;
  for (const Use& use : graph.outputs) ids.push_back(use.value);
  return ids;
}

/// Every float constant moved by one unit in its last place, up or down at random.
Graph shaken(const Graph& graph, const Rng& rng) {
  Graph g = graph;
  for (const ValueId v : graph.values()) {
    if (!graph.is_constant(v) || !is_float(graph[v].data.dtype())) continue;
    const Rng own = rng.split("shaken", graph[v].name);
    Tensor& data = g[v].data;
    if (data.dtype() == DType::f32) {
      std::uint64_t i = 0;
      for (float& x : data.write<float>()) {
        if (x != 0) x = std::nextafter(x, own.bits(i) % 2 ? x * 2 : 0.0F);
        ++i;
      }
    } else if (bit_width(data.dtype()) == 16) {
      std::uint64_t i = 0;
      for (std::uint16_t& x : data.write<std::uint16_t>()) {
        const std::uint16_t magnitude = x & 0x7fffU;
        if (magnitude != 0 && magnitude < 0x7b00U) x = static_cast<std::uint16_t>(own.bits(i) % 2 ? x + 1 : x - 1);
        ++i;
      }
    }
  }
  return g;
}

Tensor random_tensor(DType dtype, const Shape& shape, std::int64_t integers, const Rng& rng) {
  const std::int64_t n = element_count(shape);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = is_float(dtype) ? static_cast<float>(rng.normal(i))
                                : static_cast<float>(rng.bits(i) % static_cast<std::uint64_t>(integers));
  }
  if (dtype == DType::boolean) {
    Tensor t(dtype, shape);
    const auto out = t.write_bytes();
    for (std::size_t i = 0; i < values.size(); ++i) out[i] = static_cast<std::byte>(rng.bits(i) % 2);
    return t;
  }
  return from_f32(Tensor::of<float>(shape, values), dtype);
}

}  // namespace

bool only_folded(const Graph& before, const Graph& after, Threads& threads) {
  const auto folded = folded_between(before, after);
  if (!folded) return false;
  Graph part = before;
  part.inputs.clear();
  for (const NodeId n : part.nodes()) {
    if (after.alive(n)) part.erase(n);
  }
  part.outputs.clear();
  try {
    const std::vector<Tensor> made = Executor(part, Reading::reference, threads).run({}, *folded);
    for (std::size_t i = 0; i < made.size(); ++i) {
      if (!made[i].same_bytes(after[(*folded)[i]].data)) return false;
    }
    return true;
  } catch (const Error& e) {
    if (e.code() == Code::interrupted) throw;
    return false;
  }
}

double equivalence_tolerance(const Graph& graph) {
  double tolerance = 1e-4;
  for (const ValueId v : graph.values()) {
    const DType t = graph.is_constant(v) ? graph[v].data.dtype() : graph[v].type.dtype;
    if (t == DType::f16) tolerance = std::max(tolerance, 4 * 0x1p-10);
    if (t == DType::bf16) tolerance = std::max(tolerance, 4 * 0x1p-7);
  }
  return tolerance;
}

double relative_distance(const Tensor& a, const Tensor& b) {
  constexpr double infinite = std::numeric_limits<double>::infinity();
  if (a.dtype() != b.dtype() || a.shape() != b.shape()) return infinite;
  if (a.dtype() == DType::string) return a.same_bytes(b) ? 0 : infinite;
  if (!is_float(a.dtype())) {
    const auto x = a.bytes(), y = b.bytes();
    const std::size_t n = x.size(),
                      width = std::max<std::size_t>(1, static_cast<std::size_t>(bit_width(a.dtype())) / 8);
    std::size_t differ = 0;
    for (std::size_t i = 0; i + width <= n; i += width) {
      differ +=
          std::equal(x.begin() + static_cast<std::ptrdiff_t>(i), x.begin() + static_cast<std::ptrdiff_t>(i + width),
                     y.begin() + static_cast<std::ptrdiff_t>(i))
              ? 0
              : 1;
    }
    return differ <= n / width / 1000 ? 0 : infinite;
  }
  const Tensor x32 = to_f32(a), y32 = to_f32(b);
  const auto x = x32.read<float>(), y = y32.read<float>();
  double low = 0, high = 0, worst = 0;
  bool any = false;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const bool both_nan = std::isnan(x[i]) && std::isnan(y[i]);
    if (both_nan || x[i] == y[i]) {
      if (!std::isfinite(x[i])) continue;
    } else if (!std::isfinite(x[i]) || !std::isfinite(y[i])) {
      return infinite;
    }
    low = any ? std::min<double>(low, x[i]) : x[i];
    high = any ? std::max<double>(high, x[i]) : x[i];
    any = true;
    worst = std::max(worst, std::abs(static_cast<double>(x[i]) - y[i]));
  }
  if (worst == 0) return 0;
  double range = high - low;
  if (range == 0) range = std::max(std::abs(low), std::abs(high));
  // A lone element has no range of its own; its magnitude stands in.
  return range > 0 ? worst / range : infinite;
}

std::optional<Feeds> synthetic_feeds(const Graph& graph, std::int64_t extent, std::int64_t integers, const Rng& rng) {
  Feeds feeds;
  std::map<std::string, std::int64_t> bound;
  for (const ValueId v : graph.inputs) {
    if (graph.is_constant(v)) continue;
    const Type& type = graph[v].type;
    if (!type.known_dtype || !type.known_rank || type.kind != TypeKind::tensor) return std::nullopt;
    if (!is_float(type.dtype) && !is_integer(type.dtype) && type.dtype != DType::boolean) return std::nullopt;
    Shape shape = type.shape;
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      if (shape[axis] >= 0) continue;
      shape[axis] = axis == 0 ? 1 : extent;
      if (axis < type.symbols.size() && !type.symbols[axis].empty()) {
        shape[axis] = bound.try_emplace(type.symbols[axis], shape[axis]).first->second;
      }
    }
    if (element_count(shape) > most_elements) return std::nullopt;
    feeds[v] = random_tensor(type.dtype, shape, integers, rng.split("probe", graph[v].name));
  }
  return feeds;
}

void Probe::prepare(const Graph& graph) {
  if (prepared_) return;
  prepared_ = true;
  if (calibration_.has_data()) return;
  struct Attempt {
    std::int64_t extent, integers;
  };
  // Wide enough for strided networks first, then for those that index small tables or want one step.
  constexpr std::array<Attempt, 4> attempts{{{32, 4}, {8, 2}, {1, 2}, {1, 1}}};
  unable_ = "its inputs have no fixed type to make up data for";
  for (const Attempt& attempt : attempts) {
    auto feeds = synthetic_feeds(graph, attempt.extent, attempt.integers, rng_);
    if (!feeds) continue;
    try {
      Executor(graph, Reading::reference, threads_).run(*feeds);
      feeds_ = std::move(*feeds);
      unable_.clear();
      return;
    } catch (const Error& e) {
      if (e.code() == Code::interrupted) throw;
      unable_ = e.what();
    }
  }
}

const std::string& Probe::unable(const Graph& graph) {
  prepare(graph);
  return unable_;
}

Probe::Outputs Probe::run(const Graph& graph) {
  prepare(graph);
  const auto wanted = output_ids(graph);
  if (!calibration_.has_data()) return Executor(graph, Reading::reference, threads_).run(feeds_, wanted);
  std::map<ValueId, Tensor> seen;
  calibration_.sweep(graph, Reading::reference, wanted, 1,
                     [&](std::int64_t, ValueId v, const Tensor& t) { seen[v] = t; });
  Outputs outputs;
  for (const ValueId v : wanted) outputs.push_back(seen[v]);
  return outputs;
}

const Probe::Outputs& Probe::outputs_of(const Graph& graph) {
  if (!last_ || changes_between(*last_, graph).reference()) {
    last_outputs_ = run(graph);
    last_ = graph;
  }
  return last_outputs_;
}

void Probe::require_runs(const Graph& before) {
  try {
    outputs_of(before);
  } catch (const Error& e) {
    if (e.code() == Code::interrupted) throw;
    throw Error(Code::calibration, std::string("the model does not run on the calibration data: ") + e.what(),
                "give data of the extents that the model was made for");
  }
}

std::string Probe::difference(const Graph& before, const Graph& after) {
  const Outputs x = outputs_of(before), y = outputs_of(after);
  const double tolerance = equivalence_tolerance(before);
  std::optional<Outputs> noise;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double distance = relative_distance(x[i], y[i]);
    if (distance <= tolerance) continue;
    if (!noise) noise = run(shaken(before, rng_));
    // Rounding moves in a random walk of many steps and this is one draw of it, hence the factor.
    const double own = relative_distance(x[i], (*noise)[i]);
    if (std::isfinite(own) && distance <= 10 * own) continue;
    std::ostringstream text;
    text.imbue(std::locale::classic());
    text << "output \"" << before[before.outputs[i].value].name << "\" moved by " << distance
         << " of its range (allowed: " << std::max(tolerance, std::isfinite(own) ? 10 * own : 0) << ")";
    return text.str();
  }
  return {};
}

}  // namespace qtool
