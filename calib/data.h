// SPDX-License-Identifier: Apache-2.0
// Batches: calibration and evaluation data as the recipe asks. npz/npy, ONNX test_data_set folders, safetensors,
// image folders, JSONL of token ids, synthetic (only when asked for by name). One file per kind in data/.
//
// Arrays (npz, npy, safetensors) are named after the model input they feed; the first axis counts samples.
//   rank of the input            a sample is a row: rows are cut into the model's batch
//   one more than the input's    a sample is one whole input, batch axis included
//   rank 0, or exactly the input's extents beside arrays of more samples: the same in each run
//   with `state`, one more than the input's: sequences x steps; a sequence starts again from the initial state
// A batch that the model fixes must divide the number of samples. Where it is free, rows are cut by `batch`; else by
// the largest power of two up to 8 that keeps the largest value of a run within 4 MiB. Sums over data go sample by
// sample where that is cheap, but products of another batch may round differently: the batch is part of the digest.
// Symbolic extents (and extents declared as 0, which some exporters write) are bound by the data; the same symbol must
// get the same extent in one run. Inputs with a default (constants) take no data.
// Types must match, except where nothing is lost: see as_input() in data/samples.h.
// JSONL: {"<input>": [...]} per line, or a bare list for the only input or input_ids. attention_mask, position_ids and
// token_type_ids that a line leaves out follow from input_ids: ones, 0 1 2 ..., zeros.
// Random: normal numbers, integers 0 and 1; free extents become 1 (batch), 64 (sides of pictures) or 8.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "calib/executor.h"
#include "formats/base/hash.h"
#include "formats/ir/graph.h"

namespace qtool {

/// How images become tensors; part of the recipe (data.image).
struct ImageOptions {
  std::int64_t resize = 0;                       // shorter side, bilinear; 0: none
  std::int64_t crop_height = 0, crop_width = 0;  // centre crop; 0: the model's extent
  std::vector<double> mean, std_dev;             // per channel, applied after dividing by `scale`
  double scale = 255;
  std::string layout = "nchw";  // or "nhwc"
  std::string color = "rgb";    // or "bgr", "gray"
};

/// What the recipe says about data (recipe `data:` and `--calib`, `--eval`).
struct DataOptions {
  std::string path;          // file or folder, or "random"; empty: none
  std::string kind;          // "npz", "npy", "test_data_set", "safetensors", "images", "jsonl", "random";
                             // empty: by what the path is
  std::int64_t samples = 0;  // 0: all that there are; more than there are is an error
  std::int64_t skip = 0;     // leave out the first ones
  std::int64_t batch = 0;    // rows per run where the model's batch is free; 0: chosen
  ImageOptions image;
  std::map<std::string, std::string> state;  // output -> input carried over a sequence of samples, from zeros or
                                             // from an array of the input's name; runs then take one sample each
  std::string labels;                        // name of an array with class labels; empty: "labels" if there is one
  std::uint64_t seed = 0;                    // kind "random" only
};

/// Data bound to a graph: names, types and shapes checked, symbolic extents bound, cut into the model's batch.
class Dataset {
 public:
  virtual ~Dataset() = default;
  /// Runs of the model that the data make.
  virtual std::int64_t batches() const = 0;
  /// Samples in all batches.
  virtual std::int64_t samples() const = 0;
  /// Samples in batch i.
  virtual std::int64_t samples_in(std::int64_t) const { return 1; }
  /// Feeds of batch i, initial states included. Thread-safe.
  virtual Feeds feeds(std::int64_t i) const = 0;
  /// Class labels of batch i (i64): one per sample, or with further axes, such as one per position; empty tensor when
  /// there are none.
  virtual Tensor labels(std::int64_t i) const;
  /// output -> input that a run hands to the next (step graphs); empty: runs are independent. A sequence starts
  /// again (from zeros) where restarts(i) is true.
  virtual const std::map<ValueId, ValueId>& state() const;
  virtual bool restarts(std::int64_t i) const;
  /// SHA-256 (hex) over the SHA-256 of every sample and the cut into runs, for the manifest. Labels do not count.
  virtual std::string digest(Threads&) const = 0;
  /// The SHA-256 of every sample over names, types and contents, to find equal ones in two data sets; empty where that
  /// means nothing. Samples are looked at once, whoever asks first.
  virtual std::vector<Digest> sample_digests(Threads&) const { return {}; }
  /// True for random data: the artefact must say so.
  virtual bool synthetic() const { return false; }
};

/// Error(Code::calibration) in one sentence for wrong names, types, shapes, too few samples or an empty set.
std::unique_ptr<Dataset> open_dataset(const Graph&, const DataOptions&);

}  // namespace qtool
