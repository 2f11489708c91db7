// SPDX-License-Identifier: Apache-2.0
#include "backends/verify/against.h"

#include <algorithm>
#include <cmath>

#include "backends/verify/books.h"
#include "backends/verify/match.h"
#include "backends/verify/nearest.h"
#include "backends/verify/operators.h"
#include "backends/verify/output_error.h"
#include "backends/verify/pages.h"
#include "formats/base/hash.h"

namespace qtool::verify {
namespace {

const char* const round_again = "round what the model's weight became to its nearest codes";
constexpr double db_tolerance = 0.01;
constexpr double output_tolerance = 0.05;  // dB: sums of floats in another order, of weights folded anew

bool is_product(std::string_view op) { return op == "Conv" || op == "ConvTranspose" || op == "Gemm" || op == "MatMul"; }

/// Codes of a format such as "int4" or "uint8", as they are stored; what was added to them is `shift`.
struct Stored {
  CodeRange range;
  std::int64_t shift = 0;
};

std::optional<Stored> stored_as(const LockedUse& use, std::int32_t type) {
  const bool is_signed = use.format.starts_with("int");
  const std::string digits = use.format.substr(std::min<std::size_t>(use.format.size(), is_signed ? 3 : 4));
  if (digits.size() != 1 || digits[0] < '2' || digits[0] > '8') return std::nullopt;
  if (!is_signed && !use.format.starts_with("uint")) return std::nullopt;
  const int bits = digits[0] - '0';
  Stored s;
  if (is_signed && range_of(type).first == 0) s.shift = std::int64_t{1} << (bits_of(type) - 1);
  const std::int64_t half = std::int64_t{1} << (bits - 1);
  s.range.lowest = (is_signed ? -half + (use.narrow ? 1 : 0) : 0) + s.shift;
  s.range.highest = (is_signed ? half - 1 : 2 * half - 1) + s.shift;
  return s;
}

/// The bias of a product of the file.
struct Bias {
  const TensorView* values = nullptr;  // int32 codes, or numbers
  std::vector<float> scale;            // of codes
  bool open = false;                   // there is one that is not understood
};

class Against {
 public:
  Against(const Scene& scene, const Match& match, const VerifyRequest& request, std::int64_t every, Findings& findings,
          Verification& out, Threads& threads, std::set<std::string_view>& seen, Pages& pages)
      : s_(scene),
        match_(match),
        derive_(request.derive),
        inputs_(request.lock == nullptr ? nullptr : request.inputs),
        every_(every),
        findings_(findings),
        out_(out),
        threads_(threads),
        seen_(seen),
        pages_(pages) {}

  void run() {
    for (const NodeView& n : s_.graph.nodes) {
      if (n.is("QuantizeLinear") || n.is("DequantizeLinear")) continue;
      if (n.is("MatMulNBits", "com.microsoft") || n.is("GatherBlockQuantized", "com.microsoft")) {
        const bool product = n.op == "MatMulNBits";
        coded(n, product ? 1 : 0, Coded::blocks(s_, n), n.input(product ? 1 : 0));
        continue;
      }
      if (n.is("MatMulBnb4", "com.microsoft")) {
        booked(n, Book::bnb4(s_, n), n.input(1));
        continue;
      }
      if (const auto slots = slots_of(n)) {
        fused(n, *slots);
        continue;
      }
      for (std::size_t i = 0; i < n.inputs.size(); ++i) pair(n, i);
      if (n.domain.empty() && is_product(n.op)) in_float(n);
    }
  }

 private:
  void pair(const NodeView& n, std::size_t i) {
    const NodeView* dq = s_.producer(n, i, "DequantizeLinear");
    const TensorView* codes = dq == nullptr ? nullptr : s_.constant(*dq, 0);
    if (codes == nullptr || codes->type == i32) return;  // biases come with their products
    auto scales = scales_of(s_, *dq);
    if (!scales) return open(n, codes->name, "its scales are no constants that can be read");
    const std::int64_t axis = dq->integer("axis", 1), block = dq->integer("block_size", 0);
    const bool minifloats = codes->type == f4 || (codes->type >= f8_first && codes->type <= f8_last);
    if (i == 1 && is_product(n.op) && minifloats) {
      return booked(n, Book::minifloats(*codes, *scales, axis, block), codes->name);
    }
    coded(n, i, Coded::tensor(*codes, std::move(*scales), s_.constant(*dq, 2), axis, block), codes->name);
  }

