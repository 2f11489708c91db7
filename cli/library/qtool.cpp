// SPDX-License-Identifier: Apache-2.0
// A thin skin over cli/job.h: translates strings, exceptions and progress, and decides nothing.
#include "cli/library/qtool.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <filesystem>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "cli/job.h"
#include "formats/base/error.h"
#include "formats/file/reader.h"

struct qtool_model {
  std::filesystem::path path;  // absolute: a later change of folder does no harm
  std::vector<std::string> inputs, outputs;
};

struct qtool_result {
  std::string output, report;
  std::uint64_t input_bytes = 0, output_bytes = 0;
  double sqnr_db = std::numeric_limits<double>::quiet_NaN();
};

struct qtool_error {
  qtool_code code = QTOOL_INTERNAL;
  std::string text, hint;
};

namespace qtool {
namespace {

static_assert(QTOOL_USAGE == static_cast<int>(Code::usage) && QTOOL_GATE == static_cast<int>(Code::gate));
static_assert(QTOOL_NO_FIT == static_cast<int>(Code::no_fit) && QTOOL_INPUT == static_cast<int>(Code::input));
static_assert(QTOOL_BUDGET == static_cast<int>(Code::budget) && QTOOL_INTERNAL == static_cast<int>(Code::internal));
static_assert(QTOOL_CALIBRATION == static_cast<int>(Code::calibration));
static_assert(QTOOL_VERIFICATION == static_cast<int>(Code::verification));
static_assert(QTOOL_INTERRUPTED == static_cast<int>(Code::interrupted));

/// Handed out when there is no memory left to describe that there is none; never freed.
qtool_error& out_of_memory() {
  static qtool_error error{QTOOL_NO_FIT, "out of memory", ""};
  return error;
}

void store(qtool_error** slot, Code code, const char* text, const std::string& hint) {
  if (slot) *slot = new qtool_error{static_cast<qtool_code>(code), text, hint};
}

/// Runs `body`, which returns an owned pointer; an exception becomes an error in `slot` and a null pointer.
template <class Body>
auto guarded(qtool_error** slot, const Body& body) noexcept -> decltype(body().release()) {
  if (slot) *slot = nullptr;
  try {
    try {
      return body().release();
    } catch (const Error& e) {
      store(slot, e.code(), e.what(), e.hint());
    } catch (const std::bad_alloc&) {
      store(slot, Code::no_fit, "out of memory", "use fewer threads or a smaller batch");
    } catch (const std::exception& e) {
      store(slot, Code::internal, e.what(), "this is a bug in qtool; please report it with the model and the recipe");
    }
  } catch (const std::bad_alloc&) {
    if (slot) *slot = &out_of_memory();
  }
  return nullptr;
}

std::string text_or_empty(const char* text) { return text ? text : ""; }

void need(const void* argument, const char* name) {
  if (!argument) throw Error(Code::usage, std::string(name) + " is NULL", "pass a valid pointer");
}

/// The caller's options with the fields it does not know set to zero.
qtool_options known_options(const qtool_options* given) {
  qtool_options options = QTOOL_OPTIONS_INIT;
  if (!given) return options;
  if (given->size < sizeof given->size)
    throw Error(Code::usage, "qtool_options.size is not set", "start from QTOOL_OPTIONS_INIT");
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  if (std::any_of(bytes + std::min(given->size, sizeof options), bytes + given->size, [](auto b) { return b != 0; }))
    throw Error(Code::usage, "qtool_options has fields that this library does not know", "update libqtool");
  std::memcpy(&options, given, std::min(given->size, sizeof options));
  return options;
}

JobRequest request_of(const qtool_model& model, const char* recipe, const qtool_options& options) {
  JobRequest request;
  request.model = model.path;
  request.recipe = recipe;
  request.output = text_or_empty(options.output);
  request.calib = text_or_empty(options.calib);
  request.eval = text_or_empty(options.eval);
  request.target = text_or_empty(options.target);
  if (options.set_count > 0) need(options.set, "qtool_options.set");
  for (std::size_t i = 0; i < options.set_count; ++i) {
    need(options.set[i], "an entry of qtool_options.set");
    request.set.emplace_back(options.set[i]);
  }
  request.threads = options.threads;
  request.seed = options.seed;
  request.no_clobber = options.no_clobber != 0;
  return request;
}

double worst_sqnr_db(const Comparison& comparison) {
  double worst = std::numeric_limits<double>::infinity();
  for (const OutputReport& output : comparison.outputs) worst = std::min(worst, output.error.sqnr_db());
  return comparison.outputs.empty() ? std::numeric_limits<double>::quiet_NaN() : worst;
}

std::unique_ptr<qtool_model> open_model(const char* path) {
  need(path, "path");
  auto model = std::make_unique<qtool_model>();
  model->path = std::filesystem::absolute(path);
  const Graph graph = read_model(path);
  for (const ValueId id : graph.inputs) model->inputs.push_back(graph[id].name);
  for (const Use& use : graph.outputs) model->outputs.push_back(graph[use.value].name);
  return model;
}

std::unique_ptr<qtool_result> quantize_model(const qtool_model* model, const char* recipe, const qtool_options* given,
                                             qtool_progress progress, void* user) {
  need(model, "model");
  need(recipe, "recipe");
  JobRequest request = request_of(*model, recipe, known_options(given));
  std::stop_source stop;
  request.stop = stop.get_token();
  std::mutex one_at_a_time;
  Journal journal({}, [&](const Progress& p) {
    if (!progress) return;
    const std::lock_guard lock(one_at_a_time);
    if (stop.stop_requested()) return;
    if (progress(user, std::string(p.what).c_str(), p.done, p.total) != 0) stop.request_stop();
  });
  const JobResult done = run_job(request, journal);
  auto result = std::make_unique<qtool_result>();
  result->output = done.output.string();
  result->report = done.report.dump(2);
  result->input_bytes = done.input_bytes;
  result->output_bytes = done.output_bytes;
  if (done.comparison) result->sqnr_db = worst_sqnr_db(*done.comparison);
  return result;
}

const char* name_at(const std::vector<std::string>& names, std::size_t index) {
  return index < names.size() ? names[index].c_str() : nullptr;
}

}  // namespace
}  // namespace qtool

