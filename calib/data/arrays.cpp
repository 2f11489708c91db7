// SPDX-License-Identifier: Apache-2.0
// npz, npy and safetensors files, and random numbers: arrays whose first axis counts samples.
#include <algorithm>
#include <functional>
#include <set>

#include "calib/data/npz.h"
#include "calib/data/samples.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/rng.h"
#include "formats/file/npy.h"
#include "formats/file/safetensors.h"

namespace qtool {
namespace {

/// A file of arrays: what it holds, and how to get one.
struct Source {
  std::string path;
  std::vector<std::string> names;
  std::function<Tensor(const std::string&)> read;
  bool has(const std::string& name) const { return std::find(names.begin(), names.end(), name) != names.end(); }
  std::string listed() const {
    std::string out;
    for (std::size_t i = 0; i < names.size() && i < 8; ++i) out += (i > 0 ? ", " : "") + ("\"" + names[i] + "\"");
    return out.empty() ? "no arrays" : out + (names.size() > 8 ? ", ..." : "");
  }
};

Source open_source(const std::filesystem::path& path, const std::string& kind, const std::vector<Wanted>& wanted) {
  Source s;
  s.path = path.string();
  if (kind == "npz") {
    const auto file = std::make_shared<const NpzFile>(path);
    s.names = file->names();
    s.read = [file](const std::string& name) { return file->read(name); };
  } else if (kind == "safetensors") {
    const auto file = std::make_shared<const Safetensors>(path);
    for (const auto& e : file->entries()) s.names.push_back(e.name);
    s.read = [file](const std::string& name) { return file->read(name); };
  } else {
    if (wanted.size() != 1) {
      throw Error(Code::calibration,
                  s.path + ": one array cannot feed the " + std::to_string(wanted.size()) + " inputs of the model",
                  "store all inputs in one file: numpy.savez(path, <input name>=array, ...)");
    }
    const MappedFile file(path);
    Tensor array = read_npy(file.bytes(), s.path, file.owner());
    s.names = {wanted.front().name};
    s.read = [array](const std::string&) { return array; };
  }
  return s;
}

bool fits(const Shape& shape, const Shape& declared) {
  if (shape.size() != declared.size()) return false;
  for (std::size_t a = 0; a < shape.size(); ++a) {
    if (declared[a] > 0 && declared[a] != shape[a]) return false;
  }
  return true;
}

/// The first two axes as one.
Tensor joined(const Tensor& t) {
  Shape shape(t.shape().begin() + 1, t.shape().end());
  shape.front() *= t.shape().front();
  return t.reshaped(std::move(shape));
}

bool is_state(const DataOptions& options, const std::string& input) {
  return std::any_of(options.state.begin(), options.state.end(), [&](const auto& s) { return s.second == input; });
}

Tensor read_labels(const Source& source, const std::vector<Wanted>& wanted, const DataOptions& options) {
  const bool asked = !options.labels.empty();
  const std::string name = asked ? options.labels : "labels";
  const bool is_input = std::any_of(wanted.begin(), wanted.end(), [&](const Wanted& w) { return w.name == name; });
  if (!source.has(name)) {
    if (!asked) return {};
    throw Error(Code::calibration,
                source.path + ": no array \"" + name + "\" for the labels; the file has " + source.listed());
  }
  if (is_input && !asked) return {};
  const Tensor labels = source.read(name);
  if (!is_integer(labels.dtype())) {
    if (!asked) return {};
    throw Error(Code::calibration, source.path + ": the labels \"" + name + "\" are " +
                                       std::string(name_of(labels.dtype())) + ", class numbers are integers");
  }
  return as_input(labels, DType::i64, name);
}

}  // namespace

std::unique_ptr<Samples> open_arrays(const std::filesystem::path& path, const std::string& kind,
                                     const std::vector<Wanted>& wanted, const DataOptions& options) {
  std::vector<Wanted> needed;
  for (const Wanted& w : wanted) {
    if (!is_state(options, w.name)) needed.push_back(w);
  }
  const Source source = open_source(path, kind, needed);
  std::vector<ArraySamples::Array> arrays;
  Tensor labels = read_labels(source, wanted, options);
  std::int64_t sequence = 0, count = -1;
  for (const Wanted& w : wanted) {
    const bool state = is_state(options, w.name);
    if (!source.has(w.name)) {
      if (state) continue;  // starts from zeros
      throw Error(Code::calibration,
                  source.path + ": no array for the model's input \"" + w.name + "\"; the file has " + source.listed(),
                  "name each array after the input it feeds: numpy.savez(path, " + w.name + "=array)");
    }
    Tensor data = source.read(w.name);
    if (w.type.known_dtype) data = as_input(data, w.type.dtype, w.name);
    const auto rank = w.type.known_rank ? static_cast<std::int64_t>(w.type.shape.size()) : data.rank();
    bool fixed = state || data.rank() == 0;
    if (!fixed && !options.state.empty() && data.rank() == rank + 1) {
      // Sequences of steps, unless the entries are whole inputs of a fixed batch.
      const Shape one(data.shape().begin() + 1, data.shape().end());
      if (!(w.type.shape.front() > 0 && fits(one, w.type.shape))) {
        sequence = data.shape()[1];
        data = joined(data);
        if (labels.rank() >= 2) labels = joined(labels);
      }
    }
    arrays.push_back({w.name, std::move(data), fixed});
    if (!fixed) count = std::max(count, arrays.back().data.shape().front());
  }
  // One entry with exactly the input's shape beside arrays of more samples: the same in each run.
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    ArraySamples::Array& a = arrays[i];
    const auto w = std::find_if(wanted.begin(), wanted.end(), [&](const Wanted& x) { return x.name == a.name; });
    if (!a.fixed && w->type.known_rank && a.data.shape() == w->type.shape && a.data.shape().front() != count) {
      a.fixed = true;
    }
  }
  return std::make_unique<ArraySamples>(std::move(arrays), std::move(labels), sequence, source.path);
}