  void fused(const NodeView& n, const Slots& slots) {
    for (std::size_t i = 0; i < slots.inputs.size(); ++i) {
      const Slot& slot = slots.inputs[i];
      const TensorView* codes = s_.constant(n, slot.codes);
      const Parameters p = s_.parameters(n, slot.scale, slot.zero);
      if (codes == nullptr || p.scale == nullptr || !is_real(p.scale->type)) continue;
      std::vector<float> scales(static_cast<std::size_t>(p.scale->count()));
      p.scale->read(0, scales);
      const bool rows = n.op == "QLinearConv" || (n.op == "QGemm" && n.integer("transB", 0) != 0);
      const std::size_t input = n.op == "DynamicQuantizeMatMul" ? 1 : n.op == "QLinearWhere" ? i + 1 : i;
      coded(n, input, Coded::tensor(*codes, std::move(scales), p.zero, rows ? 0 : -1, 0), codes->name);
    }
  }

  void open(const NodeView& n, std::string_view tensor, const std::string& why) {
    constexpr std::size_t most = 100;
    if (out_.not_compared.size() < most) out_.not_compared.push_back({std::string(n.who()), std::string(tensor), why});
  }

  static std::string place_text(const std::vector<std::int64_t>& at) { return at.empty() ? "" : " " + shape_text(at); }

  void coded(const NodeView& n, std::size_t input, const std::optional<Coded>& coded, std::string_view name) {
    const Place origin = match_.origin(n, name);
    if (!coded) return open(n, name, "its codes cannot be unpacked");
    if (!origin) return open(n, name, "no node of the model has its name");
    const NodeView& was = *origin.node;
    const bool weight = is_product(was.op) && input == 1;
    Floats floats;
    if (weight) {
      floats = replay(*origin.scene, was, match_.folds(origin));
    } else if (const auto constant = constant_of(*origin.scene, was.input(input))) {
      floats.weight = *constant;
    } else {
      floats.why = "its numbers in the model are computed by operators that are not replayed";
    }
    if (!floats.why.empty()) return open(n, name, floats.why);
    const bool by_columns = n.op == "MatMulNBits" || n.op == "DynamicQuantizeMatMul" || n.op == "MatMulIntegerToFloat";
    const bool stored_by_rows = was.op == "Gemm" && was.integer("transB", 0) != 0;
    const bool square = weight && by_columns && (n.op == "MatMulNBits") != stored_by_rows;
    const auto turned = is_transposed(*coded, floats.weight, square);
    if (!turned) {
      return findings_.add(n,
                           "its codes \"" + std::string(name) + "\" have the shape " + shape_text(coded->dims) +
                               ", the model's weight " + shape_text(floats.weight.dims),
                           "quantize the weight of this node");
    }
    const LockedUse* row = match_.row(n, origin, input);
    const auto stored = row == nullptr ? std::nullopt : stored_as(*row, coded->type);
    const auto near = nearness(*coded, floats.weight, stored ? std::optional(stored->range) : std::nullopt, *turned,
                               row != nullptr && derive_, every_, pages_, threads_);
    if (!near) return open(n, name, "its shape in the model differs");
    if (row == nullptr || !row->fed_back) judge(n, *near, name);  // else hash and errors tell
    if (row != nullptr && derive_) hold_to(n, *row, *coded, *near, *turned, stored ? stored->shift : 0, name);
    if (row != nullptr && weight && inputs_ != nullptr) puts_out(n, *row, origin, floats.weight, *coded, *turned, name);
    if (!floats.folded && !match_.has_lock()) tied(n, *origin.scene, was.input(input), *coded);
    ++out_.weights;
    out_.elements += near->count;
    if (weight) bias(n, was, *origin.scene, floats, coded.operator->());
  }

