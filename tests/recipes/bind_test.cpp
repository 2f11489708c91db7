// SPDX-License-Identifier: Apache-2.0
#include "recipes/reader/bind.h"

#include <doctest/doctest.h>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/number/number.h"
#include "tests/support.h"

using namespace qtool;

namespace {

struct Knobs {
  bool flag = false;
  std::int64_t group = 32;
  double share = 0.5;
  std::string method = "minmax";
  std::vector<std::string> names{"a"};
  const NumberFormat* weights = &number::int8;
  Declare declare() {
    return [this](Options& o) {
      o("flag", flag, "a switch");
      o("group", group, "a size", 1, 128);
      o("share", share, "a fraction", 0, 1);
      o("method", method, "a choice", {"minmax", "entropy"});
      o("names", names, "some words");
      o("weights", weights, "a format");
    };
  }
};

Settings knobs_of(const std::string& yaml) {
  return parse_recipe("version: 1\nsteps:\n  - p: " + yaml + "\n", "r.yaml").steps[0].knobs;
}

std::string message(const std::string& yaml) {
  Knobs k;
  try {
    bind_knobs(knobs_of(yaml), k.declare(), "step \"p\"");
  } catch (const Error& e) {
    CHECK(e.code() == Code::usage);
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE("settings reach their knobs") {
  Knobs k;
  bind_knobs(knobs_of("{flag: true, group: 64, share: 1e-1, method: entropy, names: [x, \"1\"], weights: int4}"),
             k.declare(), "p");
  CHECK(k.flag);
  CHECK(k.group == 64);
  CHECK(k.share == 0.1);
  CHECK(k.method == "entropy");
  CHECK(k.names == std::vector<std::string>{"x", "1"});
  CHECK(k.weights == &number::int4);
  bind_knobs(knobs_of("{names: one, share: 1}"), k.declare(), "p");
  CHECK(k.names == std::vector<std::string>{"one"});
  CHECK(k.share == 1);
  CHECK(k.group == 64);
}

TEST_CASE("binding errors say where and what") {
  CHECK(message("{weigths: int4}") == "r.yaml:3:9: unknown key \"weigths\" in step \"p\"; did you mean \"weights\"?");
  CHECK(message("{group: x, weigths: int4}").find("unknown key \"weigths\"") != std::string::npos);
  CHECK(message("{flag: yes}") == "r.yaml:3:15: \"flag\" in step \"p\" must be true or false, not \"yes\"");
  CHECK(message("{group: \"32\"}") == "r.yaml:3:16: \"group\" in step \"p\" must be a whole number, not \"32\"");
  CHECK(message("{group: 32.5}") == "r.yaml:3:16: \"group\" in step \"p\" must be a whole number, not \"32.5\"");
  CHECK(message("{group: 99999999999999999999}") != "");
  CHECK(message("{group: 0}") == "r.yaml:3:16: \"group\" in step \"p\" must be from 1 to 128, not \"0\"");
  CHECK(message("{group: }").find("must be a whole number, not nothing") != std::string::npos);
  CHECK(message("{share: .inf}") == "r.yaml:3:16: \"share\" in step \"p\" must be a number, not \".inf\"");
  CHECK(message("{share: [1]}") == "r.yaml:3:16: \"share\" in step \"p\" must be a number, not a list");
  CHECK(message("{method: entropie}") ==
        "r.yaml:3:17: \"method\" in step \"p\" must be one of minmax, entropy, not \"entropie\"");
  CHECK(message("{names: {a: b}}") ==
        "r.yaml:3:16: \"names\" in step \"p\" must be a word or a list of words, not a map");
  CHECK(message("{weights: imt4}") ==
        "r.yaml:3:18: unknown number format \"imt4\" for \"weights\" in step \"p\"; did you mean \"int4\"?");
}

TEST_CASE("one declaration gives help and fingerprint") {
  Knobs k;
  CHECK(fingerprint_knobs(k.declare()) == "flag=false group=32 share=0.5 method=minmax names=[\"a\"] weights=int8");
  const Json described = describe_knobs(k.declare());
  CHECK(described.as_array().size() == 6);
  CHECK(described.as_array()[1].dump() ==
        R"({"name": "group", "type": "integer", "default": 32, "lowest": 1, "highest": 128, "help": "a size"})");
  CHECK(described.as_array()[3].find("choices")->dump() == R"(["minmax", "entropy"])");
}

TEST_CASE("files are found from the folder of the recipe, and stand for their bytes in the fingerprint") {
  const test::ScratchFolder folder;
  OutputFile file(folder / "abc");
  file.write("abc");
  file.publish();
  std::string path;
  const Declare declare = [&](Options& o) { o.file("importance", path, "a file"); };
  CHECK(fingerprint_knobs(declare) == "importance=");
  const auto bind = [&](const std::string& name) {
    const std::string recipe = (folder / "r.yaml").string();
    bind_knobs(parse_recipe("version: 1\nsteps:\n  - p: {importance: " + name + "}\n", recipe).steps[0].knobs, declare,
               "step \"p\"");
  };
  bind("abc");
  CHECK(path == (folder / "abc").string());
  // FIPS 180-4, the example of one block.
  CHECK(fingerprint_knobs(declare) ==
        "importance=sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(describe_knobs(declare).as_array()[0].find("type")->as_string() == "file");
  CHECK_THROWS_AS(bind("absent"), Error);
}
