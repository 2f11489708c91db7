// SPDX-License-Identifier: Apache-2.0
#include "tests/cli/program.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <thread>

namespace qtool::test {
namespace {

[[noreturn]] void become_qtool(const std::vector<std::string>& words, const Setup& setup) {
  if (setup.largest_file > 0) {
    const rlimit limit{setup.largest_file, setup.largest_file};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  if (!setup.folder.empty() && ::chdir(setup.folder.c_str()) != 0) ::_exit(126);
  ::setenv("OPENBLAS_CORETYPE", "", 1);  // the warning about a user's choice has its own test
  for (const std::string& variable : setup.environment) {
    const std::size_t equal = variable.find('=');
    ::setenv(variable.substr(0, equal).c_str(), variable.substr(equal + 1).c_str(), 1);
  }
  const std::string program = std::string(QTOOL_BINARY_DIR) + "/qtool";
  std::vector<char*> pointers{const_cast<char*>(program.c_str())};
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  ::execv(program.c_str(), pointers.data());
  ::_exit(127);
}

}  // namespace

Outcome run_qtool(const std::vector<std::string>& words, const Setup& setup) {
  std::array<int, 2> out{}, err{};
  REQUIRE(::pipe2(out.data(), O_CLOEXEC) == 0);
  REQUIRE(::pipe2(err.data(), O_CLOEXEC) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::dup2(setup.out.empty() ? out[1] : ::open(setup.out.c_str(), O_WRONLY), STDOUT_FILENO);
    ::dup2(err[1], STDERR_FILENO);
    become_qtool(words, setup);
  }
  ::close(out[1]);
  ::close(err[1]);
  std::thread killer;
  if (setup.kill) {
    killer = std::thread([&] {
      std::this_thread::sleep_for(*setup.kill);
      ::kill(child, setup.signal);
    });
  }
  Outcome outcome;
  std::array<pollfd, 2> open{pollfd{out[0], POLLIN, 0}, pollfd{err[0], POLLIN, 0}};
  while (open[0].fd >= 0 || open[1].fd >= 0) {
    ::poll(open.data(), open.size(), -1);
    for (std::size_t i = 0; i < open.size(); ++i) {
      if (open[i].fd < 0 || open[i].revents == 0) continue;
      std::array<char, 65536> buffer{};
      const ssize_t n = ::read(open[i].fd, buffer.data(), buffer.size());
      if (n > 0) {
        (i == 0 ? outcome.out : outcome.err).append(buffer.data(), static_cast<std::size_t>(n));
      } else {
        ::close(open[i].fd);
        open[i].fd = -1;
      }
    }
  }
  if (killer.joinable()) killer.join();  // before the wait: the id stays ours until then
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return outcome;
}

}  // namespace qtool::test
