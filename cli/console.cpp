// SPDX-License-Identifier: Apache-2.0
#include "cli/console.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "cli/text.h"
#include "formats/base/error.h"
#include "formats/base/file.h"

namespace qtool {
namespace {

using Clock = std::chrono::steady_clock;

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value && *value;
}

/// "3 s", "2 min 5 s", "1 h 20 min".
std::string duration(double seconds) {
  const auto s = std::llround(seconds);
  if (s < 60) return std::to_string(s) + " s";
  if (s < 3600) return std::to_string(s / 60) + " min " + std::to_string(s % 60) + " s";
  return std::to_string(s / 3600) + " h " + std::to_string(s / 60 % 60) + " min";
}

void write_device(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "we");
  const bool written = file && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const bool flushed = file && std::fclose(file) == 0;
  if (written && flushed) return;
  throw Error(errno == ENOSPC ? Code::no_fit : Code::usage, "cannot write " + path + ": " + std::strerror(errno));
}

std::string text_of(const Json& fact, std::string_view name) {
  const Json* member = fact.find(name);
  if (!member) return {};
  return member->is_string() ? member->as_string() : member->dump();
}

}  // namespace

Console::Console(CommonOptions options, std::stop_token stop)
    : options_(std::move(options)),
      stop_(std::move(stop)),
      terminal_(::isatty(STDERR_FILENO) == 1 && is_set("TERM") && std::strcmp(std::getenv("TERM"), "dumb") != 0),
      color_(terminal_ && !is_set("NO_COLOR")),
      journal_([this](const Json& fact) { on_fact(fact); }, [this](const Progress& p) { on_progress(p); }),
      phase_start_(Clock::now()),
      last_drawn_(phase_start_) {
  if (options_.log.empty()) return;
  log_ = std::fopen(options_.log.c_str(), "ae");
  if (!log_) {
    throw Error(Code::usage, "cannot write the log " + options_.log + ": " + std::strerror(errno),
                "check that the directory exists and is writable");
  }
}

Console::~Console() {
  clear_bar();
  if (log_) std::fclose(log_);
}

void Console::print(std::string_view text) {
  if (options_.json == "-") return;
  const std::lock_guard lock(mutex_);
  clear_bar();
  const std::string safe = printable(text);
  std::fwrite(safe.data(), 1, safe.size(), stdout);
}

void Console::summary(std::string_view text) {
  if (!options_.quiet) print(text);
}

void Console::note(std::string_view text) {
  if (options_.quiet) return;
  const std::lock_guard lock(mutex_);
  write_error(printable(text) + "\n");
}

void Console::warn(std::string_view text) {
  const std::lock_guard lock(mutex_);
  write_error(colored("warning:", "33") + " " + printable(text) + "\n");
}

void Console::error(Code code, const std::string& text, const std::string& hint) {
  Json fact = Json::object();
  fact.set("kind", "error").set("code", static_cast<int>(code)).set("name", name_of(code));
  fact.set("message", text).set("hint", hint);
  {
    const std::lock_guard lock(mutex_);
    std::fflush(stdout);  // what was printed before comes before
    write_error(colored("qtool: error:", "31") + " " + printable(text) + "\n");
    if (!hint.empty()) write_error("  hint: " + printable(hint) + "\n");
    log_line(fact);
  }
  if (has_result_) return;
  Json report = Json::object();
  try {
    result(report.set("error", std::move(fact)));
  } catch (const Error&) {  // the first error is the one to tell
  }
}

void Console::result(const Json& report) {
  if (options_.json.empty()) return;
  Json named = Json::object();
  if (report.is_object() && !report.find("schema")) {
    named.set("schema", "qtool." + std::string(report.find("error") ? "error" : options_.command) + "/1");
    for (const auto& [name, value] : report.as_object()) named.set(name, value);
  }
  const std::string text = (named.as_object().empty() ? report : named).dump(2) + "\n";
  has_result_ = true;
  if (options_.json == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
    return;
  }
  std::error_code ignored;
  const auto status = std::filesystem::status(options_.json, ignored);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    write_device(options_.json, text);  // /dev/stderr, a named pipe: nothing to rename over
    return;
  }
  OutputFile file(options_.json);
  file.write(text);
  file.publish();
}

