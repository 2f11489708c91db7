// SPDX-License-Identifier: Apache-2.0
// The built program as a child process: what users see.
#pragma once

#include <doctest/doctest.h>
#include <sys/types.h>
#include <algorithm>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "tests/support.h"

namespace qtool::test {

struct Outcome {
  int code = -1;  // exit code; -N: ended by signal N
  std::string out, err;
};

struct Setup {
  std::filesystem::path folder;                   // current folder; empty: ours
  std::vector<std::string> environment;           // "NAME=value" on top of ours
  std::uint64_t largest_file = 0;                 // RLIMIT_FSIZE in bytes; 0: no limit
  std::optional<std::chrono::milliseconds> kill;  // after this long: send `signal`
  int signal = 9;
  std::filesystem::path out;  // where standard output goes; empty: captured
};

Outcome run_qtool(const std::vector<std::string>& words, const Setup& setup = {});

inline std::string sample_model(const std::string& name) {
  return (source_dir() / "samples" / "models" / (name + ".onnx")).string();
}
inline std::string sample_data(const std::string& name) {
  return (source_dir() / "samples" / "data" / (name + ".npz")).string();
}

inline std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}
inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// Files and folders in `folder`, hidden ones included.
inline std::vector<std::string> listing(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

/// The program fails with `code`, says one error that has all `parts`, and prints no result.
inline void check_fails(const std::vector<std::string>& words, int code, std::initializer_list<std::string> parts,
                        const Setup& setup = {}) {
  const Outcome done = run_qtool(words, setup);
  CAPTURE(words);
  CAPTURE(done.err);
  CHECK(done.code == code);
  CHECK(done.out.empty());
  const std::size_t first = done.err.find("qtool: error: ");
  CHECK(first != std::string::npos);
  CHECK(done.err.find("qtool: error: ", first + 1) == std::string::npos);
  for (const std::string& part : parts) CHECK_MESSAGE(done.err.find(part) != std::string::npos, part);
}

}  // namespace qtool::test

namespace doctest {
template <>
struct StringMaker<std::vector<std::string>> {
  static String convert(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& w : words) text += w + " ";
    return text.c_str();
  }
};
}  // namespace doctest
