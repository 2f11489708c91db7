// SPDX-License-Identifier: Apache-2.0
// The rows that layers see.
#include <algorithm>

#include "calib/ops/recurrent.h"
#include "calib/ops/window.h"
#include "formats/base/error.h"
#include "passes/solve/layer.h"

namespace qtool::solve {
namespace {

std::string list(const std::vector<std::int64_t>& v) {
  std::string out;
  for (const std::int64_t x : v) out += (out.empty() ? "" : ",") + std::to_string(x);
  return out;
}

}  // namespace

std::string Layer::sight() const {
  switch (kind_) {
    case Kind::rows: return turned_ ? "columns" : "rows";
    case Kind::slices: return "slices " + list({shape_.begin(), shape_.end() - 2});
    case Kind::steps:
      return "steps " + std::to_string(matrices_) + " layout " + std::to_string(attrs_.get("layout", std::int64_t{0}));
    case Kind::states: return "states";
    case Kind::patches: break;
  }
  std::string key = op_ + " g" + std::to_string(matrices_) + " " + attrs_.get("auto_pad", "NOTSET");
  for (const char* name : {"strides", "dilations", "pads", "output_padding", "output_shape"}) {
    key += std::string(" ") + name + list(attrs_.get(name, std::vector<std::int64_t>{}));
  }
  return key + " k" + list({shape_.begin() + 2, shape_.end()});
}

void Layer::for_each_rows(std::span<const Tensor> inputs, std::int64_t i, const Rng& rng, Threads& threads,
                          const Rows& f) const {
  const Tensor& x = inputs[0];
  const bool last = (kind_ == Kind::rows && !turned_) || kind_ == Kind::slices || kind_ == Kind::steps;
  if (last && (x.rank() == 0 || x.shape().back() != n_ || (kind_ == Kind::steps && x.rank() != 3))) {
    throw Error(Code::input, "an input of the shape " + to_string(x.shape()) + " does not fit a weight " +
                                 to_string(shape_) + " of " + op_);
  }
  if (kind_ == Kind::slices) return slices(x, i, f);
  if (kind_ == Kind::patches) return patches(x, i, rng, threads, f);
  if (kind_ == Kind::steps) return steps(inputs, f);
  if (kind_ == Kind::states) return states(inputs, i, threads, f);
  const Tensor values = to_f32(x);
  const auto in = values.read<float>();
  if (!turned_) return f(in);
  const std::int64_t t = x.count() / n_;
  std::vector<float> turned(in.size());
  for (std::int64_t k = 0; k < n_; ++k) {
    for (std::int64_t r = 0; r < t; ++r) {
      turned[static_cast<std::size_t>(r * n_ + k)] = in[static_cast<std::size_t>(k * t + r)];
    }
  }
  f(turned);
}

/// Extents before the last two are matched from the back, as MatMul does: those of 1 go with every other.
void Layer::slices(const Tensor& x, std::int64_t i, const Rows& f) const {
  const Tensor values = to_f32(x);
  Shape outer(x.shape().begin(), x.shape().end() - std::min<std::int64_t>(2, x.rank())),
      own(shape_.begin(), shape_.end() - 2);
  const std::size_t axes = std::max(outer.size(), own.size());
  outer.insert(outer.begin(), axes - outer.size(), 1);
  own.insert(own.begin(), axes - own.size(), 1);
  std::vector<std::int64_t> place(axes);  // of matrix i
  for (std::size_t a = axes; a-- > 0; i /= own[a]) place[a] = i % own[a];
  const std::int64_t count = x.rank() < 2 ? 1 : x.shape()[x.shape().size() - 2], size = count * n_;
  for (std::int64_t s = 0; s * size < x.count(); ++s) {
    bool meets = true;
    std::int64_t left = s;
    for (std::size_t a = axes; a-- > 0; left /= outer[a]) {
      meets = meets && (outer[a] == 1 || own[a] == 1 || left % outer[a] == place[a]);
    }
    if (meets) f(values.read<float>().subspan(static_cast<std::size_t>(s * size), static_cast<std::size_t>(size)));
  }
}

void Layer::patches(const Tensor& x, std::int64_t i, const Rng& rng, Threads& threads, const Rows& f) const {
  const Tensor values = to_f32(x);
  const auto in = values.read<float>();
  const Shape kernel(shape_.begin() + 2, shape_.end());
  const bool turned = !out_first_;
  const Window w = turned ? transposed_window_of(attrs_, x.shape(), kernel) : window_of(attrs_, x.shape(), kernel);
  // `small`: what the layer reads; a transposed window has it as its output.
  const Spatial& small = turned ? w.output : w.input;
  const Spatial& grid = turned ? w.input : w.output;
  const std::int64_t positions = grid[0] * grid[1] * grid[2], pixels = small[0] * small[1] * small[2];
  const std::int64_t taps = taps_, channels = n_ / taps, all = channels * matrices();
  const std::int64_t picked = std::min(positions, most_patches);
  if (picked == 0) return;
  for (std::int64_t image = 0; image < x.shape()[0]; ++image) {
    const float* base = in.data() + (image * all + i * channels) * pixels;
    std::vector<float> rows(static_cast<std::size_t>(picked * n_));
    threads.for_each(picked, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t k = begin; k < end; ++k) {
        std::int64_t p = k;
        if (picked < positions) {
          const double stretch = static_cast<double>(positions) / static_cast<double>(picked);
          const double at = (static_cast<double>(k) + rng.uniform(static_cast<std::uint64_t>(k))) * stretch;
          p = std::min(static_cast<std::int64_t>(at), positions - 1);
        }
        const Spatial at{p / (grid[1] * grid[2]), p / grid[2] % grid[1], p % grid[2]};
        float* row = rows.data() + k * n_;
        for (std::int64_t t = 0; t < taps; ++t) {
          const Spatial tap{t / (w.kernel[1] * w.kernel[2]), t / w.kernel[2] % w.kernel[1], t % w.kernel[2]};
          std::int64_t pixel = 0;
          bool inside = true;
          for (std::size_t a = 0; a < 3; ++a) {
            std::int64_t q = 0;
            if (turned) {
              q = at[a] + w.pad_begin[a] - tap[a] * w.dilation[a];
              inside = inside && q >= 0 && q % w.stride[a] == 0;
              q /= w.stride[a];
            } else {
              q = at[a] * w.stride[a] - w.pad_begin[a] + tap[a] * w.dilation[a];
            }
            inside = inside && q >= 0 && q < small[a];
            pixel = pixel * small[a] + q;
          }
          if (!inside) continue;
          for (std::int64_t c = 0; c < channels; ++c) row[c * taps + t] = base[c * pixels + pixel];
        }
      }
    });
    f(rows);
  }
}

