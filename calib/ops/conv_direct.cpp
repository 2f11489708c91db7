// SPDX-License-Identifier: Apache-2.0
#include "calib/ops/conv_direct.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "calib/ops/conv_tile.h"
#include "calib/ops/operand.h"
#include "calib/ops/scratch.h"
#include "calib/ops/slide.h"

namespace qtool {
namespace {

// Floats of the laid-out lines of a task: they should stay in the second-level cache beside the kernel.
constexpr std::int64_t line_block = 128 * 1024;
// Multiplications of a task: a convolution is cut so that several threads find work, by shape alone. Tasks of channels
// lay the same image out again, so that they should not be many while they are small.
constexpr std::int64_t small_task = 1 << 20, large_task = 1 << 23, most_small_tasks = 4, most_tasks = 32;
// Multiplications that are worth a thread's attention.
constexpr std::int64_t least_work = 1 << 17;
// Fewer positions than this leave most lanes empty.
constexpr std::int64_t fewest_positions = 8;
// Along one axis; more are rare, and finding their phases takes the square of them.
constexpr std::int64_t most_taps = 1024;
constexpr double most_offset = 1 << 29;

/// The lines of one axis of the image as its taps see them, `stride` apart: taps that fall on the same residue modulo
/// the stride share lines, a little further on for each of them; or every tap has its own.
struct Phases {
  std::vector<std::int64_t> starts;        // by phase: padded position that its first line shows
  std::vector<std::int64_t> index, shift;  // by tap: its phase, and how far on

  Phases(std::int64_t kernel, std::int64_t dilation, std::int64_t stride, bool shared) {
    for (std::int64_t k = 0; k < kernel; ++k) {
      const std::int64_t start = shared ? k * dilation % stride : k * dilation;
      const auto found = std::find(starts.begin(), starts.end(), start);
      index.push_back(found - starts.begin());
      shift.push_back((k * dilation - start) / stride);
      if (found == starts.end()) starts.push_back(start);
    }
  }
  std::int64_t count() const { return static_cast<std::int64_t>(starts.size()); }
  std::int64_t reach() const { return *std::max_element(shift.begin(), shift.end()); }
};

/// How a band of output lines is laid out: per channel and phase `lines` lines, `pitch` floats apart. Output (y, x) of
/// the band finds a tap at y * pitch + x from where output (0, 0) finds it.
struct Layout {
  Phases rows, columns;
  std::int64_t pitch, band, lines;

  Layout(const Window& w, bool shared)
      : rows(w.kernel[1], w.dilation[1], w.stride[1], true),
        columns(w.kernel[2], w.dilation[2], w.stride[2], shared),
        pitch(w.output[2] + columns.reach()) {
    // Padding right of a line serves as padding left of the next one.
    if (w.stride[2] == 1 && shared) {
      pitch -= std::clamp<std::int64_t>(pitch - w.pad_begin[2] - w.input[2], 0, w.pad_begin[2]);
      pitch = std::max(pitch, w.output[2]);
    }
    set_band(w.output[1]);
  }
  void set_band(std::int64_t output_lines) {
    band = output_lines;
    lines = output_lines + rows.reach();
  }
  std::int64_t phase() const { return lines * pitch; }
  std::int64_t plane() const { return phase() * rows.count() * columns.count(); }
};

/// Lines with gaps between them waste lanes, and their results must be picked out; with lines of their own for every
/// tap there are no gaps. That pays for narrow images that many channels are made of, and for few channels that many
/// are made of.
Layout layout_of(const Convolution& c, std::int64_t lanes) {
  Layout shared(c.window, true);
  const std::int64_t width = c.window.output[2], gap = shared.pitch - width;
  if (gap == 0 || width % lanes == 0) return shared;
  const bool wasteful = gap * 20 > width && c.outputs >= 16, thin = c.inputs * c.window.kernel[2] <= c.outputs;
  return wasteful || thin ? Layout(c.window, false) : shared;
}

struct Plan {
  const Convolution& c;
  const ConvTiles& tiles;
  const float *x, *kernel, *bias;
  float* y;
  Layout layout;
  bool in_place;                                   // the image is its own layout
  std::int64_t bands = 1, height = 0, blocks = 1;  // height: output channels of a task; blocks: tasks per group
  std::vector<std::int32_t> offsets;               // by channel and tap

  Plan(const Convolution& convolution, const ConvTiles& with, const float* image, const float* weights,
       const float* biases, float* out)
      : c(convolution),
        tiles(with),
        x(image),
        kernel(weights),
        bias(biases),
        y(out),
        layout(layout_of(c, tiles.lanes)),
        in_place(c.window.is_pointwise() && c.window.output_size() >= tiles.lanes) {
    cut();
    set_offsets();
  }

