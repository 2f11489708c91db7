// SPDX-License-Identifier: Apache-2.0
// Kills at any moment: the output is absent, old, or whole.
#include <signal.h>

#include "formats/base/rng.h"
#include "tests/cli/program.h"

using namespace qtool;
using namespace qtool::test;

namespace {

std::vector<std::string> job(const std::string& output) {
  return {"quantize", sample_model("digits_transformer"), "--recipe", "int4_weights", "-o", output,
          "--eval",   sample_data("digits_eval"),         "--quiet"};
}

/// How long the job takes that nobody disturbs.
std::chrono::milliseconds undisturbed(const std::string& output) {
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(run_qtool(job(output)).code == 0);
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start);
}

}  // namespace

TEST_CASE("SIGTERM and SIGINT exit with 75, write nothing, and leave at most what the next run goes on with") {
  for (const int number : {SIGTERM, SIGINT}) {
    const ScratchFolder folder, elsewhere;
    const std::string output = (folder / "q.onnx").string();
    write_bytes(output, "old");
    Setup stop;
    stop.kill = undisturbed((elsewhere / "whole.onnx").string()) / 2;
    stop.signal = number;
    const Outcome done = run_qtool(job(output), stop);
    CAPTURE(done.err);
    if (done.code == 0) {
      skip("signals", "the job was done before the signal came");
      continue;
    }
    CHECK(done.code == 75);
    CHECK(done.err.find("interrupted") != std::string::npos);
    CHECK(bytes_of(output) == "old");
    std::vector<std::string> left = listing(folder.path());
    std::erase(left, "q.onnx.resume");
    CHECK(left == std::vector<std::string>{"q.onnx"});
  }
}

TEST_CASE("SIGKILL at any moment leaves the output absent, old or whole") {
  const ScratchFolder folder;
  const std::string whole_file = (folder / "whole.onnx").string(), output = (folder / "q.onnx").string();
  const auto took = undisturbed(whole_file);
  const std::string whole = bytes_of(whole_file);
  const Rng rng(1, "kill");
  for (std::uint64_t i = 0; i < 12; ++i) {
    const bool had_old = i % 2 == 0;
    std::filesystem::remove(output);
    if (had_old) write_bytes(output, "old");
    Setup kill;
    kill.kill = std::chrono::milliseconds(static_cast<int>(rng.uniform(i) * 1.2 * static_cast<double>(took.count())));
    run_qtool(job(output), kill);
    CAPTURE(kill.kill->count());
    const bool exists = std::filesystem::exists(output);
    CHECK((exists || !had_old));
    if (exists) CHECK((bytes_of(output) == whole || (had_old && bytes_of(output) == "old")));
  }
}