  /// The weight of a product in codes that are not evenly spaced.
  void booked(const NodeView& n, const std::optional<Book>& book, std::string_view name) {
    const Place origin = match_.origin(n, name);
    if (!book) return open(n, name, "its codes cannot be unpacked");
    if (!origin || !is_product(origin.node->op)) return open(n, name, "no product of the model has its name");
    const NodeView& was = *origin.node;
    const Floats floats = replay(*origin.scene, was, match_.folds(origin));
    if (!floats.why.empty()) return open(n, name, floats.why);
    const std::vector<std::int64_t>&rows = book->dims, &dims = floats.weight.dims;
    const bool same = rows == dims,
               turned = rows.size() == 2 && dims.size() == 2 && rows[0] == dims[1] && rows[1] == dims[0];
    if (!same && !turned) return open(n, name, "its shape in the model differs");
    const bool by_rows = was.op == "Gemm" && was.integer("transB", 0) != 0;
    const bool transposed = turned && (!same || (n.op == "MatMulBnb4" && !by_rows));
    std::vector<float> x = floats.weight.all();
    if (transposed) {
      const std::vector<float> from = x;
      const auto height = static_cast<std::size_t>(dims[0]), width = static_cast<std::size_t>(dims[1]);
      for (std::size_t r = 0; r < height; ++r) {
        for (std::size_t c = 0; c < width; ++c) x[c * height + r] = from[r * width + c];
      }
    }
    const Book::Wrong wrong = book->compare(x);
    const LockedUse* row = match_.row(n, origin, 1);
    const bool fed_back = row != nullptr && row->fed_back;
    if (wrong.count > 0 && !fed_back) {
      const auto i = static_cast<std::size_t>(wrong.first);
      findings_.add(n,
                    "code " + std::to_string(book->codes[i]) + " of \"" + std::string(name) + "\" at element " +
                        std::to_string(i) + " means " + std::to_string(book->values[book->codes[i]]) + ", and " +
                        std::to_string(wrong.nearest) + " is the nearest to " + std::to_string(x[i]) + " at scale " +
                        std::to_string(book->scale[i]) + " (" + std::to_string(wrong.count) + " of " +
                        std::to_string(x.size()) + " codes are not the nearest)",
                    round_again);
    }
    ++out_.weights;
    out_.elements += static_cast<std::int64_t>(x.size());
    pages_.after(static_cast<std::int64_t>(x.size()));
  }

  void judge(const NodeView& n, const Nearness& near, std::string_view name) {
    if (near.wrong == 0 && !near.range.empty()) {
      findings_.add(n, "in its codes \"" + std::string(name) + "\" " + near.range,
                    "round within the range of the format");
    }
    if (near.wrong == 0) return;
    findings_.add(
        n,
        "code" + place_text(near.at) + " of \"" + std::string(name) + "\" is " + std::to_string(near.code) + ", and " +
            std::to_string(near.nearest) + " is the nearest to " + std::to_string(near.number) + " at scale " +
            std::to_string(near.scale) + " (" + std::to_string(near.wrong) + " of " + std::to_string(near.count) +
            " codes are not the nearest)",
        match_.has_lock() ? round_again : std::string(round_again) + ", or name the lock if a pass changed the weight");
  }

  /// Whether the lock tells these very scales, or none that could be compared: an emitter enlarges the scale of a
  /// channel that cannot hold its bias after the lock was written. Blocks lie in another order in the file.
  static bool has_scales(const LockedUse& row, const Coded& coded) {
    const std::vector<float>& scales = coded.scale_values();
    if (row.grain.kind != Grain::Kind::axis && row.grain.kind != Grain::Kind::tensor) return true;
    if (!row.scale.values.empty()) {
      return std::equal(scales.begin(), scales.end(), row.scale.values.begin(), row.scale.values.end(),
                        [](float a, double b) { return static_cast<double>(a) == b; });
    }
    return row.scale.sha256.empty() ||
           hex(Hasher().bytes(std::as_bytes(std::span(scales))).finish()) == row.scale.sha256;
  }

  /// Hash of the codes and their error, derived anew.
  void hold_to(const NodeView& n, const LockedUse& row, const Coded& coded, const Nearness& near, bool turned,
               std::int64_t shift, std::string_view name) {
    if (!has_scales(row, coded)) return open(n, name, "its scales are not those of the lock, so nor are its codes");
    if (!row.codes_sha256.empty()) {
      const std::vector<std::uint8_t> codes = plain_codes(coded, turned, -shift);
      if (hex(Hasher().bytes(std::as_bytes(std::span(codes))).finish()) != row.codes_sha256) {
        findings_.add(n, "its codes \"" + std::string(name) + "\" are not those of the lock",
                      "quantize the model again");
      }
      ++out_.hashes;
    }
    const bool exact = near.noise == 0 || near.signal == 0;
    if (exact != !row.sqnr_db.has_value()) {
      return findings_.add(n, "the error of \"" + std::string(name) + "\" is not that of the lock",
                           "quantize it again");
    }
    ++out_.errors;
    if (exact) return;
    const double db = 10 * std::log10(near.signal / near.noise);
    if (std::abs(db - *row.sqnr_db) <= db_tolerance) return;
    findings_.add(n,
                  "the error of \"" + std::string(name) + "\" is " + std::to_string(db) + " dB, in the lock " +
                      std::to_string(*row.sqnr_db) + " dB",
                  "quantize the model again");
  }

