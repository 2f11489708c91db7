// SPDX-License-Identifier: Apache-2.0
#include "cli/gate.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/error.h"

using namespace qtool;

namespace {

OutputReport output(const Tensor& x, const Tensor& y) {
  OutputReport report;
  report.name = "y";
  report.error.add(x, y);
  return report;
}

Comparison one(OutputReport report) {
  Comparison c;
  c.outputs.push_back(std::move(report));
  c.samples = 10;
  return c;
}

Tensor values(std::initializer_list<float> v) { return Tensor::of<float>({static_cast<std::int64_t>(v.size())}, v); }

Code code_of(const Comparison& c) {
  try {
    check_sanity(c);
  } catch (const Error& e) {
    return e.code();
  }
  return Code::internal;
}

}  // namespace

/// `n` samples of one row each, with the given losses in turn.
OutputReport scores(std::size_t n, const std::vector<SampleLoss>& pattern) {
  OutputReport report = output(values({1, 2, 3}), values({1, 2, 3.1F}));
  report.scores = true;
  for (std::size_t i = 0; i < n; ++i) {
    const SampleLoss& s = pattern[i % pattern.size()];
    report.samples.push_back(s);
    report.classes.samples += 1;
    report.classes.labelled += static_cast<std::int64_t>(s.labelled);
  }
  return report;
}

Gate of(std::optional<double> Gate::*limit, double value) {
  Gate gate;
  gate.*limit = value;
  return gate;
}

TEST_CASE("limits are met, missed, or not decided by so few samples") {
  // signal, noise, rows, agree, kl, labelled, lost, won, surprise
  const SampleLoss good{100, 0.1, 1, 1, 0.01, 1, 0, 0, 0.01}, bad{100, 0.3, 1, 0, 0.03, 1, 1, 0, 0.03};
  const Comparison c = one(scores(200, {good, good, good, bad}));  // 200 pairs of which 50 are lost
  const auto verdict = [&](std::optional<double> Gate::*limit, double value) {
    const auto limits = judge(of(limit, value), &c, {0.25, 0.75});
    REQUIRE(limits.size() == 1);
    CHECK(limits[0].measured.low <= limits[0].measured.value);
    CHECK(limits[0].measured.value <= limits[0].measured.high);
    return limits[0].verdict;
  };
  CHECK(verdict(&Gate::size_ratio, 0.25) == Verdict::met);
  CHECK(verdict(&Gate::size_ratio, 0.24) == Verdict::missed);
  CHECK(verdict(&Gate::integer_share, 0.75) == Verdict::met);
  CHECK(verdict(&Gate::integer_share, 0.76) == Verdict::missed);
  CHECK(verdict(&Gate::kl, 0.02) == Verdict::met);  // 0.015 +- 0.001
  CHECK(verdict(&Gate::kl, 0.0155) == Verdict::undecided);
  CHECK(verdict(&Gate::kl, 0.0145) == Verdict::undecided);
  CHECK(verdict(&Gate::kl, 0.013) == Verdict::missed);
  CHECK(verdict(&Gate::agreement, 0.69) == Verdict::met);  // 0.75 +- 0.05
  CHECK(verdict(&Gate::agreement, 0.75) == Verdict::undecided);
  CHECK(verdict(&Gate::agreement, 0.81) == Verdict::missed);
  CHECK(verdict(&Gate::top1_drop, 0.31) == Verdict::met);  // 0.25 +- 0.05
  CHECK(verdict(&Gate::top1_drop, 0.25) == Verdict::undecided);
  CHECK(verdict(&Gate::top1_drop, 0.19) == Verdict::missed);
  CHECK(verdict(&Gate::perplexity_ratio, 1.02) == Verdict::met);  // exp(0.015 +- 0.001)
  CHECK(verdict(&Gate::perplexity_ratio, 1.015) == Verdict::undecided);
  CHECK(verdict(&Gate::perplexity_ratio, 1.01) == Verdict::missed);
}

TEST_CASE("the signal-to-noise ratio of a gate is that of the sums, with bounds in decibels") {
  OutputReport report = output(values({10, 0}), values({10, 1}));  // 20 dB
  for (int i = 0; i < 50; ++i) report.samples.push_back({2, i % 2 == 0 ? 0.01 : 0.03});
  const Comparison c = one(report);
  CHECK(judge(of(&Gate::sqnr_db, 18), &c, {})[0].verdict == Verdict::met);
  const GateLimit near = judge(of(&Gate::sqnr_db, 19.9), &c, {})[0];
  CHECK(near.verdict == Verdict::undecided);
  CHECK(near.more_samples > 50);
  CHECK(judge(of(&Gate::sqnr_db, 22), &c, {})[0].verdict == Verdict::missed);
  const Comparison equal = one(output(values({1, 2}), values({1, 2})));
  CHECK(judge(of(&Gate::sqnr_db, 20), &equal, {})[0].verdict == Verdict::met);  // infinite
}

TEST_CASE("what is missed and what is not decided is said, with the samples that would decide") {
  const SampleLoss good{100, 0.1, 1, 1, 0.01, 1, 0, 0, 0}, bad{100, 0.3, 1, 0, 0.03, 1, 1, 0, 0};
  const Comparison c = one(scores(200, {good, good, good, bad}));
  Gate gate = of(&Gate::kl, 0.0155);
  const auto message = [&] {
    try {
      hold_to(gate, judge(gate, &c, {0.25, 0.5}));
    } catch (const Error& e) {
      CHECK(e.code() == Code::gate);
      return std::string(e.what()) + "|" + e.hint();
    }
    return std::string();
  };
  CAPTURE(message());
  CHECK(message().find("kl of \"y\" is 0.015 (95 %: 0.01399 to 0.01601), the limit is 0.0155: undecided, needs about "
                       "624 more samples|nothing was written; give more held-out samples") != std::string::npos);
  gate.pass_undecided = true;
  CHECK(message().empty());
  gate.size_ratio = 0.2;
  CHECK(message().find("size_ratio is 0.25, the limit is 0.2|nothing was written; keep") != std::string::npos);
}

TEST_CASE("limits that the data cannot show are calibration errors") {
  const Comparison c = one(output(values({1, 2}), values({1, 2})));
  for (auto limit : {&Gate::kl, &Gate::agreement, &Gate::top1_drop, &Gate::perplexity_ratio}) {
    CHECK_THROWS_AS(judge(of(limit, 0.5), &c, {}), Error);
  }
}

TEST_CASE("the sanity floor refuses what is not finite or constant") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  CHECK(code_of(one(output(values({1, 2, 3}), values({1, nan, 3})))) == Code::verification);
  CHECK(code_of(one(output(values({1, 2, 3}), values({1, inf, 3})))) == Code::verification);
  CHECK(code_of(one(output(values({1, -2, 3}), values({0, 0, 0})))) == Code::verification);
  CHECK_NOTHROW(check_sanity(one(output(values({1, 2, 3}), values({1, 2.5F, 3})))));
  CHECK_NOTHROW(check_sanity(one(output(values({2, 2, 2}), values({2, 2, 2})))));
  CHECK_NOTHROW(check_sanity(one(output(values({1, -inf, 3}), values({1, -inf, 3})))));
}
