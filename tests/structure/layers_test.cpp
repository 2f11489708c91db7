// SPDX-License-Identifier: Apache-2.0
// Who may include whom, and through which door a third-party library comes in. Every #include of the tree is read.
#include <map>
#include <optional>
#include <regex>
#include <set>

#include "tests/structure/tree.h"

namespace qtool::test {
namespace {

/// Folder -> our folders that it may include besides itself. Folders not named here (tests, samples) may include all.
const std::map<std::string, std::set<std::string>> layers = {
    {"formats", {}},           {"recipes", {"formats"}},
    {"calib", {"formats"}},    {"passes", {"formats", "recipes", "calib"}},
    {"backends", {"formats"}}, {"cli", {"formats", "recipes", "calib", "passes", "backends"}},
};

struct Door {
  std::string library;
  std::regex header, file;  // who includes `header` must match `file`
};

const std::vector<Door> doors = {
    {"Protobuf and ONNX", std::regex("(onnx|google/protobuf)/.*"), std::regex("formats/(file/onnx_.*|ir/text)\\.cpp")},
    {"yaml-cpp", std::regex("yaml-cpp/.*"), std::regex("recipes/reader/.*\\.cpp")},
    {"Eigen, OpenBLAS", std::regex("(Eigen/.*|cblas.*|lapack.*|openblas.*)"), std::regex("calib/linalg[^/]*\\.cpp")},
    {"libpng, libjpeg, zlib", std::regex("(png|jpeglib|jerror|zlib)\\.h"), std::regex("calib/data/.*\\.cpp")},
    {"CUDA", std::regex("(cuda|cublas|mma).*"), std::regex("backends/cuda/.*")},
    {"CLI11", std::regex("CLI/.*"), std::regex("cli/.*\\.cpp")},
    {"doctest", std::regex("doctest/.*"), std::regex("tests/.*")},
    {"libqtool as installed", std::regex("qtool\\.h"), std::regex("samples/.*")},
};

/// Headers of C++, C and POSIX. Others need a door above.
const std::regex system_header(
    "[a-z_0-9]+|(stddef|stdint|stdio|stdlib|string|malloc|math|errno|fcntl|unistd|signal|poll|sched|dlfcn|fnmatch|glob|"
    "pthread|spawn|link|termios|cpuid|immintrin|getopt|inttypes|sys/[a-z]+|linux/[a-z]+|asm/[a-z]+)\\.h");

struct Include {
  bool quoted;
  std::string header;
};

std::optional<Include> include_of(const std::string& line) {
  static const std::regex form("\\s*#\\s*include\\s*([<\"])([^>\"]+)[>\"].*");
  std::smatch m;
  if (!std::regex_match(line, m, form)) return std::nullopt;
  return Include{m[1] == "\"", m[2]};
}

/// What is wrong with `file` including `what`; empty: nothing.
std::string objection(const std::string& file, const Include& what) {
  const std::string folder = file.substr(0, file.find('/'));
  const std::string from = what.header.substr(0, what.header.find('/'));
  if (what.quoted) {
    if (what.header.starts_with("shipped_")) return "";  // generated into the build folder
    if (!std::filesystem::exists(source_dir() / what.header)) return "is not a path from the repository root";
    const auto row = layers.find(folder);
    if (row == layers.end() || from == folder || row->second.contains(from)) return "";
    return folder + " may not include " + from;
  }
  for (const Door& door : doors) {
    if (!std::regex_match(what.header, door.header)) continue;
    return folder == "tests" || std::regex_match(file, door.file) ? "" : door.library + " has another door";
  }
  return std::regex_match(what.header, system_header) ? "" : "is neither a system header nor behind a door";
}

}  // namespace

TEST_CASE("every include keeps to the layers and the doors") {
  std::vector<std::string> findings;
  int includes = 0;
  for (const std::string& file : project_files()) {
    if (!is_cpp(file)) continue;
    const auto lines = lines_of(read_text(source_dir() / file));
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const auto include = include_of(lines[i]);
      if (!include) continue;
      ++includes;
      if (const std::string why = objection(file, *include); !why.empty())
        findings.push_back(place(file, i + 1) + include->header + ": " + why);
    }
  }
  expect_none(findings);
  CHECK(includes > 100);
}

TEST_CASE("no header of ours shows a third-party type") {
  std::vector<std::string> findings;
  for (const std::string& file : project_files()) {
    if (!file.ends_with(".h") || file.starts_with("tests/")) continue;
    const auto lines = lines_of(read_text(source_dir() / file));
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const auto include = include_of(lines[i]);
      if (!include || include->quoted) continue;
      for (const Door& door : doors)
        if (std::regex_match(include->header, door.header))
          findings.push_back(place(file, i + 1) + include->header + " in a header");
    }
  }
  expect_none(findings);
}

TEST_CASE("what the ONNX reader keeps to itself stays behind its door") {
  std::vector<std::string> findings;
  for (const std::string& file : project_files()) {
    if (!is_cpp(file) || file.starts_with("formats/file/onnx_") || file.starts_with("tests/")) continue;
    if (read_text(source_dir() / file).find("\"formats/file/onnx_internal.h\"") != std::string::npos)
      findings.push_back(file + " includes formats/file/onnx_internal.h");
  }
  expect_none(findings);
}

TEST_CASE("the check of written files shares no code with what writes them") {
  const std::set<std::string> shared = {"formats/base/error.h",   "formats/base/file.h",    "formats/base/hash.h",
                                        "formats/base/journal.h", "formats/base/threads.h", "formats/base/widest.h",
                                        "formats/target.h",       "formats/lock.h"};
  std::vector<std::string> findings;
  int files = 0;
  for (const std::string& file : project_files()) {
    if (!file.starts_with("backends/verify/") || !is_cpp(file)) continue;
    ++files;
    for (const std::string& line : lines_of(read_text(source_dir() / file))) {
      const auto include = include_of(line);
      if (!include || !include->quoted || include->header.starts_with("backends/verify/")) continue;
      if (!shared.contains(include->header)) findings.push_back(file + " includes " + include->header);
    }
  }
  expect_none(findings);
  CHECK(files > 10);
}

TEST_CASE("the check itself refuses what it should") {
  CHECK(objection("formats/ir/graph.cpp", {true, "calib/op.h"}) == "formats may not include calib");
  CHECK(objection("calib/op.cpp", {true, "backends/backend.h"}) == "calib may not include backends");
  CHECK(objection("calib/op.cpp", {true, "op.h"}) == "is not a path from the repository root");
  CHECK(objection("passes/gptq.cpp", {false, "Eigen/Dense"}) == "Eigen, OpenBLAS has another door");
  CHECK(objection("formats/ir/graph.h", {false, "onnx/onnx_pb.h"}) == "Protobuf and ONNX has another door");
  CHECK(objection("cli/main.cpp", {false, "boost/any.hpp"}) == "is neither a system header nor behind a door");
  CHECK(objection("formats/file/onnx_read.cpp", {false, "onnx/onnx_pb.h"}).empty());
  CHECK(objection("cli/main.cpp", {true, "passes/pass.h"}).empty());
  CHECK(objection("cli/main.cpp", {false, "vector"}).empty());
}

}  // namespace qtool::test
