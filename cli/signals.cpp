// SPDX-License-Identifier: Apache-2.0
#include "cli/signals.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cstdint>

namespace qtool {
namespace {

sigset_t ending_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction now {};
    // nohup and background shells ignore some of them: that wish stands.
    if (::sigaction(number, nullptr, &now) == 0 && now.sa_handler != SIG_IGN) sigaddset(&set, number);
  }
  return set;
}

[[noreturn]] void end_by(int number) {
  ::signal(number, SIG_DFL);
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, number);
  ::pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
  ::raise(number);
  ::_exit(128 + number);
}

}  // namespace

Signals::Signals() {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);  // a file size limit then is an error of write(), with a message
  const sigset_t set = ending_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signals_ = ::signalfd(-1, &set, SFD_CLOEXEC);
  done_ = ::eventfd(0, EFD_CLOEXEC);
  waiter_ = std::thread([this] {
    std::array<pollfd, 2> open{pollfd{signals_, POLLIN, 0}, pollfd{done_, POLLIN, 0}};
    while (::poll(open.data(), open.size(), -1) >= 0 && open[1].revents == 0) {
      signalfd_siginfo info{};
      if (::read(signals_, &info, sizeof info) != sizeof info) return;
      if (stop_.stop_requested()) end_by(static_cast<int>(info.ssi_signo));
      stop_.request_stop();
    }
  });
}

Signals::~Signals() {
  const std::uint64_t one = 1;
  (void)!::write(done_, &one, sizeof one);
  waiter_.join();
  ::close(signals_);
  ::close(done_);
}

void keep_standard_streams() {
  for (int fd = 0; fd < 3; ++fd) {
    if (::fcntl(fd, F_GETFD) == -1) (void)!::open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY);
  }
}

}  // namespace qtool
