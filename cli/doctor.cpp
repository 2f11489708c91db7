// SPDX-License-Identifier: Apache-2.0
#include "calib/doctor.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <string>
#include <vector>

#include "backends/cpu/cpu.h"
#include "cli/command.h"
#include "cli/measure_rates.h"
#include "cli/rates.h"
#include "cli/text.h"
#include "formats/base/error.h"

namespace qtool {
namespace {

/// Measures in a child, since OpenBLAS fixes its core when it is loaded. Null when the child fails.
Json measure_core(const std::string& core, std::int64_t threads) {
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) return {};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawnattr_t attributes;  // the child must not inherit our blocked signals
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);

  std::vector<std::string> environment{"OPENBLAS_CORETYPE=" + core};
  for (char** e = environ; *e; ++e) {
    if (!std::string_view(*e).starts_with("OPENBLAS_CORETYPE=")) environment.emplace_back(*e);
  }
  std::vector<std::string> words{"qtool", "doctor", "--only-this", "--json", "-", "--threads", std::to_string(threads)};
  const auto pointers = [](std::vector<std::string>& strings) {
    std::vector<char*> list;
    for (std::string& s : strings) list.push_back(s.data());
    list.push_back(nullptr);
    return list;
  };
  pid_t child = 0;
  const int failed = ::posix_spawn(&child, "/proc/self/exe", &actions, &attributes, pointers(words).data(),
                                   pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  ::close(pipe[1]);
  std::string text;
  std::array<char, 4096> buffer{};
  for (ssize_t n = 0; !failed && (n = ::read(pipe[0], buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<std::size_t>(n));
  }
  ::close(pipe[0]);
  int status = 0;
  if (failed || ::waitpid(child, &status, 0) != child || status != 0) return {};
  try {
    return Json::parse(text, "doctor");
  } catch (const Error&) {
    return {};
  }
}

double number_of(const Json& object, std::string_view name) {
  const Json* value = object.find(name);
  return value && value->is_number() ? value->as_number() : 0;
}

class Doctor final : public Command {
  bool only_this_ = false, calibrate_ = false;

 public:
  void arguments(Arguments& a) override {
    a.flag("--calibrate", calibrate_, "measure the rates that plans rest on, and keep them in the cache folder");
    a.flag("--only-this", only_this_, "measure the kernels in use, not the alternatives").hidden = true;
  }

  void run(Console& console) override {
    if (calibrate_) return calibrate(console);
    Threads threads(console.threads(), &best_integer_kernels());
    const MachineFacts facts = examine_machine(threads, true);
    Json report = facts.json();
    if (only_this_) return console.result(report);
    const LinalgInfo& linalg = facts.linalg;
    std::string sets;
    for (const std::string& set : facts.instruction_sets) sets += " " + set;
    std::string text = "qtool " QTOOL_VERSION "\nprocessor: " + facts.processor + "\ninstruction sets:" + sets +
                       "\nthreads: " + std::to_string(threads.count()) + "\nlinear algebra: " + linalg.library +
                       ", core " + linalg.core + ", chosen by " + linalg.chosen_by + "\n\n";
    Table table({"core", "GFLOP/s, 1 thread", "GFLOP/s, " + std::to_string(threads.count()) + " threads"});
    table.row({linalg.core + " (in use)", fixed(facts.gflops_one, 0), fixed(facts.gflops_all, 0)});
    Json others = Json::array();
    std::string best = linalg.core;
    double most = facts.gflops_one;
    for (const std::string& core : other_cores()) {
      console.journal().progress({"measuring " + core, 0, 0});
      const Json child = measure_core(core, console.threads());
      if (child.is_null()) continue;
      const double one = number_of(child, "gflops_one_thread"), all = number_of(child, "gflops_all_threads");
      table.row({core, fixed(one, 0), fixed(all, 0)});
      Json row = Json::object();
      others.push(row.set("core", core).set("gflops_one_thread", one).set("gflops_all_threads", all));
      constexpr double clearly = 1.1;  // measurements of half a second differ by a few percent
      if (one > most * clearly) most = one, best = core;
    }
    text += table.text();
    text += "\nproducts of 8-bit codes: kernel " + facts.integers + ", " + fixed(facts.gops_one, 0) +
            " GOP/s on 1 thread, " + fixed(facts.gops_all, 0) + " on " + std::to_string(threads.count()) + "\n";
    if (best != linalg.core) {
      text += "\n" + best + " is faster here: OPENBLAS_CORETYPE=" + best + " makes qtool use it\n";
    } else if (linalg.narrow) {
      text += "\nthe core in use is narrower than the " + linalg.widest + " of this processor\n";
    }
    console.print(text);
    console.result(report.set("others", std::move(others)).set("fastest", best));
  }

 private:
  static void calibrate(Console& console) {
    console.journal().progress({"measuring rates", 0, 0});
    Threads one(1, &best_integer_kernels());
    const Rates rates = measure_rates(one);
    save_rates(rates);
    Table table({"rate", "ns"});
    Json list = Json::object();
    for_each_rate(rates, [&](const char* name, double rate) {
      table.row({name, significant(rate, 3)});
      list.set(name, rate);
    });
    console.print(table.text() + "\nwritten to " + rates_file().string() + "\n");
    Json report = Json::object();
    console.result(report.set("processor", processor_name()).set("file", rates_file().string()).set("ns", list));
  }
};

}  // namespace

constinit const CommandDef command::doctor{"doctor",
                                           "tell what this machine computes with, who chose it, and how fast it is",
                                           "",
                                           "qtool doctor\nqtool doctor --calibrate\nqtool doctor --json doctor.json",
                                           false,
                                           false,
                                           make_command<Doctor>};

}  // namespace qtool
