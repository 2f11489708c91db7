/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libqtool: the quantize job of the qtool program as a C library. It prints nothing, never exits, and installs no
 * signal handlers.
 *
 *   qtool_error* error = NULL;
 *   qtool_model* model = qtool_open("model.onnx", &error);
 *   qtool_options options = QTOOL_OPTIONS_INIT;
 *   options.calib = "samples.npz";
 *   qtool_result* result = model ? qtool_quantize(model, "int8_static", &options, NULL, NULL, &error) : NULL;
 *   if (!result) fprintf(stderr, "%s\n%s\n", qtool_error_text(error), qtool_error_hint(error));
 *   qtool_result_free(result);
 *   qtool_close(model);
 *   qtool_error_free(error);
 *
 * Errors: a function that can fail takes a qtool_error** last, which may be NULL. On failure it returns NULL and, if
 * the pointer is given, stores an error there that the caller frees with qtool_error_free. On success it stores NULL.
 * An error of an earlier call is not freed by the next one.
 *
 * Ownership: what qtool_open and qtool_quantize return belongs to the caller until qtool_close and
 * qtool_result_free. Strings returned by accessors belong to the object that was asked and live as long as it does.
 * Strings passed in are copied. Every free function accepts NULL.
 *
 * Threads: different objects may be used by different threads at once. One model may be quantized by several threads
 * at once if their output paths differ; accessors are safe to call from any thread.
 *
 * All strings are UTF-8 and end with a zero byte. Fields may be added at the end of qtool_options only; its `size`
 * tells the library which ones the caller knows.
 */
#ifndef QTOOL_H
#define QTOOL_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define QTOOL_API __attribute__((visibility("default")))
#else
#define QTOOL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qtool_model qtool_model;
typedef struct qtool_result qtool_result;
typedef struct qtool_error qtool_error;

/* What went wrong: the numbers are also the exit codes of the program (docs/exit-codes). */
typedef enum qtool_code {
  QTOOL_OK = 0,
  QTOOL_INTERNAL = 1,     /* a bug in qtool */
  QTOOL_USAGE = 2,        /* a wrong argument or recipe */
  QTOOL_GATE = 3,         /* the quantized model missed a limit that the recipe set */
  QTOOL_NO_FIT = 4,       /* memory or disk */
  QTOOL_INPUT = 5,        /* a broken model file, or one that cannot be carried */
  QTOOL_BUDGET = 6,       /* a budget that no choice can meet */
  QTOOL_CALIBRATION = 7,  /* data that do not fit the model */
  QTOOL_VERIFICATION = 8, /* the written file failed its own check */
  QTOOL_INTERRUPTED = 75  /* stopped by the progress callback */
} qtool_code;

/* "0.1.0": the version of the library that is loaded. Never freed. */
QTOOL_API const char* qtool_version(void);

/* ---- models ---------------------------------------------------------------------------------------------------- */

/* Reads and checks a model file. The file is read again by each qtool_quantize and must stay as it is until then. */
QTOOL_API qtool_model* qtool_open(const char* path, qtool_error** error);
QTOOL_API void qtool_close(qtool_model* model);

/* Names of the inputs (calibration arrays are named after them) and outputs; NULL when `index` is past the end. */
QTOOL_API size_t qtool_model_input_count(const qtool_model* model);
QTOOL_API const char* qtool_model_input(const qtool_model* model, size_t index);
QTOOL_API size_t qtool_model_output_count(const qtool_model* model);
QTOOL_API const char* qtool_model_output(const qtool_model* model, size_t index);

/* ---- quantizing ------------------------------------------------------------------------------------------------ */

/* What the command line of `qtool quantize` offers. A NULL or zero field means what the recipe says. */
typedef struct qtool_options {
  size_t size;            /* sizeof(qtool_options) of the caller; QTOOL_OPTIONS_INIT sets it */
  const char* output;     /* file to write; NULL: named after model and recipe, in the current folder */
  const char* calib;      /* calibration data: file or folder */
  const char* eval;       /* held-out data that the gate measures on: file or folder */
  const char* target;     /* name of the runtime to quantize for */
  const char* const* set; /* set_count strings "step.knob=value" that override the recipe */
  size_t set_count;
  uint64_t seed;
  int32_t threads;    /* 0: as many as the process may use; the written bytes do not depend on it */
  int32_t no_clobber; /* not 0: an output file that exists is an error */
} qtool_options;

/* clang-format off */
#define QTOOL_OPTIONS_INIT { sizeof(qtool_options), NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0 }
/* clang-format on */

/*
 * Called as work proceeds: `done` of `total` units of `what` (total 0: unknown). Return 0 to go on, anything else to
 * stop: qtool_quantize then fails with QTOOL_INTERRUPTED after the current unit. Calls come one at a time, not
 * necessarily on the thread that called qtool_quantize. It must not throw or call qtool_close on the model.
 */
typedef int (*qtool_progress)(void* user, const char* what, int64_t done, int64_t total);

/*
 * Quantizes the model by a recipe (the name of a shipped one, or the path of a YAML file) and writes the result.
 * `options` may be NULL, so may `progress`; `user` is handed to `progress`. On any error nothing is written and an
 * older output file is left as it was.
 */
QTOOL_API qtool_result* qtool_quantize(const qtool_model* model, const char* recipe, const qtool_options* options,
                                       qtool_progress progress, void* user, qtool_error** error);
QTOOL_API void qtool_result_free(qtool_result* result);

/* The file that was written. */
QTOOL_API const char* qtool_result_output(const qtool_result* result);
/* Bytes of the model read and of the model written, external weight files included. */
QTOOL_API uint64_t qtool_result_input_bytes(const qtool_result* result);
QTOOL_API uint64_t qtool_result_output_bytes(const qtool_result* result);
/*
 * Signal to quantization noise of the worst output in dB, against the model as read; infinite when equal, NaN when
 * nothing was compared.
 */
QTOOL_API double qtool_result_sqnr_db(const qtool_result* result);
/* What `qtool quantize --json` reports: one JSON object with sizes, comparison, decisions, skips and remarks. */
QTOOL_API const char* qtool_result_report(const qtool_result* result);

/* ---- errors ---------------------------------------------------------------------------------------------------- */

/* NULL counts as no error: QTOOL_OK and empty strings. */
QTOOL_API qtool_code qtool_error_code(const qtool_error* error);
/* One sentence: what and where. */
QTOOL_API const char* qtool_error_text(const qtool_error* error);
/* What to do about it; may be empty. */
QTOOL_API const char* qtool_error_hint(const qtool_error* error);
QTOOL_API void qtool_error_free(qtool_error* error);

#ifdef __cplusplus
}
#endif

#endif
