// SPDX-License-Identifier: Apache-2.0
// NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss, which models keep that were exported with their loss.
#include <optional>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/delegate.h"
#include "calib/ops/operand.h"

namespace qtool::op {
namespace {

Shape without_classes(Shape s) {
  s.erase(s.begin() + 1);
  return s;
}

/// -log p of the labelled class, times the weight of the class; `log_p` [N, C, ...], `labels` [N, ...].
Tensor likelihood_loss(const OpContext& c, const Tensor& log_p, const Tensor& labels, const Tensor& weights) {
  require(log_p.rank() >= 2 && labels.shape() == without_classes(log_p.shape()),
          "labels of shape " + to_string(labels.shape()) + " do not fit scores of shape " + to_string(log_p.shape()));
  const std::int64_t classes = log_p.shape()[1], inner = extent(log_p.shape(), 2, log_p.rank());
  require(!weights || (weights.count() == classes && weights.dtype() == log_p.dtype()),
          "there is not one weight for each of " + std::to_string(classes) + " classes");
  const std::vector<std::int64_t> chosen = to_int64s(labels);
  const bool may_ignore = c.attrs().has("ignore_index");
  const std::int64_t ignored = c.attrs().get("ignore_index", std::int64_t{0});
  const std::string reduction = c.attrs().get("reduction", "mean");
  require(reduction == "none" || reduction == "sum" || reduction == "mean",
          "reduction has the value \"" + reduction + "\"");
  Tensor each(log_p.dtype(), labels.shape()), all(log_p.dtype(), {});
  for_float_type(log_p.dtype(), [&](auto type) {
    using T = decltype(type);
    const T *from = log_p.read<T>().data(), *weight = weights ? weights.read<T>().data() : nullptr;
    const auto to = each.write<T>();
    double sum = 0, weight_sum = 0;
    for (std::size_t i = 0; i < to.size(); ++i) {
      if (may_ignore && chosen[i] == ignored) continue;
      require(chosen[i] >= 0 && chosen[i] < classes, "there is no class " + std::to_string(chosen[i]));
      const std::int64_t n = static_cast<std::int64_t>(i) / inner, p = static_cast<std::int64_t>(i) % inner;
      const T w = weight == nullptr ? T(1) : weight[chosen[i]];
      to[i] = -from[(n * classes + chosen[i]) * inner + p] * w;
      sum += static_cast<double>(to[i]);
      weight_sum += static_cast<double>(w);
    }
    all.write<T>()[0] = static_cast<T>(reduction == "mean" ? sum / weight_sum : sum);
  });
  return reduction == "none" ? each : all;
}

void negative_log_likelihood(const OpContext& c) {
  const Tensor weights = c.has(2) ? compute_float(c.in(2), "the weights") : Tensor();
  c.out(0, narrowed(likelihood_loss(c, compute_float(c.in(0), "the scores"), c.in(1), weights), c.in(0).dtype()));
}

void softmax_cross_entropy(const OpContext& c) {
  const Tensor weights = c.has(2) ? compute_float(c.in(2), "the weights") : Tensor();
  Attrs classes;
  classes.set("axis", std::int64_t{1});
  const Tensor log_p = run_op(c, op::LogSoftmax, {compute_float(c.in(0), "the scores")}, std::move(classes), 13)[0];
  c.out(0, narrowed(likelihood_loss(c, log_p, c.in(1), weights), c.in(0).dtype()));
  c.out(1, narrowed(log_p, c.in(0).dtype()));
}

void infer(InferContext& c) {
  if (!c.in(0).known_dtype) return;
  c.out(0, c.in(0).dtype);
  c.out(1, c.in(0));
  if (c.attrs().get("reduction", "mean") != std::string("none")) return c.out(0, c.in(0).dtype, {});
  if (c.in(0).known_rank && c.in(0).shape.size() >= 2) c.out(0, c.in(0).dtype, without_classes(c.in(0).shape));
}

}  // namespace

constinit const OpDef NegativeLogLikelihoodLoss{"NegativeLogLikelihoodLoss", "",     12, infer,
                                                negative_log_likelihood,     nullptr};
constinit const OpDef SoftmaxCrossEntropyLoss{"SoftmaxCrossEntropyLoss", "", 12, infer, softmax_cross_entropy, nullptr};

}  // namespace qtool::op
