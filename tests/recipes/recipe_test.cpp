// SPDX-License-Identifier: Apache-2.0
#include "recipes/reader/recipe.h"

#include <doctest/doctest.h>

#include <fstream>

#include "formats/base/error.h"
#include "tests/support.h"

using namespace qtool;

namespace {

/// The message of the error that `yaml` gives as "r.yaml"; empty when it is accepted.
std::string message(const std::string& yaml) {
  try {
    parse_recipe(yaml, "r.yaml");
  } catch (const Error& e) {
    CHECK(e.code() == Code::usage);
    return e.what();
  }
  return {};
}

std::string set_message(Recipe recipe, const std::string& assignment) {
  try {
    set_knob(recipe, assignment);
  } catch (const Error& e) {
    CHECK(e.code() == Code::usage);
    return e.what();
  }
  return {};
}

const char* const full = R"(version: 1
summary: a test
target: ort-cpu
data: {path: c.npz, samples: 100}
eval: {path: e.npz}
steps:
  - fold_constants
  - assign_formats: {activations: uint8, weights: int8}
    where: {op: [Conv, MatMul], not_name: "*head*"}
    id: main
  - assign_formats:
      weights: int4
rules:
  - where: {name: "*head*", min_size: 100}
    keep: float
emit: {form: qdq}
gate: {sqnr_db: 20, top1_drop: 0.01}
)";

}  // namespace

TEST_CASE("a recipe is read with places") {
  const Recipe r = parse_recipe(full, "dir/r.yaml");
  CHECK(r.name == "r");
  CHECK(r.summary == "a test");
  CHECK(r.target == "ort-cpu");
  REQUIRE(r.steps.size() == 3);
  CHECK(r.steps[0].pass == "fold_constants");
  CHECK(r.steps[0].id == "fold_constants");
  CHECK(r.steps[1].id == "main");
  CHECK(r.steps[1].where->op == std::vector<std::string>{"Conv", "MatMul"});
  CHECK(r.steps[1].where->not_name == std::vector<std::string>{"*head*"});
  CHECK(r.steps[2].id == "assign_formats");
  CHECK(r.steps[2].knobs[0].setting.place.text() == "dir/r.yaml:12:16");
  CHECK(r.steps[2].knobs[0].setting.key.text() == "dir/r.yaml:12:7");
  CHECK(r.rules[0].where.min_size == 100);
  CHECK(r.rules[0].wishes[0].name == "keep");
  CHECK(r.gate.sqnr_db == 20);
  CHECK(r.gate.top1_drop == 0.01);
  CHECK(!r.gate.kl);
  CHECK(r.gate.needs_data());
  CHECK(r.data[1].setting.json() == Json(100));
}

TEST_CASE("every shipped recipe is read and has a summary") {
  const auto all = shipped_recipes();
  CHECK(all.size() >= 4);
  for (const auto& shipped : all) {
    CAPTURE(shipped.first);
    const Recipe r = load_recipe(shipped.first);
    CHECK(!r.summary.empty());
    CHECK(r.target == "ort-cpu");
  }
}