  void cut() {
    const Window& w = c.window;
    const std::int64_t one_line = c.inputs * layout.plane() / layout.lines;
    const std::int64_t most = std::clamp<std::int64_t>(line_block / one_line - layout.rows.reach(), 1, w.output[1]);
    bands = pieces(w.output[1], most);
    height = c.outputs;
    const std::int64_t images = c.batch * c.groups;
    const std::int64_t work = w.output_size() * c.depth() * c.outputs * images;
    const std::int64_t wanted =
        std::max(std::min(most_small_tasks, work / small_task), std::min(most_tasks, work / large_task));
    if (images * bands < wanted) {
      const std::int64_t missing = pieces(wanted, images * bands);
      const std::int64_t line_share = w.output_size() / (bands * missing);
      if (line_share >= 12 * tiles.lanes && w.output[1] >= bands * missing) {
        bands *= missing;
      } else {
        height = std::max<std::int64_t>(tiles.rows, pieces(pieces(c.outputs, missing), tiles.rows) * tiles.rows);
      }
    }
    blocks = pieces(c.outputs, height);
    layout.set_band(pieces(w.output[1], bands));
    if (in_place) layout.set_band(std::max(layout.band, pieces(tiles.lanes, w.output[2])));
    bands = pieces(w.output[1], layout.band);
  }

  void set_offsets() {
    const Window& w = c.window;
    const std::int64_t plane = in_place ? w.input_size() : layout.plane();
    offsets.reserve(at(c.depth()));
    for (std::int64_t channel = 0; channel < c.inputs; ++channel) {
      for (std::size_t ky = 0; ky < layout.rows.index.size(); ++ky) {
        for (std::size_t kx = 0; kx < layout.columns.index.size(); ++kx) {
          const std::int64_t phase = layout.rows.index[ky] * layout.columns.count() + layout.columns.index[kx];
          offsets.push_back(static_cast<std::int32_t>(channel * plane + phase * layout.phase() +
                                                      layout.rows.shift[ky] * layout.pitch + layout.columns.shift[kx]));
        }
      }
    }
  }

