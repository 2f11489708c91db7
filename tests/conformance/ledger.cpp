// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/ledger.h"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>

#include "tests/support.h"

namespace qtool::test {
namespace {

/// Compared as numbers, without tolerance: NaN has many codes, and zero two.
bool is_minifloat(DType t) {
  switch (t) {
    case DType::f8e4m3fn:
    case DType::f8e4m3fnuz:
    case DType::f8e5m2:
    case DType::f8e5m2fnuz:
    case DType::f8e8m0:
    case DType::f4e2m1: return true;
    default: return false;
  }
}

}  // namespace

Ledger::Ledger(const std::string& set) {
  std::ifstream file(source_dir() / "tests" / "conformance" / "ledger.txt");
  std::string line;
  while (std::getline(file, line)) {
    if (line.empty() || line.front() == '#') continue;
    const auto space = line.find(' ');
    REQUIRE_MESSAGE(space != std::string::npos, "a line of the ledger has no reason: ", line);
    std::string name = line.substr(0, space);
    const bool of_set = name.starts_with(set + ":");
    if (of_set) name.erase(0, set.size() + 1);
    if (name.find(':') != std::string::npos) continue;  // about another set
    if (of_set) unused_.insert(name);
    REQUIRE_MESSAGE(reasons_.emplace(name, line.substr(space + 1)).second, "twice in the ledger: ", line);
  }
}

std::string Ledger::reason(const std::string& name) const {
  const auto found = reasons_.find(name);
  return found == reasons_.end() ? std::string() : found->second;
}

void Ledger::report(const std::string& name, const std::optional<std::string>& failure) {
  const bool listed = reasons_.contains(name);
  unused_.erase(name);
  if (failure && listed) {
    ++(reason(name).starts_with("out of scope: ") ? out_of_scope_ : excused_);
  } else if (failure) {
    FAIL_CHECK(name << ": " << *failure);
  } else if (listed) {
    FAIL_CHECK(name << " is in the ledger and passes: remove the line");
  } else {
    ++passed_;
  }
}

void Ledger::check_used() const {
  for (const std::string& name : unused_) FAIL_CHECK(name << " is in the ledger, and there is no such case");
}

std::optional<std::string> difference(const Tensor& got, const Tensor& want, double relative, double absolute) {
  if (got.dtype() != want.dtype()) {
    return "type " + std::string(name_of(got.dtype())) + " instead of " + std::string(name_of(want.dtype()));
  }
  if (got.shape() != want.shape()) return "shape " + to_string(got.shape()) + " instead of " + to_string(want.shape());
  if (!is_float(want.dtype()) && !is_minifloat(want.dtype())) {
    return got.same_bytes(want) ? std::nullopt : std::optional<std::string>("other values");
  }
  if (is_minifloat(want.dtype())) relative = absolute = 0;
  const auto value = [](const Tensor& t, std::size_t i) {
    return t.dtype() == DType::f64 ? t.read<double>()[i] : static_cast<double>(t.read<float>()[i]);
  };
  const Tensor a = got.dtype() == DType::f64 ? got : to_f32(got), b = want.dtype() == DType::f64 ? want : to_f32(want);
  for (std::size_t i = 0; i < static_cast<std::size_t>(a.count()); ++i) {
    const double x = value(a, i), y = value(b, i);
    if (std::isnan(x) && std::isnan(y)) continue;
    if (x == y || std::abs(x - y) <= absolute + relative * std::abs(y)) continue;
    return "element " + std::to_string(i) + " is " + std::to_string(x) + " instead of " + std::to_string(y);
  }
  return std::nullopt;
}

}  // namespace qtool::test