TEST_CASE("recipe errors say where and what") {
  const struct {
    const char *yaml, *expected;
  } cases[] = {
      {"", "r.yaml: the recipe is empty"},
      {"# only a comment\n", "r.yaml: the recipe is empty"},
      {"- a\n", "r.yaml:1:1: a recipe must be a map of keys, not a list"},
      {"steps: [a]\n", "r.yaml:1:1: the recipe has no \"version\""},
      {"version: 1\n", "r.yaml:1:1: the recipe has no \"steps\""},
      {"version: 2\nsteps: [a]\n", "r.yaml:1:10: recipe version 2 is not known; this qtool reads version 1"},
      {"version: one\nsteps: [a]\n", "r.yaml:1:10: \"version\" must be a whole number, not \"one\""},
      {"version: \"1\"\nsteps: [a]\n", "r.yaml:1:10: \"version\" must be a whole number, not \"1\""},
      {"version: 1\nsteps: []\n", "r.yaml:2:8: \"steps\" is empty"},
      {"version: 1\nsteps:\n", "r.yaml:3:1: \"steps\" must be a list (lines that start with \"- \"), not nothing"},
      {"version: 1\nsteps: {a: 1}\n", "r.yaml:2:8: \"steps\" must be a list (lines that start with \"- \"), not a map"},
      {"version: 1\nstep: [a]\n", "r.yaml:2:1: unknown key \"step\" in the recipe; did you mean \"steps\"?"},
      {"version: 1\nxyzzy: [a]\n", "r.yaml:2:1: unknown key \"xyzzy\" in the recipe"},
      {"version: 1\nsteps: [a]\nsteps: [b]\n", "r.yaml:3:1: duplicate key \"steps\", first given at line 2"},
      {"version: 1\nsteps:\n  - a: {k: 1, k: 2}\n", "r.yaml:3:15: duplicate key \"k\", first given at line 3"},
      {"version: 1\nsteps: [{}]\n", "r.yaml:2:9: this step names no pass"},
      {"version: 1\nsteps:\n  - where: {op: Conv}\n", "r.yaml:3:5: this step names no pass"},
      {"version: 1\nsteps:\n  - a: {}\n    wher: {op: Conv}\n",
       "r.yaml:4:5: unknown key \"wher\" in step \"a\"; did you mean \"where\"?"},
      {"version: 1\nsteps:\n  - a: {}\n    bcdef: {}\n",
       "r.yaml:4:5: a step names one pass, but this one names \"a\" and \"bcdef\""},
      {"version: 1\nsteps:\n  - a: 3\n", "r.yaml:3:8: step \"a\" must be a map of keys, not \"3\""},
      {"version: 1\nsteps: [[a]]\n", "r.yaml:2:9: a step must be a map of keys, not a list"},
      {"version: 1\nsteps: [\"a b\"]\n",
       "r.yaml:2:9: a step must be a word of letters, digits, '_' and '-', not \"a b\""},
      {"version: 1\nsteps:\n  - a:\n    id: x\n  - b:\n    id: x\n", "r.yaml:5:5: two steps have the id \"x\""},
      {"version: 1\nsteps:\n  - a:\n    id: gate\n",
       "r.yaml:3:5: \"gate\" cannot be the id of a step: it is a section"},
      {"version: 1\nsteps:\n  - a:\n    where: {opp: Conv}\n",
       "r.yaml:4:13: unknown key \"opp\" in \"where\"; did you mean \"op\"?"},
      {"version: 1\nsteps:\n  - a:\n    where: {}\n", "r.yaml:4:12: \"where\" has no condition"},
      {"version: 1\nsteps:\n  - a:\n    where: {op: []}\n", "r.yaml:4:17: an empty list selects nothing"},
      {"version: 1\nsteps:\n  - a:\n    where: {op: {x: 1}}\n",
       "r.yaml:4:17: \"op\" in \"where\" must be a word or a list of words, not a map"},
      {"version: 1\nsteps:\n  - a:\n    where: {name: \"x[a\"}\n",
       "r.yaml:4:19: the pattern \"x[a\" has a '[' without ']'"},
      {"version: 1\nsteps:\n  - a:\n    where: {region: frist}\n",
       "r.yaml:4:21: unknown region \"frist\"; did you mean \"first\"?"},
      {"version: 1\nsteps:\n  - a:\n    where: {min_size: -1}\n",
       "r.yaml:4:23: \"min_size\" in \"where\" must be from 0 to 9007199254740992, not \"-1\""},
      {"version: 1\nsteps:\n  - a:\n    where: {min_size: 9, max_size: 3}\n",
       "r.yaml:4:12: \"min_size\" is above \"max_size\": nothing can match"},
      {"version: 1\nsteps: [a]\nrules:\n  - keep: float\n", "r.yaml:4:5: a rule needs `where`"},
      {"version: 1\nsteps: [a]\nrules:\n  - where: {op: Conv}\n", "r.yaml:4:5: a rule needs a wish"},
      {"version: 1\nsteps: [a]\ngate: {}\n", "r.yaml:3:7: \"gate\" has no limit"},
      {"version: 1\nsteps: [a]\ngate: {sqnr: 3}\n",
       "r.yaml:3:8: unknown key \"sqnr\" in \"gate\"; did you mean \"sqnr_db\"?"},
      {"version: 1\nsteps: [a]\ngate: {kl: high}\n", "r.yaml:3:12: \"kl\" in \"gate\" must be a number, not \"high\""},
      {"version: 1\nsteps: [a]\ngate: {kl: .nan}\n", "r.yaml:3:12: \"kl\" in \"gate\" must be a number, not \".nan\""},
      {"version: 1\nsteps: [a]\ngate: {kl: nan}\n", "r.yaml:3:12: \"kl\" in \"gate\" must be a number, not \"nan\""},
      {"version: 1\nsteps: [a]\ngate: {top1_drop: 2}\n",
       "r.yaml:3:19: \"top1_drop\" in \"gate\" must be from 0 to 1, not \"2\""},
      {"version: 1\nsteps: [a\n", "r.yaml:3:1: not valid YAML: end of sequence flow not found"},
      {"version: 1\n\tsteps: [a]\n", "r.yaml:2:1: not valid YAML"},
      {"version: 1\nsteps: [&x a, *x]\n", "r.yaml:2:9: anchors are not allowed in a recipe"},
      {"version: 1\nsteps: [!!python/object a]\n",
       "r.yaml:2:9: the tag \"tag:yaml.org,2002:python/object\" is not allowed in a recipe"},
      {"version: 1\nsteps: [a]\n---\nversion: 1\n", "r.yaml:4:1: more than one YAML document"},
      {"version: 1\n? [a]\n: b\n", "r.yaml:2:3: a key must be plain text, not a list or a map"},
      {"version: 1\nsummary: \x01\n", "r.yaml:2:10: a control character, which YAML does not allow"},
      {"version: 1\nsummary: \xff\n", "r.yaml:2:10: not UTF-8 text"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.yaml);
    const std::string got = message(c.yaml);
    CHECK_MESSAGE(got.substr(0, std::string(c.expected).size()) == c.expected, got);
  }
}

