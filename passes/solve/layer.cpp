// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/layer.h"

#include <algorithm>
#include <map>
#include <set>

#include "calib/ops/window.h"
#include "formats/base/error.h"

namespace qtool::solve {
namespace {

std::string list(const std::vector<std::int64_t>& v) {
  std::string out;
  for (const std::int64_t x : v) out += (out.empty() ? "" : ",") + std::to_string(x);
  return out;
}

std::size_t scale_place(const Grain& grain, const Shape& shape, std::size_t element) {
  if (grain.kind == Grain::Kind::tensor) return 0;
  const Shape scales = scale_shape(grain, shape);
  std::vector<std::int64_t> at(shape.size());
  for (std::size_t a = shape.size(); a-- > 0;) {
    at[a] = static_cast<std::int64_t>(element) % shape[a];
    element /= static_cast<std::size_t>(shape[a]);
  }
  const auto axis = static_cast<std::size_t>(grain.axis);
  if (grain.kind == Grain::Kind::axis) return static_cast<std::size_t>(at[axis]);
  if (grain.kind == Grain::Kind::groups) at[axis] /= grain.group;
  if (grain.kind == Grain::Kind::blocks) {
    at[shape.size() - 2] /= grain.group;
    at[shape.size() - 1] /= grain.group2;
  }
  std::int64_t place = 0;
  for (std::size_t a = 0; a < shape.size(); ++a) place = place * scales[a] + at[a];
  return static_cast<std::size_t>(place);
}

}  // namespace

Layer::Layer(const Graph& graph, const Product& product)
    : product_(product),
      shape_(graph[graph[product.node].inputs[Product::weight_input].value].data.shape()),
      attrs_(graph[product.node].attrs),
      op_(graph[product.node].op) {
  if (product.spatial && !product.out_first) {  // ConvTranspose
    m_ = product.b;
    n_ = product.a / product.groups * product.taps;
  } else {
    m_ = product.out_first ? product.a / product.groups : product.b;
    n_ = (product.out_first ? product.b : product.a) * product.taps;
  }
}

std::string Layer::sight() const {
  if (!product_.spatial) return attrs_.get("transA", std::int64_t{0}) != 0 && op_ == "Gemm" ? "columns" : "rows";
  std::string key = op_ + " g" + std::to_string(product_.groups) + " " + attrs_.get("auto_pad", "NOTSET");
  for (const char* name : {"strides", "dilations", "pads", "output_padding", "output_shape"}) {
    key += std::string(" ") + name + list(attrs_.get(name, std::vector<std::int64_t>{}));
  }
  return key + " k" + list({shape_.begin() + 2, shape_.end()});
}

void Layer::for_each_rows(const Tensor& x, std::int64_t i, const Rng& rng, Threads& threads,
                          const std::function<void(std::span<const float>)>& f) const {
  if (product_.spatial) return patches(x, i, rng, threads, f);
  const Tensor values = to_f32(x);
  const auto in = values.read<float>();
  if (sight() == "rows") return f(in);
  const std::int64_t t = x.count() / n_;
  std::vector<float> turned(in.size());
  for (std::int64_t k = 0; k < n_; ++k) {
    for (std::int64_t r = 0; r < t; ++r) {
      turned[static_cast<std::size_t>(r * n_ + k)] = in[static_cast<std::size_t>(k * t + r)];
    }
  }
  f(turned);
}

void Layer::patches(const Tensor& x, std::int64_t i, const Rng& rng, Threads& threads,
                    const std::function<void(std::span<const float>)>& f) const {
  const Tensor values = to_f32(x);
  const auto in = values.read<float>();
  const Shape kernel(shape_.begin() + 2, shape_.end());
  const bool turned = !product_.out_first;
  const Window w = turned ? transposed_window_of(attrs_, x.shape(), kernel) : window_of(attrs_, x.shape(), kernel);
  // `small`: what the layer reads; a transposed window has it as its output.
  const Spatial& small = turned ? w.output : w.input;
  const Spatial& grid = turned ? w.input : w.output;
  const std::int64_t positions = grid[0] * grid[1] * grid[2], pixels = small[0] * small[1] * small[2];
  const std::int64_t taps = product_.taps, channels = n_ / taps, all = channels * matrices();
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

std::size_t Layer::element(std::int64_t i, std::int64_t r, std::int64_t c) const {
  if (product_.out_first) return static_cast<std::size_t>((i * m_ + r) * n_ + c);
  if (!product_.spatial) return static_cast<std::size_t>(c * m_ + r);
  const std::int64_t channel = i * (n_ / product_.taps) + c / product_.taps;
  return static_cast<std::size_t>((channel * m_ + r) * product_.taps + c % product_.taps);
}

std::vector<float> Layer::by_columns(std::span<const float> stored, std::int64_t i) const {
  std::vector<float> w(static_cast<std::size_t>(m_ * n_));
  for (std::int64_t c = 0; c < n_; ++c) {
    for (std::int64_t r = 0; r < m_; ++r) w[static_cast<std::size_t>(c * m_ + r)] = stored[element(i, r, c)];
  }
  return w;
}

std::size_t Layer::scale(const Grain& grain, std::int64_t i, std::int64_t r, std::int64_t c) const {
  return scale_place(grain, shape_, element(i, r, c));
}

Layer::Planes Layer::planes(const Grain& grain) const {
  Planes out;
  std::map<std::size_t, std::int32_t> seen;
  for (std::int64_t c = 0; c < n_; ++c) {
    const auto [found, fresh] = seen.try_emplace(scale(grain, 0, 0, c), static_cast<std::int32_t>(seen.size()));
    if (fresh) out.columns.push_back(c);
    out.of.push_back(found->second);
  }
  std::set<std::size_t> places;
  for (std::int64_t i = 0; i < matrices(); ++i) {
    for (std::int64_t r = 0; r < m_; ++r) {
      for (const std::int64_t c : out.columns) places.insert(scale(grain, i, r, c));
    }
  }
  out.own = static_cast<std::int64_t>(places.size()) == matrices() * m_ * static_cast<std::int64_t>(out.columns.size());
  out.together = std::is_sorted(out.of.begin(), out.of.end());
  for (std::size_t p = 0; p + 2 < out.columns.size() && out.together; ++p) {
    out.together = out.columns[p + 1] - out.columns[p] == out.columns[1] - out.columns[0];
  }
  return out;
}

}  // namespace qtool::solve