extern "C" {

const char* qtool_version(void) { return QTOOL_VERSION; }

qtool_model* qtool_open(const char* path, qtool_error** error) {
  return qtool::guarded(error, [&] { return qtool::open_model(path); });
}
void qtool_close(qtool_model* model) { delete model; }

size_t qtool_model_input_count(const qtool_model* model) { return model->inputs.size(); }
const char* qtool_model_input(const qtool_model* model, size_t index) { return qtool::name_at(model->inputs, index); }
size_t qtool_model_output_count(const qtool_model* model) { return model->outputs.size(); }
const char* qtool_model_output(const qtool_model* model, size_t index) { return qtool::name_at(model->outputs, index); }

qtool_result* qtool_quantize(const qtool_model* model, const char* recipe, const qtool_options* options,
                             qtool_progress progress, void* user, qtool_error** error) {
  return qtool::guarded(error, [&] { return qtool::quantize_model(model, recipe, options, progress, user); });
}
void qtool_result_free(qtool_result* result) { delete result; }

const char* qtool_result_output(const qtool_result* result) { return result->output.c_str(); }
uint64_t qtool_result_input_bytes(const qtool_result* result) { return result->input_bytes; }
uint64_t qtool_result_output_bytes(const qtool_result* result) { return result->output_bytes; }
double qtool_result_sqnr_db(const qtool_result* result) { return result->sqnr_db; }
const char* qtool_result_report(const qtool_result* result) { return result->report.c_str(); }

qtool_code qtool_error_code(const qtool_error* error) { return error ? error->code : QTOOL_OK; }
const char* qtool_error_text(const qtool_error* error) { return error ? error->text.c_str() : ""; }
const char* qtool_error_hint(const qtool_error* error) { return error ? error->hint.c_str() : ""; }
void qtool_error_free(qtool_error* error) {
  if (error != &qtool::out_of_memory()) delete error;
}

}  // extern "C"
