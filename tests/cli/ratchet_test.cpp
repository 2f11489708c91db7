// SPDX-License-Identifier: Apache-2.0
// The ratchet in pairs: what every sample loses more shows, where samples differ far more from each other.
#include "cli/ratchet.h"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>

#include "tests/support.h"

using namespace qtool;
using namespace qtool::test;

namespace {

/// 40 samples whose losses lie a hundredfold apart; `worse`: factor on all, and `scatter` on every other one.
Comparison measured(double worse, double scatter = 1) {
  Comparison c;
  OutputReport& o = c.outputs.emplace_back();
  o.name = "y";
  o.scores = true;
  o.classes.samples = o.classes.labelled = 40;
  for (int i = 0; i < 40; ++i) {
    SampleLoss s;
    const double factor = worse * (i % 2 == 0 ? scatter : 1 / scatter);
    s.signal = 100;
    s.noise = 0.01 * std::pow(10, i % 3) * factor;
    s.rows = s.labelled = 1;
    s.agree = i % 8 == 0 ? 0 : 1;
    s.lost = i % 8 == 0 ? 1 : 0;
    s.kl = 0.001 * std::pow(10, i % 3) * factor;
    o.samples.push_back(s);
  }
  c.samples = 40;
  return c;
}

Ratchet ratchet(const ScratchFolder& folder, const Comparison& before) {
  Json report = Json::object();
  report.set("schema", "qtool.report/1").set("output_bytes", 1000).set("evaluation_sha256", "d");
  report.set("comparison", before.json()).set("losses", losses_json(before));
  std::ofstream(folder / "last.json") << report.dump(2);
  return Ratchet(folder / "last.json");
}

Verdict verdict(const std::vector<GateLimit>& limits, const std::string& name) {
  for (const GateLimit& limit : limits) {
    if (limit.name == name) return limit.verdict;
  }
  FAIL(name);
  return Verdict::missed;
}

}  // namespace

TEST_CASE("ratchet: the same model is as good as itself, and a better one is better") {
  const ScratchFolder folder;
  Ratchet last = ratchet(folder, measured(1));
  CHECK(last.check_data("d").empty());
  for (const double factor : {1.0, 0.9, 1.0005}) {
    const auto limits = last.judge(measured(factor), 1000);
    CAPTURE(factor);
    CHECK(limits.size() == 5);
    for (const GateLimit& limit : limits) CHECK(limit.verdict == Verdict::met);
    last.hold(limits);
  }
}

TEST_CASE("ratchet: two in a hundred more on every sample is told in pairs, and not from other data") {
  const ScratchFolder folder;
  Ratchet last = ratchet(folder, measured(1));
  REQUIRE(last.check_data("d").empty());
  const auto limits = last.judge(measured(1.02), 1000);
  CHECK(verdict(limits, "sqnr_db") == Verdict::missed);
  CHECK(verdict(limits, "kl") == Verdict::missed);
  CHECK(verdict(limits, "agreement") == Verdict::met);
  CHECK(verdict(limits, "top1_drop") == Verdict::met);
  CHECK_THROWS(last.hold(limits));
  CHECK(last.check_data("other").find("other held-out data") != std::string::npos);
  const auto apart = last.judge(measured(1.02), 1000);
  CHECK(verdict(apart, "sqnr_db") == Verdict::undecided);
  CHECK(verdict(apart, "kl") == Verdict::undecided);
  last.hold(apart);
  CHECK(verdict(last.judge(measured(30), 1000), "kl") == Verdict::missed);
}

TEST_CASE("ratchet: where samples go both ways, two in a hundred may be chance") {
  const ScratchFolder folder;
  Ratchet last = ratchet(folder, measured(1));
  const auto limits = last.judge(measured(1.02, 1.5), 1001);
  CHECK(verdict(limits, "kl") == Verdict::undecided);
  CHECK(verdict(limits, "output_bytes") == Verdict::missed);
}

TEST_CASE("ratchet: figures of a report that do not fit are left out") {
  const ScratchFolder folder;
  Comparison before = measured(1);
  before.outputs[0].samples[3].noise = INFINITY;
  Ratchet last = ratchet(folder, before);
  const auto limits = last.judge(measured(1), 1000);
  CHECK(limits.size() == 4);
  for (const GateLimit& limit : limits) CHECK(limit.name != "sqnr_db");
}
