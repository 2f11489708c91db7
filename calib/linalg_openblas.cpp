// SPDX-License-Identifier: Apache-2.0
#include "calib/linalg_openblas.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "formats/base/processor.h"

namespace qtool::openblas {
namespace {

constexpr const char* core_variable = "OPENBLAS_CORETYPE";
constexpr const char* threads_variable = "OPENBLAS_NUM_THREADS";

/// Sets an environment variable (null: takes it away) for the time of dlopen, which is when OpenBLAS reads it, and puts
/// back what was there: child processes must see the user's environment, not ours.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    if (value != nullptr) {
      setenv(name, value, 1);
    } else {
      unsetenv(name);
    }
  }
  ~ScopedVariable() {
    if (before_) {
      setenv(name_, before_->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

/// The core that OpenBLAS 0.3.21 should run; null: let it choose. Cooperlake differs from SkylakeX only in bf16
/// kernels, which are not called here. Prescott is what every 64-bit processor runs.
const char* fitting_core() {
  if (portable_floats()) return "Prescott";
  const std::string_view widest = widest_vectors();
  if (widest == "avx512") return "SkylakeX";
  if (widest == "avx2") return "Haswell";
  return nullptr;
}

/// Names of cores as OpenBLAS compares them.
bool is_core(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

std::string_view vectors_of_core(std::string_view core) {
  for (const std::string_view wide : {"SkylakeX", "Cooperlake", "SapphireRapids"}) {
    if (is_core(core, wide)) return "avx512";
  }
  for (const std::string_view middle : {"Haswell", "Zen", "Excavator"}) {
    if (is_core(core, middle)) return "avx2";
  }
  for (const std::string_view early : {"Sandybridge", "Bulldozer", "Piledriver", "Steamroller"}) {
    if (is_core(core, early)) return "avx";
  }
  return "sse";
}

int rank_of(std::string_view vectors) { return vectors == "avx512" ? 2 : vectors == "avx2" ? 1 : 0; }

/// OpenBLAS takes any core that it is told, and dies of its instructions where the processor lacks them.
bool runs_here(std::string_view core) {
  const std::string_view vectors = vectors_of_core(core);
  return vectors == "avx" ? processor().avx : rank_of(vectors) <= rank_of(widest_vectors());
}

template <class F>
bool find(void* handle, const char* name, F& slot) {
  slot = reinterpret_cast<F>(dlsym(handle, name));
  return slot != nullptr;
}

/// "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ..." cut to name and version.
std::string short_name(const std::string& config) {
  const std::size_t name_end = config.find(' ');
  if (name_end == std::string::npos) return "OpenBLAS";
  return config.substr(0, config.find(' ', name_end + 1));
}

Library open_library() {
  Library lib;
  lib.info.widest = widest_vectors();
  const std::array names{"libopenblas.so.0", "libopenblas.so"};
  void* handle = nullptr;
  for (const char* name : names) {
    if (handle == nullptr) handle = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  }
  const bool was_loaded = handle != nullptr;
  const char* asked = std::getenv(core_variable);
  const bool users_wish = asked != nullptr && *asked != '\0' && !portable_floats();
  const bool users_choice = users_wish && runs_here(asked);
  const char* fitting = fitting_core();
  const auto open = [&] {
    for (const char* name : names) {
      if (handle == nullptr) handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
  };
  if (!was_loaded) {
    const ScopedVariable one_thread(threads_variable, "1");  // or it starts a pool of its own while loading
    if (users_choice || (!users_wish && fitting == nullptr)) {
      open();
    } else {
      const ScopedVariable core(core_variable, fitting);
      open();
    }
  }
  if (handle == nullptr) return lib;

  const char* (*get_core)() = nullptr;
  const char* (*get_config)() = nullptr;
  void (*set_threads)(int) = nullptr;
  const bool complete = find(handle, "cblas_sgemm", lib.sgemm) && find(handle, "cblas_dgemm", lib.dgemm) &&
                        find(handle, "cblas_sgemv", lib.sgemv) && find(handle, "cblas_dgemv", lib.dgemv) &&
                        find(handle, "openblas_get_corename", get_core) &&
                        find(handle, "openblas_get_config", get_config) &&
                        find(handle, "openblas_set_num_threads", set_threads);
  if (!complete) {
    Library none;
    none.info.widest = lib.info.widest;
    return none;
  }
  set_threads(1);
  lib.info.library = short_name(get_config());
  lib.info.core = get_core();
  if (was_loaded) {
    lib.info.chosen_by = "OpenBLAS";
  } else if (users_choice) {
    lib.info.chosen_by = std::string("environment (") + core_variable + ")";
  } else if (users_wish) {
    lib.info.chosen_by = std::string("qtool, as this processor cannot run ") + core_variable + "=" + asked;
  } else {
    const bool taken = fitting != nullptr && lib.info.core == fitting;
    lib.info.chosen_by = !taken ? "OpenBLAS" : portable_floats() ? chosen_portable : "qtool";
  }
  lib.info.narrow = !portable_floats() && rank_of(vectors_of_core(lib.info.core)) < rank_of(lib.info.widest);
  return lib;
}

}  // namespace

const char* widest_vectors() { return processor().avx512 ? "avx512" : processor().avx2 ? "avx2" : "sse"; }

const Library& library() {
  static const Library opened = open_library();
  return opened;
}

}  // namespace qtool::openblas