  /// The error of what the product puts out, derived anew.
  void puts_out(const NodeView& n, const LockedUse& row, const Place& origin, const Numbers& weight, const Coded& coded,
                bool turned, std::string_view name) {
    if (!row.output_db || !has_scales(row, coded)) return;
    const auto rows = inputs_->find(origin.node->who());
    const std::vector<Fold> folds = match_.folds(origin);
    const auto error = rows == inputs_->end()
                           ? std::nullopt
                           : output_error(*origin.node, weight, coded, turned, rows->second, folds, threads_);
    if (!error) return open(n, name, "the data tell nothing of what enters its product");
    ++out_.outputs;
    const double db = 10 * std::log10(error->signal / error->noise);
    if (std::abs(db - *row.output_db) <= output_tolerance) return;
    findings_.add(n,
                  "the error that the codes \"" + std::string(name) + "\" make in what it puts out is " +
                      std::to_string(db) + " dB, in the lock " + std::to_string(*row.output_db) + " dB",
                  "quantize the model again");
  }

  /// One tensor of the model that several nodes read is stored on one set of scales.
  void tied(const NodeView& n, const Scene& model, std::string_view name, const Coded& coded) {
    if (model.constant(name) == nullptr) return;
    const auto [found, fresh] = tied_.try_emplace(name, std::pair(&n, coded));
    const Coded& first = found->second.second;
    if (fresh || first.dims != coded.dims || first.type != coded.type || first.scale_count() != coded.scale_count())
      return;
    if (first.has_parameters_of(coded)) return;
    findings_.add(n,
                  "it holds \"" + std::string(name) + "\" on other scales than " + found->second.first->label() +
                      ", which reads the same weight",
                  "quantize a tied weight once");
  }

  Bias bias_of(const NodeView& n, const Coded* weight) const {
    Bias b;
    std::size_t at = 2;
    if (n.op == "QLinearConv") at = 8;
    if (n.op == "QGemm" || n.op == "MatMulIntegerToFloat") at = 6;
    if (n.op == "DynamicQuantizeMatMul") at = 4;
    if (n.op == "MatMulNBits") at = 5;
    std::string_view name = n.op == "MatMul" || n.op == "QLinearMatMul" ? std::string_view{} : n.input(at);
    if (name.empty() && (n.op == "MatMul" || n.domain == "com.microsoft")) {
      const auto& uses = n.outputs.empty() ? std::vector<Use>{} : s_.uses(n.outputs[0]);
      const NodeView* add = uses.size() == 1 ? uses[0].node : nullptr;
      if (add != nullptr && add->is("Max") && add->inputs.size() == 1) {  // a copy that keeps both apart
        const auto& next = s_.uses(add->outputs[0]);
        add = next.size() == 1 ? next[0].node : nullptr;
      }
      if (add != nullptr && add->is("Add") && add->inputs.size() == 2) {
        const std::string_view from = uses[0].node == add ? n.outputs[0] : uses[0].node->outputs[0];
        name = add->inputs[add->inputs[0] == from ? 1 : 0];
        if (s_.constant(name) == nullptr &&
            (s_.producer(name) == nullptr || !s_.producer(name)->is("DequantizeLinear") ||
             s_.constant(*s_.producer(name), 0) == nullptr)) {
          name = {};  // it adds another value
        }
      }
    }
    if (name.empty()) return b;
    b.values = s_.constant(name);
    if (b.values == nullptr) {
      const NodeView* dq = s_.producer(name);
      const bool codes = dq != nullptr && dq->is("DequantizeLinear");
      b.values = codes ? s_.constant(*dq, 0) : nullptr;
      const TensorView* scale = codes ? s_.constant(*dq, 1) : nullptr;
      if (b.values != nullptr && scale != nullptr) fill(*scale, b.scale);
      b.open = b.values == nullptr || b.values->type != i32 || b.scale.empty();
      return b;
    }
    if (b.values->type != i32) {
      b.open = !is_real(b.values->type);
      return b;
    }
    // Codes of an integer operator lie on the scale of its product.
    const auto slots = slots_of(n);
    const Slot *x = slots ? slots->inputs.data() : nullptr, *w = slots ? &slots->inputs[1] : nullptr;
    const TensorView *sx = x == nullptr ? nullptr : s_.constant(n, x->scale),
                     *sw = w == nullptr ? nullptr : s_.constant(n, w->scale);
    b.open = sx == nullptr || sw == nullptr || weight == nullptr || sx->count() != 1;
    if (b.open) return b;
    fill(*sw, b.scale);
    const auto factor = static_cast<float>(sx->at(0));
    for (float& v : b.scale) v *= factor;
    return b;
  }