namespace {

/// Each sample is one whole input of every kind. A free extent that is somebody's first axis is taken for the batch: 1.
class RandomSamples final : public Samples {
 public:
  RandomSamples(const std::vector<Wanted>& wanted, const DataOptions& options)
      : count_(options.skip + (options.samples > 0 ? options.samples : 16)), seed_(options.seed) {
    std::set<std::string> batch_symbols;
    for (const Wanted& w : wanted) {
      if (!w.type.known_rank || !w.type.known_dtype) {
        throw Error(Code::calibration, "the type of input \"" + w.name + "\" is unknown; random data cannot be made");
      }
      if (!w.type.symbols.empty() && !w.type.symbols.front().empty()) batch_symbols.insert(w.type.symbols.front());
    }
    for (const Wanted& w : wanted) {
      if (is_state(options, w.name)) continue;
      Type t = w.type;
      for (std::size_t a = 0; a < t.shape.size(); ++a) {
        if (t.shape[a] > 0) continue;
        const bool batch = a == 0 || (a < t.symbols.size() && batch_symbols.count(t.symbols[a]) != 0);
        t.shape[a] = batch ? 1 : t.shape.size() == 4 ? free_side : free_length;
      }
      types_.emplace_back(w.name, std::move(t));
    }
  }
  std::int64_t count() const override { return count_; }
  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const auto& [name, type] : types_) out.push_back(name);
    return out;
  }
  Type type(const std::string& name) const override {
    return std::find_if(types_.begin(), types_.end(), [&](const auto& t) { return t.first == name; })->second;
  }
  Tensor sample(const std::string& name, std::int64_t i) const override {
    const Type t = type(name);
    const Rng rng(seed_, "random data", name);
    Tensor x(DType::f32, t.shape);
    const auto out = x.write<float>();
    const std::uint64_t base = static_cast<std::uint64_t>(i) * out.size();
    for (std::size_t k = 0; k < out.size(); ++k) {
      out[k] =
          is_float(t.dtype) ? static_cast<float>(rng.normal(base + k)) : static_cast<float>(rng.bits(base + k) & 1);
    }
    return from_f32(x, t.dtype);
  }
  bool whole() const override { return true; }
  bool synthetic() const override { return true; }

 private:
  static constexpr std::int64_t free_side = 64, free_length = 8;  // of pictures; of anything else
  std::int64_t count_;
  std::uint64_t seed_;
  std::vector<std::pair<std::string, Type>> types_;
};

}  // namespace

std::unique_ptr<Samples> make_random(const std::vector<Wanted>& wanted, const DataOptions& options) {
  return std::make_unique<RandomSamples>(wanted, options);
}

}  // namespace qtool
