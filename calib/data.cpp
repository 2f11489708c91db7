// SPDX-License-Identifier: Apache-2.0
// Binding samples to a model: which axis is the batch, how many rows a run takes, what shapes must agree.
#include "calib/data.h"

#include <algorithm>
#include <mutex>

#include "calib/data/samples.h"
#include "calib/op.h"
#include "formats/base/error.h"
#include "formats/base/hash.h"

namespace qtool {
namespace {

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

/// How one input gets its data.
struct Binding {
  Wanted input;
  bool whole = false;  // a sample is the whole input; else rows are stacked
  bool varies = false;
  Tensor constant;  // the same in each run: initial states
};

/// Samples of equal shape, stacked along a new first axis.
Tensor stack(const std::vector<Tensor>& rows, const std::string& name) {
  Shape shape = rows.front().shape();
  shape.insert(shape.begin(), static_cast<std::int64_t>(rows.size()));
  Tensor out(rows.front().dtype(), shape);
  const auto to = out.write_bytes();
  std::size_t at = 0;
  for (const Tensor& r : rows) {
    if (r.shape() != rows.front().shape()) {
      throw Error(Code::calibration,
                  "samples of \"" + name + "\" in one batch have the shapes " + to_string(rows.front().shape()) +
                      " and " + to_string(r.shape()),
                  "set data.batch to 1");
    }
    std::copy(r.bytes().begin(), r.bytes().end(), to.begin() + static_cast<std::ptrdiff_t>(at));
    at += r.size_bytes();
  }
  return out;
}

class BoundDataset final : public Dataset {
 public:
  BoundDataset(const Graph& graph, std::unique_ptr<Samples> samples, const std::vector<Wanted>& wanted,
               const DataOptions& options, std::string source)
      : samples_(std::move(samples)), source_(std::move(source)) {
    take_range(options);
    for (const Wanted& w : wanted) bind(w, options);
    for (const auto& [output, input] : options.state) carry(graph, output, input);
    choose_batch(graph, options);
    if (!state_.empty()) start_states();
    check_symbols();
  }

  std::int64_t batches() const override { return (count_ + batch_ - 1) / batch_; }
  std::int64_t samples() const override { return count_; }
  std::int64_t samples_in(std::int64_t i) const override { return std::min(batch_, count_ - i * batch_); }
  const std::map<ValueId, ValueId>& state() const override { return state_; }
  bool restarts(std::int64_t i) const override {
    return state_.empty() || i == 0 || samples_->restarts(begin_ + i * batch_);
  }
  bool synthetic() const override { return samples_->synthetic(); }

  Feeds feeds(std::int64_t i) const override {
    QTOOL_ENSURE(i >= 0 && i < batches(), "the batch exists");
    const std::int64_t from = begin_ + i * batch_, to = std::min(from + batch_, begin_ + count_);
    Feeds out;
    for (const Binding& b : bindings_) {
      if (!b.constant.empty()) {
        out[b.input.id] = b.constant;
        continue;
      }
      if (b.whole) {
        out[b.input.id] = samples_->sample(b.input.name, from);
        continue;
      }
      std::vector<Tensor> rows;
      for (std::int64_t s = from; s < to; ++s) rows.push_back(samples_->sample(b.input.name, s));
      out[b.input.id] = stack(rows, b.input.name);
    }
    return out;
  }

  Tensor labels(std::int64_t i) const override {
    const std::int64_t from = begin_ + i * batch_, to = std::min(from + batch_, begin_ + count_);
    std::vector<Tensor> rows;
    for (std::int64_t s = from; s < to; ++s) {
      rows.push_back(samples_->label(s));
      if (rows.back().empty()) return {};
    }
    return stack(rows, "labels");
  }

  std::string digest(Threads& threads) const override {
    Hasher hasher;
    hasher.number(batch_).number(count_);
    for (const Digest& d : sample_digests(threads)) hasher.digest(d);
    for (const Binding& b : bindings_) {
      if (b.constant.empty()) continue;
      hasher.text(b.input.name).bytes(b.constant.bytes());
    }
    for (std::int64_t i = 0; i < batches() && !state_.empty(); ++i) hasher.number(restarts(i));
    return hex(hasher.finish());
  }

  std::vector<Digest> sample_digests(Threads& threads) const override {
    const std::lock_guard lock(digesting_);
    if (digests_.empty()) digests_ = samples_->digests(begin_, begin_ + count_, threads);
    return digests_;
  }

 private:
  [[noreturn]] void refuse(const std::string& what, const std::string& hint = {}) const {
    throw Error(Code::calibration, source_ + ": " + what, hint);
  }

