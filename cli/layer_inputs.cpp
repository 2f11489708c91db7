// SPDX-License-Identifier: Apache-2.0
#include "cli/layer_inputs.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "calib/dataset_run.h"
#include "calib/executor.h"
#include "calib/linalg.h"
#include "calib/ops/conv.h"
#include "formats/base/stop.h"

namespace qtool {
namespace {

constexpr std::int64_t most_rows = 8, most_weights = std::int64_t{1} << 18;

bool is_product(const Node& n) {
  return n.domain.empty() && (n.op == "Conv" || n.op == "MatMul" || n.op == "Gemm") && n.inputs.size() >= 2;
}

/// Row r of `chosen` rows is this one of `all`.
std::int64_t spread(std::int64_t r, std::int64_t chosen, std::int64_t all) { return (2 * r + 1) * all / (2 * chosen); }

InputRows patches(const Node& n, const Tensor& x, const Shape& kernel) {
  const Convolution c = convolution_of(n.attrs, x.shape(), kernel);
  const std::int64_t positions = c.window.output_size(), all = c.batch * positions;
  const std::int64_t channels = c.inputs * c.groups, width = c.depth() * c.groups;
  const std::int64_t chosen = std::min(most_rows, all);
  InputRows rows{chosen, width, std::vector<float>(static_cast<std::size_t>(chosen * width))};
  const auto from = x.read<float>();
  for (std::int64_t r = 0; r < chosen; ++r) {
    const std::int64_t at = spread(r, chosen, all), p = at % positions;
    image_to_columns(c.window, from.data() + at / positions * channels * c.window.input_size(), channels, p, p + 1,
                     rows.values.data() + r * width, 1);
  }
  return rows;
}

InputRows lines(const Tensor& x) {
  const std::int64_t width = x.shape().back(), all = x.count() / width, chosen = std::min(most_rows, all);
  InputRows rows{chosen, width, std::vector<float>(static_cast<std::size_t>(chosen * width))};
  const auto from = x.read<float>();
  for (std::int64_t r = 0; r < chosen; ++r) {
    std::copy_n(from.begin() + spread(r, chosen, all) * width, width, rows.values.begin() + r * width);
  }
  return rows;
}

/// Empty: there are none.
InputRows rows_of(const Node& n, const Tensor& value, const Value& weight) {
  if (value.count() == 0 || value.shape().empty()) return {};
  const Tensor x = to_f32(value);
  InputRows rows;
  if (n.op != "Conv") {
    if (n.attrs.get("transA", std::int64_t{0}) == 0) rows = lines(x);
  } else if (!weight.data.empty()) {
    rows = patches(n, x, weight.data.shape());
  }
  const auto finite = [](float v) { return std::isfinite(v); };
  return std::all_of(rows.values.begin(), rows.values.end(), finite) ? rows : InputRows();
}

/// Every `step`-th output channel of a weight and of what codes leave of it, in its own layout: lines of output
/// channels, or one element of each a line.
struct Sampled {
  std::vector<float> weights, errors;
};

Sampled sampled(std::span<const float> w, std::span<const float> coded, bool out_first, std::int64_t outputs,
                std::int64_t depth, std::int64_t step) {
  Sampled s;
  const auto add = [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    s.weights.push_back(w[at]);
    s.errors.push_back(w[at] - coded[at]);
  };
  s.weights.reserve(static_cast<std::size_t>((outputs + step - 1) / step * depth));
  s.errors.reserve(s.weights.capacity());
  if (out_first) {
    for (std::int64_t o = 0; o < outputs; o += step) {
      for (std::int64_t k = 0; k < depth; ++k) add(o * depth + k);
    }
  } else {
    for (std::int64_t k = 0; k < depth; ++k) {
      for (std::int64_t o = 0; o < outputs; o += step) add(k * outputs + o);
    }
  }
  return s;
}

}  // namespace

LayerInputs layer_inputs(const Graph& model, const std::set<std::string, std::less<>>& nodes, const Dataset& data,
                         Threads& threads, const std::stop_token& stop) {
  LayerInputs inputs;
  std::map<ValueId, std::vector<NodeId>> readers;
  for (const NodeId id : model.nodes()) {
    const Node& n = model[id];
    if (is_product(n) && nodes.contains(label_of(model, id)) && !model.is_constant(n.inputs[0].value)) {
      readers[n.inputs[0].value].push_back(id);
    }
  }
  std::vector<ValueId> wanted;
  for (const auto& [value, ids] : readers) wanted.push_back(value);
  if (wanted.empty()) return inputs;
  const Executor executor(model, Reading::reference, threads);
  std::mutex mutex;
  const auto visit = [&](std::int64_t, ValueId v, const Tensor& value) {
    check_stop(stop);
    for (const NodeId id : readers.at(v)) {
      InputRows rows = rows_of(model[id], value, model[model[id].inputs[1].value]);
      const std::scoped_lock lock(mutex);
      if (rows.count > 0) inputs.emplace(label_of(model, id), std::move(rows));
    }
  };
  run_dataset(model, executor, data, threads, wanted, visit, 1);
  return inputs;
}

std::optional<double> output_error_db(const Node& decided, const Tensor& weight, const Tensor& coded,
                                      const InputRows& rows, std::span<const double> divisors, Threads& threads) {
  const Shape& shape = weight.shape();
  const bool conv = decided.op == "Conv";
  if (!is_product(decided) || (conv ? shape.size() < 3 : shape.size() != 2) || weight.count() == 0) return std::nullopt;
  const bool out_first = conv || decided.attrs.get("transB", std::int64_t{0}) != 0;
  const std::int64_t outputs = out_first ? shape[0] : shape[1], depth = weight.count() / outputs;
  const std::int64_t groups = conv ? decided.attrs.get("group", std::int64_t{1}) : 1, width = rows.width;
  if (groups < 1 || outputs % groups != 0 || width != depth * groups) return std::nullopt;
  const auto channels = static_cast<std::int64_t>(divisors.size());
  if (channels > 0 && width % channels != 0) return std::nullopt;

  std::vector<float> in = rows.values;
  for (std::size_t i = 0; channels > 0 && i < in.size(); ++i) {
    const std::int64_t channel = static_cast<std::int64_t>(i) % width / (width / channels);
    in[i] = static_cast<float>(static_cast<double>(in[i]) / divisors[static_cast<std::size_t>(channel)]);
  }
  const std::int64_t step = (outputs * depth + most_weights - 1) / most_weights, count = rows.count;
  const Sampled w = sampled(weight.read<float>(), coded.read<float>(), out_first, outputs, depth, step);
  const std::int64_t apart = out_first ? depth : (outputs + step - 1) / step;  // lines

  double signal = 0, noise = 0;
  std::vector<float> y, e;
  const std::int64_t in_group = outputs / groups;
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t begin = (g * in_group + step - 1) / step, end = ((g + 1) * in_group + step - 1) / step;
    if (begin == end) continue;
    const std::int64_t n = end - begin;
    y.resize(static_cast<std::size_t>(count * n));
    e.resize(y.size());
    const auto product = [&](const std::vector<float>& with, std::vector<float>& to) {
      gemm(threads, false, out_first, count, n, depth, 1, in.data() + g * depth, width,
           with.data() + (out_first ? begin * depth : begin), apart, 0, to.data(), n);
    };
    product(w.weights, y);
    product(w.errors, e);
    for (const float v : y) signal += static_cast<double>(v) * static_cast<double>(v);
    for (const float v : e) noise += static_cast<double>(v) * static_cast<double>(v);
  }
  if (signal == 0 || noise == 0 || !std::isfinite(signal) || !std::isfinite(noise)) return std::nullopt;
  return 10 * std::log10(signal / noise);
}

}  // namespace qtool
