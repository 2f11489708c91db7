// SPDX-License-Identifier: Apache-2.0
// Quantizes a model through libqtool, showing progress, and prints the sizes.
//
//   find_package(qtool REQUIRED)
//   add_executable(library library.cpp)
//   target_link_libraries(library PRIVATE qtool::qtool)
//
//   ./library MODEL RECIPE CALIBRATION_DATA OUTPUT
#include <qtool.h>

#include <cinttypes>
#include <cstdio>
#include <memory>

namespace {

template <auto free>
struct Free {
  template <class T>
  void operator()(T* object) const {
    free(object);
  }
};
using Model = std::unique_ptr<qtool_model, Free<qtool_close>>;
using Result = std::unique_ptr<qtool_result, Free<qtool_result_free>>;
using Failure = std::unique_ptr<qtool_error, Free<qtool_error_free>>;

/// Prints the error; its code is the exit code, as in the program.
int report(qtool_error* raw) {
  const Failure error(raw);
  std::fprintf(stderr, "%s\n", qtool_error_text(error.get()));
  if (*qtool_error_hint(error.get())) std::fprintf(stderr, "hint: %s\n", qtool_error_hint(error.get()));
  return qtool_error_code(error.get());
}

int show(void* calls, const char* what, std::int64_t done, std::int64_t total) {
  ++*static_cast<int*>(calls);
  if (done == total) std::printf("%s: %" PRId64 " of %" PRId64 "\n", what, done, total);
  return 0;  // anything else would stop the job
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s MODEL RECIPE CALIBRATION_DATA OUTPUT\n", argv[0]);
    return QTOOL_USAGE;
  }
  std::printf("libqtool %s\n", qtool_version());
  qtool_error* error = nullptr;
  const Model model(qtool_open(argv[1], &error));
  if (!model) return report(error);
  for (std::size_t i = 0; i < qtool_model_input_count(model.get()); ++i)
    std::printf("input: %s\n", qtool_model_input(model.get(), i));

  qtool_options options = QTOOL_OPTIONS_INIT;
  options.calib = argv[3];
  options.output = argv[4];
  int calls = 0;
  const Result result(qtool_quantize(model.get(), argv[2], &options, show, &calls, &error));
  if (!result) return report(error);
  std::printf("progress calls: %d\n", calls);
  std::printf("%s: %" PRIu64 " -> %" PRIu64 " bytes, SQNR %.1f dB\n", qtool_result_output(result.get()),
              qtool_result_input_bytes(result.get()), qtool_result_output_bytes(result.get()),
              qtool_result_sqnr_db(result.get()));
  return 0;
}