  void take_range(const DataOptions& options) {
    const std::int64_t there = samples_->count();
    if (there == 0) refuse("there is no sample in it");
    begin_ = std::max<std::int64_t>(0, options.skip);
    count_ = options.samples > 0 ? options.samples : there - begin_;
    if (count_ <= 0 || begin_ > there || count_ > there - begin_) {
      refuse("the recipe asks for " + (options.samples > 0 ? std::to_string(options.samples) : "the") + " samples" +
                 (begin_ > 0 ? " after the first " + std::to_string(begin_) : "") + ", there are " +
                 std::to_string(there) + " in all",
             "lower data.samples, or add data");
    }
  }

  void bind(const Wanted& w, const DataOptions& options) {
    const std::vector<std::string> names = samples_->names();
    const bool state =
        std::any_of(options.state.begin(), options.state.end(), [&](const auto& s) { return s.second == w.name; });
    Binding b;
    b.input = w;
    if (std::find(names.begin(), names.end(), w.name) == names.end()) {
      if (state) {
        bindings_.push_back(std::move(b));  // zeros, once the batch is known
        return;
      }
      refuse("there are no data for the model's input \"" + w.name + "\"");
    }
    const auto* arrays = dynamic_cast<const ArraySamples*>(samples_.get());
    const Type sample = samples_->type(w.name);
    if (w.type.known_dtype && w.type.dtype != sample.dtype) {
      refuse("the data for \"" + w.name + "\" are " + std::string(name_of(sample.dtype)) + ", the model's input is " +
             std::string(name_of(w.type.dtype)));
    }
    b.varies = std::find(sample.shape.begin(), sample.shape.end(), -1) != sample.shape.end();
    const bool fixed = state || (arrays != nullptr && arrays->fixed(w.name));
    if (fixed) {
      b.constant = samples_->sample(w.name, begin_);
      expect(w, b.constant.shape(), 0);
      bindings_.push_back(std::move(b));
      return;
    }
    const std::size_t rank = w.type.known_rank ? w.type.shape.size() : sample.shape.size() + 1;
    b.whole = samples_->whole() || sample.shape.size() == rank;
    if (sample.shape.size() + (b.whole ? 0 : 1) != rank) {
      refuse("a sample of \"" + w.name + "\" has the shape " + to_string(sample.shape) + ", the model's input " +
                 to_string(w.type.shape),
             "the first axis of an array counts samples; the others are the input's without its batch axis");
    }
    const std::size_t first = b.whole ? 0 : 1;
    expect(w, sample.shape, first);
    for (std::int64_t i = begin_; b.varies && !lazy() && i < begin_ + count_; ++i) {
      expect(w, samples_->sample(w.name, i).shape(), first);
    }
    bindings_.push_back(std::move(b));
  }

  /// Samples that are costly to look at one by one here (pictures); their shapes are checked as they come.
  bool lazy() const { return dynamic_cast<const ListSamples*>(samples_.get()) == nullptr; }

  /// `shape` holds the input's axes from `first` on.
  void expect(const Wanted& w, const Shape& shape, std::size_t first) const {
    if (!w.type.known_rank) return;
    bool good = shape.size() + first == w.type.shape.size();
    for (std::size_t a = 0; good && a < shape.size(); ++a) {
      const std::int64_t declared = w.type.shape[a + first];
      good = declared <= 0 || shape[a] < 0 || declared == shape[a];
    }
    if (!good) {
      refuse("a sample of \"" + w.name + "\" has the shape " + to_string(shape) + ", the model's input " +
             to_string(w.type.shape) + (first == 1 ? " with the batch in front" : ""));
    }
  }

  void carry(const Graph& graph, const std::string& output, const std::string& input) {
    const auto from = graph.find_value(output), to = graph.find_value(input);
    const auto bound =
        std::find_if(bindings_.begin(), bindings_.end(), [&](const Binding& b) { return to && b.input.id == *to; });
    if (!from) refuse("data.state names the output \"" + output + "\", which the model does not have");
    if (bound == bindings_.end()) refuse("data.state names the input \"" + input + "\", which the model does not have");
    state_[*from] = *to;
  }