TEST_CASE("hostile YAML ends early") {
  const auto nested = [](std::size_t n) { return "x: " + std::string(n, '[') + std::string(n, ']'); };
  CHECK(message(nested(40)).find("nested deeper than 32 levels") != std::string::npos);
  CHECK(!message(nested(200'000)).empty());
  CHECK(!message(std::string(200'000, '[')).empty());
  CHECK(!message(std::string(200'000, '{')).empty());
  std::string dashes;
  for (int i = 0; i < 100'000; ++i) dashes += "- ";
  CHECK(message(dashes).find("nested deeper than 32 levels") != std::string::npos);
  CHECK(message(std::string((1 << 20) + 1, ' ')).find("larger than 1 MiB") != std::string::npos);
  std::string wide = "[";
  for (int i = 0; i < 100'001; ++i) wide += "a,";
  CHECK(message("x: " + wide + "a]").find("more than 100000 values") != std::string::npos);
  // The alias bomb ("billion laughs") already ends at its first anchor.
  CHECK(message("a: &a [x, x]\nb: &b [*a, *a]\n").find("anchors are not allowed") != std::string::npos);
}

TEST_CASE("any prefix of a recipe and any flipped byte gives a recipe or an Error") {
  const std::string text = full;
  for (std::size_t n = 0; n < text.size(); ++n) message(text.substr(0, n));
  for (std::size_t n = 0; n < text.size(); ++n) {
    for (const char c : {'\0', '\xff', ':', '[', '&', '"', '\n'}) {
      std::string broken = text;
      broken[n] = c;
      message(broken);
    }
  }
}

TEST_CASE("--set changes one knob") {
  Recipe r = parse_recipe(full, "r.yaml");
  set_knob(r, "main.weights=int4");
  CHECK(r.steps[1].knobs[1].setting.scalar() == "int4");
  set_knob(r, "fold_constants.new=[a, b]");
  CHECK(r.steps[0].knobs[0].setting.json().dump() == "[\"a\", \"b\"]");
  set_knob(r, "emit.form=qoperator");
  CHECK(r.emit[0].setting.scalar() == "qoperator");
  set_knob(r, "data.image.resize=256");
  set_knob(r, "data.image.layout=nhwc");
  CHECK(r.data[2].setting.json().dump() == "{\"resize\": 256, \"layout\": \"nhwc\"}");
  set_knob(r, "gate.kl=0.5");
  CHECK(r.gate.kl == 0.5);
  CHECK(r.gate.sqnr_db == 20);
  set_knob(r, "target=other");
  CHECK(r.target == "other");
}

TEST_CASE("--set errors name the argument") {
  const Recipe r = parse_recipe(full, "r.yaml");
  CHECK(set_message(r, "nonsense") == "--set nonsense: expected STEP.KEY=VALUE");
  CHECK(set_message(r, "a=1") == "--set a=1: expected STEP.KEY=VALUE");
  CHECK(set_message(r, "mian.weights=int4") ==
        "--set mian.weights=int4: the recipe has no step \"mian\"; did you mean \"main\"?");
  CHECK(set_message(r, "gate.kl=-1") == "--set gate.kl=-1: \"kl\" in \"gate\" must be from 0 to 1000, not \"-1\"");
  CHECK(set_message(r, "gate.kll=1") == "--set gate.kll=1: unknown key \"kll\" in \"gate\"; did you mean \"kl\"?");
  CHECK(set_message(r, "emit.form=[") != "");
  const Recipe twice = parse_recipe("version: 1\nsteps: [{a: }, {a: {}, id: x}, {a: , id: y}]\n", "r.yaml");
  CHECK(set_message(twice, "b.k=1").find("the recipe has no step \"b\"") != std::string::npos);
}

TEST_CASE("load_recipe tells the nearest shipped name and refuses folders") {
  try {
    load_recipe("int8_sttic");
    CHECK(false);
  } catch (const Error& e) {
    CHECK(e.code() == Code::usage);
    CHECK(std::string(e.what()) == "no recipe \"int8_sttic\"; did you mean \"int8_static\"?");
  }
  const test::ScratchFolder folder;
  CHECK_THROWS_AS(load_recipe((folder / "missing.yaml").string()), Error);
  CHECK_THROWS_AS(load_recipe(folder.path().string()), Error);
  std::ofstream(folder / "mine.yaml") << full;
  CHECK(load_recipe((folder / "mine.yaml").string()).name == "mine");
}

TEST_CASE("nearest finds misspelt, swapped and cut words, and nothing far away") {
  const std::vector<std::string> words = {"weights", "activations", "percentile", "group"};
  CHECK(nearest("weigths", words) == "weights");
  CHECK(nearest("Weights", words) == "weights");
  CHECK(nearest("percent", words) == "percentile");
  CHECK(nearest("gruop", words) == "group");
  CHECK(nearest("banana", words).empty());
  CHECK(nearest("", words).empty());
  CHECK(nearest(std::string(100'000, 'a'), words).empty());
}
