// SPDX-License-Identifier: Apache-2.0
// The limits of a recipe's gate.
#include <limits>

#include "recipes/reader/bind.h"
#include "recipes/reader/keys.h"
#include "recipes/reader/recipe.h"
#include "recipes/reader/yaml.h"

namespace qtool {
namespace {

struct Limits {
  static constexpr double unset = std::numeric_limits<double>::quiet_NaN();
  double sqnr = unset, kl = unset, drop = unset, perplexity = unset, agreement = unset, ratio = unset, share = unset;
  std::string undecided = "fail";

  void options(Options& o) {
    o("sqnr_db", sqnr, "least signal-to-noise ratio of every output, dB", -200, 200);
    o("kl", kl, "most mean KL divergence of class scores, nats", 0, 1000);
    o("top1_drop", drop, "most accuracy lost against the input model, as a fraction", 0, 1);
    o("perplexity_ratio", perplexity, "most perplexity on the labels, as a multiple of that of the input model", 0,
      1000);
    o("agreement", agreement, "least fraction of samples with the same best class", 0, 1);
    o("size_ratio", ratio, "most file size, as a fraction of the input file", 0, 10);
    o("integer_share", share, "least fraction of the multiply-adds of Conv, MatMul and Gemm that run in integers", 0,
      1);
    o("undecided", undecided, "what a limit means that the samples are too few to decide", {"fail", "pass"});
  }
};

}  // namespace

Gate parse_gate(const Setting& setting) {
  const Settings& map = as_map(setting, "\"gate\"");
  Limits limits;
  bind_knobs(
      map, [&](Options& o) { limits.options(o); }, "\"gate\"");
  const auto limit = [](double v) { return v == v ? std::optional<double>(v) : std::nullopt; };
  Gate gate{limit(limits.sqnr),      limit(limits.kl),
            limit(limits.drop),      limit(limits.perplexity),
            limit(limits.agreement), limit(limits.ratio),
            limit(limits.share),     limits.undecided == "pass",
            setting.place,           map};
  if (!gate.any()) fail_at(setting.place, "\"gate\" has no limit", "leave it out to have no gate");
  return gate;
}

Json describe_gate() {
  Limits limits;
  return describe_knobs([&](Options& o) { limits.options(o); });
}

}  // namespace qtool