  static void fill(const TensorView& t, std::vector<float>& out) {
    out.resize(static_cast<std::size_t>(t.count()));
    t.read(0, out);
  }

  void bias(const NodeView& n, const NodeView& was, const Scene& model, const Floats& floats, const Coded* weight) {
    const Bias b = bias_of(n, weight);
    if (b.values != nullptr) seen_.insert(b.values->name);
    if (was.op != "MatMul") seen_.insert(was.input(2));
    if (const NodeView* add = was.op == "MatMul" ? added_behind(model, was) : nullptr) {
      seen_.insert(add->inputs[*constant_side(model, *add)]);
    }
    if (!floats.bias || b.open) return;
    const std::vector<double>& target = *floats.bias;
    if (b.values == nullptr) {
      const bool none = std::all_of(target.begin(), target.end(), [](double c) { return c == 0; });
      if (none || (was.op == "Gemm" && was.number("beta", 1.0F) == 0)) return;
      return findings_.add(n, "its bias is missing: the model has one that is not zero", "write the bias");
    }
    const auto count = static_cast<std::size_t>(b.values->count());
    if (count != target.size() && count != 1) return;  // no bias but another operand
    std::size_t wrong = 0, first = 0;
    for (std::size_t c = 0; c < target.size(); ++c) {
      const double value = b.values->at(static_cast<std::int64_t>(count == 1 ? 0 : c));
      double off = 0, allowed = 0;
      if (b.scale.empty()) {
        off = std::abs(value - target[c]);
        allowed = 2 * relative_step(b.values->type) * std::abs(target[c]) + 1e-30;
      } else {
        const double wish = target[c] / static_cast<double>(b.scale[b.scale.size() == 1 ? 0 : c]);
        off = std::abs(std::clamp(wish, -2147483648.0, 2147483647.0) - value);
        allowed = 0.5 + 4 * relative_step(f32) * (std::abs(wish) + 1);
      }
      if (off <= allowed) continue;
      if (wrong++ == 0) first = c;
    }
    ++out_.biases;
    if (wrong == 0) return;
    if (!match_.has_lock() && 2 * wrong > target.size()) {
      return open(n, b.values->name, "it is not the model's bias; name the lock if a pass corrected it");
    }
    findings_.add(n,
                  "bias " + std::to_string(first) + " does not hold the model's " + std::to_string(target[first]) +
                      " (" + std::to_string(wrong) + " of " + std::to_string(target.size()) + " biases are wrong)",
                  "fold and round the bias together with its weight");
  }

  /// A product that stayed float.
  void in_float(const NodeView& n) {
    const TensorView* weight = s_.constant(n, 1);
    if (weight == nullptr || !is_real(weight->type)) return;
    const Place origin = match_.origin(n, {});
    if (!origin || !is_product(origin.node->op)) return;
    seen_.insert(weight->name);
    const Floats floats = replay(*origin.scene, *origin.node, match_.folds(origin));
    if (!floats.why.empty()) return open(n, weight->name, floats.why);
    if (floats.weight.dims != weight->dims) return open(n, weight->name, "its shape in the model differs");
    compare(n, *weight, floats.weight, floats.folded);
    bias(n, *origin.node, *origin.scene, floats, nullptr);
  }