  void choose_batch(const Graph& graph, const DataOptions& options) {
    std::int64_t fixed = 0;
    std::string owner;
    bool whole = false, varies = false;
    for (const Binding& b : bindings_) {
      if (!b.constant.empty() || is_state(b.input.id)) continue;
      whole = whole || b.whole;
      varies = varies || b.varies;
      const std::int64_t extent = b.whole || !b.input.type.known_rank ? 0 : b.input.type.shape.front();
      if (extent <= 0) continue;
      if (fixed > 0 && extent != fixed) {
        refuse("the inputs \"" + owner + "\" and \"" + b.input.name + "\" have batches of " + std::to_string(fixed) +
                   " and " + std::to_string(extent),
               "give each sample as a whole input: arrays with one axis more than the input");
      }
      fixed = extent;
      owner = b.input.name;
    }
    if ((whole || !state_.empty()) && fixed > 1) {
      refuse("runs take one sample each here, but the input \"" + owner + "\" has a batch of " + std::to_string(fixed),
             "give each sample of every input as a whole input");
    }
    if (whole || !state_.empty()) {
      batch_ = 1;
    } else if (fixed > 0) {
      batch_ = fixed;
      if (count_ % fixed != 0) {
        refuse(std::to_string(count_) + " samples do not fill batches of " + std::to_string(fixed) +
                   ", which the model's input \"" + owner + "\" fixes",
               "set data.samples to a multiple of " + std::to_string(fixed));
      }
    } else if (options.batch > 0) {
      batch_ = options.batch;
    } else {
      // More rows gain nothing: activations leave the caches, and memory grows with them.
      constexpr std::int64_t most_rows = 8;
      constexpr std::size_t most_bytes = std::size_t{4} << 20;
      const std::size_t bytes = varies ? 0 : largest_value(graph);
      while (!varies && batch_ < most_rows && index(2 * batch_) * bytes <= most_bytes) batch_ *= 2;
    }
    if (options.batch > 0 && options.batch != batch_) {
      refuse("data.batch is " + std::to_string(options.batch) + ", but a run takes " + std::to_string(batch_) +
             (fixed > 0 ? ", which the model's input \"" + owner + "\" fixes" : ""));
    }
  }

  /// Bytes of the largest value, inputs included, in a run on one row; of those whose extents can be told.
  std::size_t largest_value(const Graph& graph) const {
    Graph one = graph;
    for (const Binding& b : bindings_) {
      Type& type = one[b.input.id].type;
      if (!b.constant.empty() || !type.known_rank) continue;
      const Shape sample = samples_->type(b.input.name).shape;
      if (sample.size() + 1 != type.shape.size()) continue;
      type.shape.front() = 1;
      std::copy(sample.begin(), sample.end(), type.shape.begin() + 1);
      type.symbols.clear();
    }
    infer_types(one);
    std::size_t largest = 0;
    for (const ValueId v : one.values()) {
      const Type& type = one[v].type;
      const bool told = type.known_dtype && type.known_rank &&
                        std::all_of(type.shape.begin(), type.shape.end(), [](std::int64_t d) { return d >= 0; });
      if (told && !one.is_constant(v)) largest = std::max(largest, byte_size(type.dtype, element_count(type.shape)));
    }
    return largest;
  }

  bool is_state(ValueId id) const {
    return std::any_of(state_.begin(), state_.end(), [&](const auto& s) { return s.second == id; });
  }

  void start_states() {
    for (Binding& b : bindings_) {
      if (!b.constant.empty() || !is_state(b.input.id)) continue;
      Shape shape = b.input.type.shape;
      bool free = !b.input.type.known_rank || !b.input.type.known_dtype;
      for (std::size_t a = 0; a < shape.size(); ++a) {
        // A free extent that another input names too is that one's; the only other one that is clear is the batch.
        if (shape[a] >= 0) continue;
        const std::string symbol = a < b.input.type.symbols.size() ? b.input.type.symbols[a] : "";
        shape[a] = bound_symbol(symbol);
        free = free || shape[a] < 0;
      }
      if (free) {
        refuse("the state \"" + b.input.name + "\" of shape " + to_string(b.input.type.shape) +
                   " cannot start from zeros, since its extents are not known",
               "add an array \"" + b.input.name + "\" with the initial state to the data");
      }
      b.constant = Tensor(b.input.type.dtype, shape);
    }
  }

  /// Extent of a symbol according to the inputs that have data in run 0; -1: none has it.
  std::int64_t bound_symbol(const std::string& symbol) const {
    if (symbol.empty()) return -1;
    for (const Binding& b : bindings_) {
      if (is_state(b.input.id) && b.constant.empty()) continue;
      const Shape shape = shape_in_run(b, 0);
      for (std::size_t a = 0; a < b.input.type.symbols.size() && a < shape.size(); ++a) {
        if (b.input.type.symbols[a] == symbol && b.input.type.shape[a] < 0) return shape[a];
      }
    }
    return -1;
  }

  Shape shape_in_run(const Binding& b, std::int64_t run) const {
    if (!b.constant.empty()) return b.constant.shape();
    Shape shape =
        b.varies ? samples_->sample(b.input.name, begin_ + run * batch_).shape() : samples_->type(b.input.name).shape;
    if (!b.whole) shape.insert(shape.begin(), std::min(batch_, count_ - run * batch_));
    return shape;
  }

