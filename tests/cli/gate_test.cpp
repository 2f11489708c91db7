// SPDX-License-Identifier: Apache-2.0
#include "cli/gate.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

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

TEST_CASE("limits are met at the limit and missed behind it") {
  OutputReport report = output(values({1, 2, 3}), values({1, 2, 3.1F}));
  report.scores = true;
  report.classes = {100, 99, 50, 40, 39, 2.0};
  const Comparison c = one(report);
  Gate gate;
  gate.kl = 0.02;
  gate.agreement = 0.99;
  gate.top1_drop = 0.02;
  gate.size_ratio = 0.25;
  const auto limits = judge(gate, &c, 0.25);
  REQUIRE(limits.size() == 4);
  for (const GateLimit& limit : limits) CHECK_MESSAGE(limit.met, limit.name);
  CHECK_NOTHROW(hold_to(gate, limits));
  gate.top1_drop = 0.019;
  gate.size_ratio = 0.24;
  try {
    hold_to(gate, judge(gate, &c, 0.25));
    CHECK(false);
  } catch (const Error& e) {
    CHECK(e.code() == Code::gate);
    CHECK(std::string(e.what()).find("size_ratio is 0.25, the limit is 0.24; top1_drop of \"y\" is 0.02, the limit is "
                                     "0.019") != std::string::npos);
  }
}

TEST_CASE("limits that the data cannot show are calibration errors") {
  const Comparison c = one(output(values({1, 2}), values({1, 2})));
  for (auto limit : {&Gate::kl, &Gate::agreement, &Gate::top1_drop}) {
    Gate gate;
    gate.*limit = 0.5;
    CHECK_THROWS_AS(judge(gate, &c, 1), Error);
  }
  Gate gate;
  gate.sqnr_db = 20;
  CHECK(judge(gate, &c, 1)[0].met);  // equal: infinite
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