  std::int64_t tasks() const { return c.batch * c.groups * blocks * bands; }
  /// Tasks at a time, where groups make many little ones.
  std::int64_t grain() const {
    const std::int64_t work = layout.band * c.window.output[2] * c.depth() * height;
    return std::max<std::int64_t>(1, least_work / std::max<std::int64_t>(work, 1));
  }
};

using Lanes = LanesOf<float>::type;

/// Copies n floats in whole vectors: reads and writes up to one vector less a float too much.
QTOOL_INLINE inline void copy_wide(const float* from, float* to, std::int64_t n) {
  Lanes block;
  for (std::int64_t i = 0; i < n; i += slide_lanes) {
    std::memcpy(&block, from + i, sizeof block);
    std::memcpy(to + i, &block, sizeof block);
  }
}

/// Every second of 2 * n floats, with the same excess.
QTOOL_INLINE inline void copy_even(const float* from, float* to, std::int64_t n) {
  Lanes block, next;
  for (std::int64_t i = 0; i < n; i += slide_lanes) {
    std::memcpy(&block, from + 2 * i, sizeof block);
    std::memcpy(&next, from + 2 * i + slide_lanes, sizeof next);
    block = __builtin_shufflevector(block, next, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    std::memcpy(to + i, &block, sizeof block);
  }
}

/// n zeros, and as much too much.
QTOOL_INLINE inline void clear_wide(float* to, std::int64_t n) {
  const Lanes zeros{};
  if (n > 0) std::memcpy(to, &zeros, sizeof zeros);  // mostly all: a loop would become a call
  for (std::int64_t i = slide_lanes; i < n; i += slide_lanes) std::memcpy(to + i, &zeros, sizeof zeros);
}

/// The lines of one phase in one band: `above` lines of zeros, `inside` lines of the image, zeros again.
struct PhaseLines {
  std::int64_t above, inside, below;
  std::int64_t begin, stop;  // of a line: positions [begin, stop) see the image
  std::int64_t from;         // position in the plane of the first one that does

  PhaseLines(const Layout& l, const Window& w, std::int64_t y0, std::int64_t row, std::int64_t column) {
    const auto range = [](std::int64_t first, std::int64_t stride, std::int64_t extent, std::int64_t n,
                          std::int64_t& low,
                          std::int64_t& high) {  // of i: first + i * stride in [0, extent)
      low = std::clamp<std::int64_t>(first >= 0 ? 0 : pieces(-first, stride), 0, n);
      high = std::clamp<std::int64_t>(first >= extent ? 0 : pieces(extent - first, stride), low, n);
    };
    const std::int64_t y = y0 * w.stride[1] + row - w.pad_begin[1], x = column - w.pad_begin[2];
    range(y, w.stride[1], w.input[1], l.lines, above, inside);
    range(x, w.stride[2], w.input[2], l.pitch, begin, stop);
    below = l.lines - inside;
    inside -= above;
    from = (y + above * w.stride[1]) * w.input[2] + x + begin * w.stride[2];
  }
};

/// One task: an image, a group of channels, a block of output channels, a band of output lines.
class Task {
 public:
  Task(const Plan& plan, Scratch& lines, Scratch& results)
      : p_(plan), w_(plan.c.window), lines_(lines), results_(results) {}

  void run(std::int64_t index) {
    const std::int64_t band = index % p_.bands, block = index / p_.bands % p_.blocks;
    image_ = index / p_.bands / p_.blocks;  // and group
    y0_ = band * p_.layout.band;
    y1_ = std::min(y0_ + p_.layout.band, w_.output[1]);
    const float* from = p_.x + image_ * p_.c.inputs * w_.input_size();
    if (p_.in_place) {
      from += y0_ * w_.output[2];
    } else {
      float* lines = lines_.get(p_.c.inputs * p_.layout.plane() + slack);
      lay_out(from, lines);
      from = lines;
    }
    const std::int64_t end = std::min((block + 1) * p_.height, p_.c.outputs);
    std::int64_t m = block * p_.height;
    for (std::int64_t left = pieces(end - m, p_.tiles.rows); left > 0; --left) {
      const std::int64_t rows = pieces(end - m, left);
      channels(from, m, static_cast<int>(rows));
      m += rows;
    }
  }

 private:
  // What the last tile reads too much, and what whole vectors write too much.
  static constexpr std::int64_t slack = (widest_conv_tile + 1) * slide_lanes;

  /// Everything is written in ascending order, so that what is written too much is mended by what follows.
  void lay_out(const float* image, float* to) {
    const Layout& l = p_.layout;
    if (y0_ != phases_of_) {
      phases_.clear();
      for (const std::int64_t row : l.rows.starts) {
        for (const std::int64_t column : l.columns.starts) phases_.emplace_back(l, w_, y0_, row, column);
      }
      phases_of_ = y0_;
    }
    const float* const end = image + p_.c.inputs * w_.input_size();
    with_widest_vectors([&]() QTOOL_INLINE {
      for (std::int64_t channel = 0; channel < p_.c.inputs; ++channel, image += w_.input_size()) {
        for (const PhaseLines& phase : phases_) {
          clear_wide(to, phase.above * l.pitch);
          to += phase.above * l.pitch;
          lay_lines(phase, image + phase.from, end, to);
          to += phase.inside * l.pitch;
          clear_wide(to, phase.below * l.pitch);
          to += phase.below * l.pitch;
        }
      }
      clear_wide(to, slack - slide_lanes);
    });
  }

  QTOOL_INLINE void lay_lines(const PhaseLines& phase, const float* from, const float* end, float* to) const {
    const std::int64_t stride = w_.stride[2], step = w_.stride[1] * w_.input[2], pitch = p_.layout.pitch;
    const std::int64_t begin = phase.begin, n = phase.stop - begin, rest = pitch - phase.stop;
    // Lines at the end of the image are copied one by one, for nothing may be read behind it.
    const std::int64_t reach = pieces(n, slide_lanes) * slide_lanes * stride;
    std::int64_t wide = 0;
    if (stride <= 2 && end - from >= reach) wide = std::min(phase.inside, (end - from - reach) / step + 1);
    std::int64_t line = 0;
    for (; line < wide; ++line, from += step, to += pitch) {
      clear_wide(to, begin);
      if (stride == 1) {
        copy_wide(from, to + begin, n);
      } else {
        copy_even(from, to + begin, n);
      }
      clear_wide(to + phase.stop, rest);
    }
    for (; line < phase.inside; ++line, from += step, to += pitch) {
      clear_wide(to, begin);
      for (std::int64_t i = 0; i < n; ++i) to[begin + i] = from[i * stride];
      clear_wide(to + phase.stop, rest);
    }
  }

  /// Output channels [m, m + rows) of the group.
  void channels(const float* from, std::int64_t m, int rows) {
    const std::int64_t channel = image_ % p_.c.groups * p_.c.outputs + m, lanes = p_.tiles.lanes;
    const std::int64_t width = w_.output[2], pitch = p_.layout.pitch, wanted = (y1_ - y0_) * width;
    float* out = p_.y + (image_ * p_.c.outputs + m) * w_.output_size() + y0_ * width;
    // Without gaps between the lines, or with lines of whole vectors, results go where they belong.
    const bool gapless = pitch == width && wanted >= lanes, whole = width % lanes == 0;
    const bool straight = gapless || whole;
    const std::int64_t vectors = straight ? pieces(wanted, lanes) : pieces((y1_ - y0_ - 1) * pitch + width, lanes);

    ConvTile t;
    t.offsets = p_.offsets.data();
    t.depth = static_cast<std::int64_t>(p_.offsets.size());
    t.kernel = p_.kernel + channel * t.depth;
    t.kernel_row = t.depth;
    t.bias = p_.bias == nullptr ? nullptr : p_.bias + channel;
    t.x = from;
    t.y = straight ? out : results_.get(rows * vectors * lanes + slide_lanes);
    t.y_row = straight ? w_.output_size() : vectors * lanes;
    std::int64_t v = 0;
    for (std::int64_t left = pieces(vectors, p_.tiles.most_vectors[rows - 1]); left > 0; --left) {
      const std::int64_t count = pieces(vectors - v, left);
      for (std::int64_t i = 0; i < count; ++i, ++v) {
        t.y_at[i] = straight ? std::min(v * lanes, wanted - lanes) : v * lanes;  // the last one may overlap
        t.x_at[i] = whole ? t.y_at[i] / width * pitch + t.y_at[i] % width : t.y_at[i];
      }
      p_.tiles.compute(t, rows, static_cast<int>(count));
    }
    if (!straight) with_widest_vectors([&]() QTOOL_INLINE { pick(t, rows, out); });
  }

  /// The outputs out of lines with gaps.
  QTOOL_INLINE void pick(const ConvTile& t, int rows, float* out) const {
    const std::int64_t width = w_.output[2], all = (y1_ - y0_) * width;
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* from = t.y + r * t.y_row;
      float* to = out + r * w_.output_size();
      for (std::int64_t done = 0; done < all; done += width, from += p_.layout.pitch) {
        if (all - done >= width + slide_lanes) {
          copy_wide(from, to + done, width);
        } else {
          for (std::int64_t i = 0; i < width; ++i) to[done + i] = from[i];
        }
      }
    }
  }

  const Plan& p_;
  const Window& w_;
  Scratch &lines_, &results_;
  std::int64_t image_ = 0, y0_ = 0, y1_ = 0;
  std::vector<PhaseLines> phases_;
  std::int64_t phases_of_ = -1;  // the band that they are of
};

}  // namespace

bool convolves_directly(const Convolution& c) {
  const Window& w = c.window;
  const bool flat = w.input[0] == 1 && w.output[0] == 1 && w.kernel[0] == 1 && w.pad_begin[0] == 0;
  if (!flat || w.output_size() < fewest_positions || w.input_size() == 0 || c.inputs == 0) return false;
  if (conv_tiles(widest_floats()).compute == nullptr) return false;
  // Attributes are anybody's: a line of outputs must not take far more to lay out than the images themselves, and
  // offsets are 32 bits wide.
  if (std::max(w.kernel[1], w.kernel[2]) > most_taps) return false;
  Layout line = layout_of(c, conv_tiles(widest_floats()).lanes);
  line.set_band(1);
  const auto wide = [](std::int64_t n) { return static_cast<double>(n); };
  const double image = wide(c.inputs) * wide(w.input_size()), result = wide(c.outputs) * wide(w.output_size());
  const double laid_out =
      wide(c.inputs) * wide(line.rows.count() * line.columns.count()) * wide(line.lines) * wide(line.pitch);
  return std::max(image, laid_out) < most_offset && laid_out <= wide(line_block) + 8 * (image + result);
}

void convolve_directly(Threads& threads, const Convolution& c, const float* x, const float* kernel, const float* bias,
                       float* y, Vectors vectors) {
  const Plan plan(c, conv_tiles(vectors), x, kernel, bias, y);
  threads.for_each(plan.tasks(), plan.grain(), [&](std::int64_t begin, std::int64_t end) {
    Scratch lines, results;
    Task task(plan, lines, results);
    for (std::int64_t i = begin; i < end; ++i) task.run(i);
  });
}

}  // namespace qtool