  void check_symbols() const {
    constexpr std::string_view nameless = "?";  // what some exporters call every open extent
    const bool varies = std::any_of(bindings_.begin(), bindings_.end(), [](const Binding& b) { return b.varies; });
    for (std::int64_t run = 0; run < (varies && !lazy() ? batches() : 1); ++run) {
      std::map<std::string, std::pair<std::int64_t, std::string>> extents;  // symbol -> extent, input
      for (const Binding& b : bindings_) {
        const Shape shape = shape_in_run(b, run);
        for (std::size_t a = 0; a < b.input.type.symbols.size() && a < shape.size(); ++a) {
          const std::string& symbol = b.input.type.symbols[a];
          if (symbol.empty() || symbol == nameless || b.input.type.shape[a] >= 0) continue;
          const auto [known, fresh] = extents.try_emplace(symbol, shape[a], b.input.name);
          if (!fresh && known->second.first != shape[a]) {
            refuse("the model calls an extent of \"" + known->second.second + "\" and of \"" + b.input.name +
                   "\" by the same name \"" + symbol + "\", the data give it " + std::to_string(known->second.first) +
                   " and " + std::to_string(shape[a]) + " in run " + std::to_string(run));
          }
        }
      }
    }
  }

  std::unique_ptr<Samples> samples_;
  std::string source_;
  std::vector<Binding> bindings_;
  std::map<ValueId, ValueId> state_;
  std::int64_t begin_ = 0, count_ = 0, batch_ = 1;
  mutable std::mutex digesting_;         // guards digests_
  mutable std::vector<Digest> digests_;  // of the samples, once asked for
};

std::string kind_of(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    throw Error(Code::calibration, "the data " + path.string() + " do not exist");
  }
  if (std::filesystem::is_directory(path, ignored)) {
    if (std::filesystem::exists(path / "input_0.pb")) return "test_data_set";
    for (const auto& e : std::filesystem::directory_iterator(path)) {
      if (e.path().filename().string().rfind("test_data_set_", 0) == 0) return "test_data_set";
    }
    for (const auto& e : std::filesystem::recursive_directory_iterator(path)) {
      if (is_image_file(e.path())) return "images";
    }
    throw Error(Code::calibration, "the folder " + path.string() + " holds neither pictures nor ONNX test data");
  }
  const std::string extension = path.extension().string();
  for (const char* known : {"npz", "npy", "safetensors", "jsonl"}) {
    if (extension == std::string(".") + known) return known;
  }
  throw Error(Code::calibration, "what " + path.string() + " holds cannot be told from its name",
              "set data.kind: npz, npy, safetensors, jsonl, images, test_data_set");
}

std::unique_ptr<Samples> open_samples(const std::string& kind, const std::vector<Wanted>& wanted,
                                      const DataOptions& options) {
  if (kind == "random") return make_random(wanted, options);
  if (kind == "npz" || kind == "npy" || kind == "safetensors") return open_arrays(options.path, kind, wanted, options);
  if (kind == "test_data_set") return open_test_data(options.path, wanted);
  if (kind == "images") return open_images(options.path, wanted, options);
  if (kind == "jsonl") return open_jsonl(options.path, wanted);
  throw Error(Code::calibration, "unknown kind of data \"" + kind + "\"",
              "kinds: npz, npy, safetensors, jsonl, images, test_data_set, random");
}

const std::map<ValueId, ValueId> no_state;

}  // namespace

Tensor Dataset::labels(std::int64_t) const { return {}; }
const std::map<ValueId, ValueId>& Dataset::state() const { return no_state; }
bool Dataset::restarts(std::int64_t) const { return true; }

std::unique_ptr<Dataset> open_dataset(const Graph& graph, const DataOptions& options) {
  std::vector<Wanted> wanted;
  for (const ValueId id : graph.inputs) {
    if (graph.is_constant(id)) continue;
    const Value& v = graph[id];
    if (v.type.kind != TypeKind::tensor) {
      throw Error(Code::calibration, "the model's input \"" + v.name + "\" is no tensor; such inputs get no data");
    }
    wanted.push_back({id, v.name, v.type});
  }
  std::string kind = options.kind;
  if (kind.empty()) {
    const bool random = options.path == "random" && !std::filesystem::exists(options.path);
    if (!random && options.path.empty()) throw Error(Code::calibration, "no data are named", "set data.path");
    kind = random ? "random" : kind_of(options.path);
  }
  try {
    std::unique_ptr<Samples> samples = open_samples(kind, wanted, options);
    return std::make_unique<BoundDataset>(graph, std::move(samples), wanted, options,
                                          kind == "random" ? "random data" : options.path);
  } catch (const Error& e) {
    if (e.code() == Code::input) throw Error(Code::calibration, e.what(), e.hint());
    throw;
  }
}

}  // namespace qtool