  void compare(const NodeView& n, const TensorView& is, const Numbers& should, bool folded) {
    const std::size_t part = 4096;
    const double step = folded ? 2 * relative_step(is.type) : 0;
    std::vector<float> a(part), b(part);
    const std::int64_t count = is.count();
    for (std::int64_t from = 0; from < count; from += static_cast<std::int64_t>(part)) {
      const auto size = static_cast<std::size_t>(std::min(static_cast<std::int64_t>(part), count - from));
      is.read(from, std::span(a).first(size));
      should.read(from, std::span(b).first(size));
      for (std::size_t i = 0; i < size; ++i) {
        const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
        if (x == y || std::abs(x - y) <= step * std::abs(y) + (folded ? 1e-38 : 0) || (x != x && y != y)) continue;
        return findings_.add(n,
                             "its float weight \"" + std::string(is.name) + "\" is " + std::to_string(x) +
                                 " at element " + std::to_string(from + static_cast<std::int64_t>(i)) +
                                 ", the model's became " + std::to_string(y),
                             match_.has_lock() ? "fold the same steps into the weight that the lock tells"
                                               : "write what the model has, or name the lock if a pass changed it");
      }
    }
    ++out_.floats;
    out_.elements += count;
    pages_.after(count);
  }

  const Scene& s_;
  const Match& match_;
  const bool derive_;
  const LayerInputs* inputs_;
  const std::int64_t every_;
  Findings& findings_;
  Verification& out_;
  Threads& threads_;
  std::set<std::string_view>& seen_;
  Pages& pages_;
  std::map<std::string_view, std::pair<const NodeView*, Coded>> tied_;
};

/// Float constants that both have under one name, and that are no weights or biases of products.
void check_untouched(const Scene& file, const Scene& model, const std::set<std::string_view>& seen, Findings& findings,
                     Verification& out, Pages& pages) {
  for (const auto& [name, t] : file.graph.constants) {
    if (!is_real(t.type) || seen.contains(name)) continue;
    const auto found = model.graph.constants.find(name);
    if (found == model.graph.constants.end() || found->second.type != t.type || found->second.dims != t.dims) continue;
    const TensorView& was = found->second;
    bool same = true;
    if (t.raw && was.raw) {
      same = std::equal(t.bytes.begin(), t.bytes.end(), was.bytes.begin(), was.bytes.end());
    } else {
      for (std::int64_t i = 0; same && i < t.count(); ++i) {
        const double x = t.at(i), y = was.at(i);
        same = x == y || (x != x && y != y);
      }
    }
    ++out.floats;
    out.elements += t.count();
    pages.after(t.count());
    if (same) continue;
    findings.add("tensor \"" + std::string(name) + "\"", "its numbers are not those of the model",
                 "leave constants alone that no pass changes");
  }
}

void check_ends(const FileView& file, const FileView& model, Findings& findings) {
  for (const Declared& d : model.graph.outputs) {
    const auto& now = file.graph.outputs;
    const auto found = std::find_if(now.begin(), now.end(), [&](const Declared& o) { return o.name == d.name; });
    if (found == now.end()) {
      findings.add("output \"" + std::string(d.name) + "\"", "the model puts it out, the file does not",
                   "keep the names of graph outputs");
    } else if (found->type != d.type) {
      findings.add("output \"" + std::string(d.name) + "\"",
                   "it is " + name_of(found->type) + " in the file, " + name_of(d.type) + " in the model",
                   "keep the types of graph outputs");
    }
  }
  for (const Declared& d : file.graph.inputs) {
    const auto& before = model.graph.inputs;
    const auto found = std::find_if(before.begin(), before.end(), [&](const Declared& o) { return o.name == d.name; });
    if (found != before.end() && found->type == d.type) continue;
    findings.add("input \"" + std::string(d.name) + "\"",
                 found == before.end() ? "the model has no such input" : "it has another type in the model",
                 "keep the inputs of the model");
  }
}

}  // namespace

void check_against(const FileView& file, const FileView& model, const VerifyRequest& request, std::int64_t every,
                   Findings& findings, Verification& out, Threads& threads) {
  Findings unused;
  const Scenes now(file, *request.target, unused), before(model, *request.target, unused);
  const Match match(now, before, request.lock);
  std::set<std::string_view> seen;
  Pages pages(file, model);
  for (const Scene& s : now.all()) Against(s, match, request, every, findings, out, threads, seen, pages).run();
  check_untouched(now.all().front(), before.all().front(), seen, findings, out, pages);
  check_ends(file, model, findings);
  for (const std::string_view function : file.functions) {
    constexpr const char* why = "nodes of local functions are not looked at";
    out.not_compared.push_back({std::string(function), "a local function", why});
  }
}

}  // namespace qtool::verify