void Console::finish() {
  const std::lock_guard lock(mutex_);
  clear_bar();
  errno = 0;
  const bool failed = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
  if (!failed || errno == EPIPE) return;  // `qtool passes | head` is no failure
  throw Error(errno == ENOSPC ? Code::no_fit : Code::usage,
              std::string("cannot write standard output: ") + std::strerror(errno ? errno : EIO));
}

void Console::log_line(const Json& fact) {
  if (!log_) return;
  const std::string line = fact.dump() + "\n";
  std::fwrite(line.data(), 1, line.size(), log_);
  std::fflush(log_);
}

void Console::on_fact(const Json& fact) {
  const std::lock_guard lock(mutex_);
  log_line(fact);
  const std::string kind = text_of(fact, "kind");
  if (kind == "warning") {
    const std::string where = text_of(fact, "where");
    write_error(colored("warning:", "33") + " " +
                printable((where.empty() ? "" : where + ": ") + text_of(fact, "text")) + "\n");
  } else if (kind == "kept" && !text_of(fact, "text").empty()) {
    if (!options_.quiet) write_error(printable(text_of(fact, "text")) + "\n");
  } else if (options_.verbose && kind == "skip") {
    write_error(
        printable("skip: " + text_of(fact, "pass") + ": " + text_of(fact, "node") + ": " + text_of(fact, "why")) +
        "\n");
  } else if (options_.verbose) {
    Json rest = Json::object();
    for (const auto& [name, value] : fact.as_object()) {
      if (name != "kind") rest.set(name, value);
    }
    write_error(printable(kind + ": " + rest.dump()) + "\n");
  }
}

void Console::on_progress(const Progress& progress) {
  if (stop_.stop_requested()) throw Error(Code::interrupted, "interrupted");
  if (options_.quiet) return;
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  if (progress.what != what_) {
    what_ = progress.what;
    phase_start_ = now;
    if (terminal_) last_drawn_ = {};
  }
  const double since = std::chrono::duration<double>(now - last_drawn_).count();
  constexpr double redraw = 0.1, plain_line = 10;  // seconds
  if (since < (terminal_ ? redraw : plain_line)) return;
  last_drawn_ = now;
  draw(progress, std::chrono::duration<double>(now - phase_start_).count());
}

void Console::draw(const Progress& p, double seconds) {
  std::string line = printable(p.what);
  if (p.total > 0) {
    const double share = std::clamp(static_cast<double>(p.done) / static_cast<double>(p.total), 0.0, 1.0);
    if (terminal_) {
      constexpr std::size_t width = 24;
      const auto full = static_cast<std::size_t>(share * width);
      line += " [" + std::string(full, '#') + std::string(width - full, '.') + "]";
    }
    line += " " + std::to_string(p.done) + "/" + std::to_string(p.total);
    if (share > 0 && share < 1 && seconds >= 1) line += ", " + duration(seconds / share * (1 - share)) + " left";
  } else if (p.done > 0) {
    line += " " + std::to_string(p.done);
  }
  if (terminal_) {
    const std::string text = "\r\033[K" + line;
    std::fwrite(text.data(), 1, text.size(), stderr);
    bar_shown_ = true;
  } else {
    write_error(line + "\n");
  }
}

void Console::clear_bar() {
  if (!bar_shown_) return;
  std::fputs("\r\033[K", stderr);
  bar_shown_ = false;
}

void Console::write_error(std::string_view text) {
  clear_bar();
  std::fwrite(text.data(), 1, text.size(), stderr);
}

std::string Console::colored(std::string_view text, std::string_view color) const {
  if (!color_) return std::string(text);
  return "\033[" + std::string(color) + "m" + std::string(text) + "\033[0m";
}

}  // namespace qtool
