// SPDX-License-Identifier: Apache-2.0
// Lock: what was decided about every tensor of a quantized model, and the folds that led there, written beside it as
// OUT.lock (JSON, schema qtool.lock/1, one row a line). It holds nothing that depends on evaluation data, threads,
// paths or time. The model file carries the SHA-256 of the lock's bytes.
//
// Hashes are SHA-256 in hexadecimal digits. Of tensors: of their elements in row-major order, little-endian, in their
// own type. Of codes: one byte per element (int8 or uint8; two for formats of 16 bits), in the shape of the tensor as
// the graph has it, before an emitter shifts, transposes or packs them. Biases have no codes here: those follow from
// the float tensor, as c / (s_x s_w) rounded to int32, with the scales of inputs 0 and 1. Where an emitter must enlarge
// a weight's scale so that the bias fits, the written codes are others than these.
//
//   steps      what ran, in order, with every knob
//   folds      what the steps changed in the float graph, in order, so that it can be done again; see below
//   constants  float tensors that a step made or changed
//   uses       a value as an input of a node is represented; what has no row stays as the float graph has it
//   layers     the error of what nodes put out, measured on the calibration data: with all that comes before them
//              quantized. What the codes of one weight alone do is told with its use, as output_db
//   floats     nodes that stay float, and why
//
// Folds, after "step" and "pass". Nodes go by their name, or that of their first output where they have none. W is the
// weight (input 1) of a product, c its bias: input 2, or of a MatMul the constant of the Add behind it. Numbers are
// f64, see exact_numbers(); each fold is computed in f64 and rounded once to the type of W.
//   fold_batch_norm  {node, op, into, side}: the affine step per channel y = a x + b of `node` went into product
//                    `into`. side outputs: it followed, W'[o] = a[o] W[o], c'[o] = a[o] c[o] + b[o]; side inputs: it
//                    preceded, W'[:, i] = a[i] W[:, i], c' = c + W b (through a Flatten every channel counts as often
//                    as it has positions).
//   equalize_layers  {node, outputs, inputs}: W'[o, i] = outputs[o] W[o, i] inputs[i], c'[o] = outputs[o] c[o]
//   bias_correct     {node, shift}: c'[o] = c[o] + shift[o]
//   fold_constants   {node, branch, renamed}: the If `node` gave way to its then_branch or else_branch; values
//                    of it have other names in the graph, [from, to]. What it computes stands among the constants,
//                    under the names that node outputs have in the model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/json.h"
#include "formats/ir/quant.h"

namespace qtool {

struct LockedStep {
  std::string id, pass;
  int revision = 0;
  std::string knobs;  // "rounds=20 tolerance=0.001": all of them, defaults too
};

struct LockedConstant {
  std::string step, name, was, is;  // hashes; was empty: new
};

/// Scales and the like: the numbers themselves where they are few, else only what tells them from others.
struct LockedNumbers {
  std::int64_t count = 0;  // 0: none
  std::vector<double> values;
  std::string sha256;  // where `values` are left out
  static constexpr std::int64_t most_values = 8;
};

/// Indices [begin, end) along an axis of a value that are decided otherwise than the rest.
struct LockedRange {
  std::int64_t begin = 0, end = 0;
  std::string format;  // empty: they stay float
  LockedNumbers scale, zero_point;
  std::string codes_sha256;  // constants only, of that part alone
};

struct LockedUse {
  std::string node;    // empty: an output of the graph, the one at `input`
  int input = 0;       // -1 - i: the i-th value that bodies of the node capture
  std::string tensor;  // name of the value
  std::string format, scale_format, alternative;
  Grain grain;
  bool symmetric = true, narrow = false, dynamic = false, is_bias = false;
  LockedNumbers scale, second_scale, scale_mean, zero_point, minimum;
  int range_axis = 0;
  std::vector<LockedRange> ranges;  // ascending and apart; codes and numbers above are with zeros in their place
  std::vector<std::string> steps;   // that decided it, in order; the last one had the last word
  bool fed_back = false;            // codes make up for the errors of others: not the nearest ones by themselves
  int rule = 0;                     // of the recipe, counted from 1; 0: the step's own knobs
  // Constants only:
  Shape shape;
  std::string dtype, float_sha256, codes_sha256;
  std::optional<double> sqnr_db;  // of codes against the float tensor; empty: exact
  // The error that these codes alone make in what their product puts out, empty: none, or not measured.
  // 10 log10(|X W|^2 / |X (W - W^)|^2) over up to 8 rows X of what enters the product in the float model, evenly
  // spread over the first batch of the calibration data, and as folds changed it. Every s-th output channel counts,
  // with s the least that leaves at most 2^18 weights. Of Conv, Gemm and MatMul.
  std::optional<double> output_db;
};

struct LockedLayer {
  std::string node, output;
  double sqnr_db = 0;  // of the whole quantized model up to there, against the float reading of the decided graph
};

struct LockedFloat {
  std::string node, pass, why;
};

struct Lock {
  std::string qtool, model_sha256, recipe_sha256, calibration_sha256;  // the last: empty without data
  std::string outputs_sha256;  // of the data that output_db was measured on; empty: it was not
  std::string target;
  std::uint64_t seed = 0;
  std::vector<LockedStep> steps;
  std::vector<Json> folds;  // objects, each with "step" and "pass"
  std::vector<LockedConstant> constants;
  std::vector<LockedUse> uses;
  std::vector<LockedLayer> layers;
  std::vector<LockedFloat> floats;

  /// The file's bytes.
  std::string text() const;
};

/// Error(Code::input) for anything that is no lock of this schema. `source` names it in messages.
Lock parse_lock(std::string_view text, std::string_view source);
Lock read_lock(const std::filesystem::path&);

/// A row of `uses` as the file has it.
Json json_of(const LockedUse&);

/// Doubles without loss: 16 hexadecimal digits each, the bit pattern, most significant digit first.
std::string exact_text(std::span<const double>);
/// Error(Code::input) for text that exact_text() does not write.
std::vector<double> exact_numbers(std::string_view);

}  // namespace qtool
