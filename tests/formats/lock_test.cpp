// SPDX-License-Identifier: Apache-2.0
#include "formats/lock.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "formats/base/error.h"

using namespace qtool;

namespace {

Lock small_lock() {
  Lock lock;
  lock.qtool = "0.1.0";
  lock.model_sha256 = "aa";
  lock.recipe_sha256 = "bb";
  lock.target = "ort-cpu";
  lock.seed = 7;
  lock.steps.push_back({"fold", "fold_batch_norm", 1, "affine=true"});
  lock.folds.push_back(Json::object().set("step", "fold").set("pass", "fold_batch_norm").set("node", "bn"));
  lock.constants.push_back({"fold", "w", "", "cc"});
  LockedUse weight;
  weight.node = "conv";
  weight.input = 1;
  weight.tensor = "w";
  weight.format = "int4";
  weight.grain = {Grain::Kind::groups, 1, 32, 0};
  weight.narrow = true;
  weight.scale = {100, {}, "dd"};
  weight.zero_point = {2, {7, -8}, ""};
  weight.steps = {"assign", "round"};
  weight.rule = 2;
  weight.shape = {8, 64};
  weight.dtype = "f32";
  weight.float_sha256 = "ee";
  weight.codes_sha256 = "ff";
  weight.sqnr_db = 21.375;
  weight.range_axis = 1;
  weight.ranges = {{3, 5, "int8", {1, {0.5}, ""}, {}, "ab"}, {9, 10, "", {}, {}, ""}};  // the last one stays float
  lock.uses.push_back(weight);
  LockedUse output;
  output.tensor = "y";
  output.format = "uint8";
  output.scale = {1, {static_cast<double>(0.1F)}, ""};
  lock.uses.push_back(output);
  lock.layers.push_back({"conv", "y", 30.5});
  lock.floats.push_back({"head", "assign_formats", "a rule keeps it float"});
  return lock;
}

void check_refused(const std::string& text, const std::string& part, const std::string& hint = "") {
  try {
    parse_lock(text, "m.lock");
    FAIL("not refused: " << part);
  } catch (const Error& e) {
    CHECK(e.code() == Code::input);
    CHECK_MESSAGE(std::string(e.what()).find(part) != std::string::npos, e.what());
    CHECK_MESSAGE(e.hint().find(hint) != std::string::npos, e.hint());
  }
}

std::string with(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("a lock reads back as it was written, one row a line") {
  const std::string text = small_lock().text();
  const Lock again = parse_lock(text, "m.lock");
  CHECK(again.text() == text);
  CHECK(again.seed == 7);
  CHECK(again.calibration_sha256.empty());
  CHECK(again.uses.at(0).grain == Grain{Grain::Kind::groups, 1, 32, 0});
  CHECK(again.uses.at(0).scale.count == 100);
  CHECK(again.uses.at(0).zero_point.values == std::vector<double>{7, -8});
  CHECK(static_cast<float>(again.uses.at(1).scale.values.at(0)) == 0.1F);
  CHECK(again.uses.at(0).range_axis == 1);
  REQUIRE(again.uses.at(0).ranges.size() == 2);
  CHECK(again.uses.at(0).ranges[0].format == "int8");
  CHECK(again.uses.at(0).ranges[0].scale.values == std::vector<double>{0.5});
  CHECK(again.uses.at(0).ranges[1].begin == 9);
  CHECK(again.uses.at(0).ranges[1].format.empty());
  CHECK(again.uses.at(1).ranges.empty());
  CHECK(again.constants.at(0).was.empty());
  CHECK(text.find("\n    {\"node\": \"conv\", \"output\": \"y\", \"sqnr_db\": 30.5}\n  ],\n") != std::string::npos);
}

TEST_CASE("an empty lock is one too") {
  const std::string text = Lock().text();
  CHECK(parse_lock(text, "m.lock").text() == text);
}

TEST_CASE("other schemas and damaged rows are refused with what to do") {
  const std::string text = small_lock().text();
  check_refused(with(text, "qtool.lock/1", "qtool.lock/2"), "its schema is qtool.lock/2, newer than qtool.lock/1",
                "use the qtool that wrote it");
  check_refused(with(text, "qtool.lock/1", "qtool.lock/0"), "its schema is qtool.lock/0, older than qtool.lock/1",
                "quantize the model again");
  check_refused(with(text, "qtool.lock/1", "qtool.manifest/1"), "no file of the schema qtool.lock/1");
  check_refused(with(text, "qtool.lock/1", "qtool.lock/x"), "no file of the schema");
  check_refused("[]", "no file of the schema");
  check_refused(with(text, "\"target\": \"ort-cpu\"", "\"target\": 3"), "\"target\" is no text");
  check_refused(with(text, "[\"groups\", 1, 32]", "[\"groups\", 1]"), "\"grain\" is none");
  check_refused(with(text, "[\"groups\", 1, 32]", "[\"groups\", -1, 32]"), "\"grain\" has no such extents");
  check_refused(with(text, "[\"groups\", 1, 32]", "7"), "\"grain\" is no list");
  check_refused(with(text, "\"begin\": 9", "\"begin\": 4"), "\"begin\" is no number in its range");
  check_refused(with(text, "\"range_axis\": 1, ", ""), "\"range_axis\" is no number in its range");
  check_refused(with(text, "\"count\": 100", "\"count\": -1"), "\"count\" is no number in its range");
  check_refused(with(text, "[8, 64]", "[8, \"x\"]"), "\"shape\" is no list of extents");
  check_refused(with(text, "\"input\": 1", "\"input\": 10000000000"), "\"input\" is no number in its range");
  check_refused(with(text, "\"narrow\": true", "\"narrow\": 1"), "\"narrow\" is neither true nor false");
  check_refused(with(text, "{\"node\": \"head\"", "3, {\"node\": \"head\""), "a row is no object");
  check_refused(text.substr(0, text.size() / 2), "JSON");
}

TEST_CASE("numbers in a lock are exact") {
  const std::vector<double> numbers{1.0, -0.0, 0.1, std::numeric_limits<double>::denorm_min(), -3.5e300};
  const std::string text = exact_text(numbers);
  CHECK(text.substr(0, 16) == "3ff0000000000000");  // IEEE 754 of 1.0
  CHECK(exact_numbers(text) == numbers);
  CHECK(std::signbit(exact_numbers(text).at(1)));
  CHECK_THROWS_AS(exact_numbers("3ff"), Error);
  CHECK_THROWS_AS(exact_numbers("3ff000000000000g"), Error);
}