/// Steps behind the end of a sequence are left out.
void Layer::steps(std::span<const Tensor> inputs, const Rows& f) const {
  const Tensor values = to_f32(inputs[0]);
  const auto x = values.read<float>();
  if (reads_.size() == 1) return f(x);
  const bool batch_first = op::batch_first(attrs_);
  const std::int64_t outer = values.shape()[0], inner = values.shape()[1];
  const std::vector<std::int64_t> lengths = to_int64s(inputs[reads_[1]]);
  if (static_cast<std::int64_t>(lengths.size()) != (batch_first ? outer : inner)) {
    throw Error(Code::input, "sequence_lens does not have one entry per sequence");
  }
  std::vector<float> rows;
  for (std::int64_t a = 0; a < outer; ++a) {
    for (std::int64_t b = 0; b < inner; ++b) {
      const std::int64_t step = batch_first ? b : a, sequence = batch_first ? a : b;
      if (step >= lengths[static_cast<std::size_t>(sequence)]) continue;
      const auto begin = x.begin() + (a * inner + b) * n_;
      rows.insert(rows.end(), begin, begin + n_);
    }
  }
  f(rows);
}

void Layer::states(std::span<const Tensor> inputs, std::int64_t i, Threads& threads, const Rows& f) const {
  const std::int64_t each = matrices_ / shape_[0];  // per direction: all gates together, or one by one
  const std::int64_t gate = each == 1 ? 0 : i % each / 2 * 2;
  Node node;
  node.op = op_;
  node.attrs = attrs_;
  std::vector<float> rows;
  op::for_each_state(node, inputs, i / each, threads, [&](std::int64_t of, std::span<const float> row) {
    if (of == gate) rows.insert(rows.end(), row.begin(), row.end());
  });
  f(rows);
}

}  // namespace qtool::solve
