// SPDX-License-Identifier: Apache-2.0
// Samples: what a source of data holds, before it is bound to a model and cut into runs. One file per kind makes
// one of these; calib/data.cpp does the rest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "calib/data.h"
#include "formats/base/hash.h"
#include "formats/base/threads.h"
#include "formats/ir/graph.h"
#include "formats/ir/tensor.h"

namespace qtool {

/// A model input that wants data.
struct Wanted {
  ValueId id = ValueId::none;
  std::string name;
  Type type;
};

/// Sample i of a name is a tensor without sample axis. Const members are thread-safe.
class Samples {
 public:
  virtual ~Samples() = default;
  virtual std::int64_t count() const = 0;
  /// Names that have data.
  virtual std::vector<std::string> names() const = 0;
  /// Type of the samples of `name`; the shape of one, with -1 where samples differ.
  virtual Type type(const std::string& name) const = 0;
  virtual Tensor sample(const std::string& name, std::int64_t i) const = 0;
  /// True when a sample is always a whole model input, with batch axis (ONNX test data).
  virtual bool whole() const { return false; }
  /// Class of sample i; empty when there are no labels.
  virtual Tensor label(std::int64_t) const { return {}; }
  /// True when sample i starts a sequence (only asked where state is carried).
  virtual bool restarts(std::int64_t i) const { return i == 0; }
  /// SHA-256 of each sample over names, types and contents, labels apart.
  std::vector<Digest> digests(std::int64_t begin, std::int64_t end, Threads&) const;
  virtual bool synthetic() const { return false; }
};

/// `t` as elements of type `wanted`, where that loses nothing: integers and booleans whose values fit, f16 and bf16
/// to float32, double to float32 (rounded; finite numbers must stay finite) and float32 to half inputs (rounded).
/// Anything else, integers to float before all, is an Error(Code::calibration) that says what to do.
Tensor as_input(const Tensor& t, DType wanted, const std::string& name);

/// Arrays by name whose first axis counts samples; `fixed`: tensors without one, the same in each run.
class ArraySamples final : public Samples {
 public:
  struct Array {
    std::string name;
    Tensor data;
    bool fixed = false;
  };
  /// `sequence` > 0: every `sequence` samples start anew. Error(Code::calibration) when counts differ.
  ArraySamples(std::vector<Array> arrays, Tensor labels, std::int64_t sequence, const std::string& source);
  std::int64_t count() const override { return count_; }
  std::vector<std::string> names() const override;
  Type type(const std::string& name) const override;
  Tensor sample(const std::string& name, std::int64_t i) const override;
  Tensor label(std::int64_t i) const override;
  bool restarts(std::int64_t i) const override { return sequence_ > 0 ? i % sequence_ == 0 : i == 0; }
  bool fixed(const std::string& name) const { return find(name).fixed; }

 private:
  const Array& find(const std::string& name) const;
  std::vector<Array> arrays_;
  Tensor labels_;
  std::int64_t count_ = 0, sequence_ = 0;
};

/// Samples of their own shapes, each a tensor per name.
class ListSamples : public Samples {
 public:
  using Row = std::map<std::string, Tensor>;
  ListSamples(std::vector<Row> rows, bool whole) : rows_(std::move(rows)), whole_(whole) {}
  std::int64_t count() const override { return static_cast<std::int64_t>(rows_.size()); }
  std::vector<std::string> names() const override;
  Type type(const std::string& name) const override;
  Tensor sample(const std::string& name, std::int64_t i) const override;
  bool whole() const override { return whole_; }

 private:
  std::vector<Row> rows_;
  bool whole_;
};

// One per kind. `wanted`: the model inputs, for names, types and extents. Error(Code::calibration).

std::unique_ptr<Samples> open_arrays(const std::filesystem::path&, const std::string& kind,
                                     const std::vector<Wanted>& wanted, const DataOptions&);
std::unique_ptr<Samples> open_test_data(const std::filesystem::path&, const std::vector<Wanted>& wanted);
std::unique_ptr<Samples> open_images(const std::filesystem::path&, const std::vector<Wanted>& wanted,
                                     const DataOptions&);
std::unique_ptr<Samples> open_jsonl(const std::filesystem::path&, const std::vector<Wanted>& wanted);
std::unique_ptr<Samples> make_random(const std::vector<Wanted>& wanted, const DataOptions&);

/// Files of a folder and its direct sub-folders are taken in byte order of their names.
bool is_image_file(const std::filesystem::path&);

}  // namespace qtool
