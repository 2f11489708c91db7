// SPDX-License-Identifier: Apache-2.0
// Col2Im: columns of a sliding window added back into the image that they were cut from.
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/operand.h"
#include "calib/ops/rows.h"
#include "calib/ops/window.h"

namespace qtool::op {
namespace {

/// The window over an image of `image` spatial extents.
Window window_over(const Attrs& attrs, const std::vector<std::int64_t>& image, const std::vector<std::int64_t>& block) {
  require(image.size() == block.size() && !image.empty() && image.size() <= 3,
          "an image of " + std::to_string(image.size()) + " axes with blocks of " + std::to_string(block.size()) +
              " is not supported by Col2Im here");
  Shape shape{1, 1};
  for (const std::int64_t n : image) {
    require(n > 0, "Col2Im has an image without pixels");
    shape.push_back(n);
  }
  return window_of(attrs, shape, Shape(block.begin(), block.end()));
}

void forward(const OpContext& c) {
  const Tensor x = compute_float(c.in(0), "the columns");
  const std::vector<std::int64_t> image = to_int64s(c.in(1)), block = to_int64s(c.in(2));
  const Window w = window_over(c.attrs(), image, block);
  const std::int64_t taps = w.kernel_size(), positions = w.output_size(), size = w.input_size();
  require(x.rank() == 3 && x.shape()[1] % taps == 0 && x.shape()[2] == positions,
          "columns of shape " + to_string(x.shape()) + " do not fit " + std::to_string(positions) + " blocks of " +
              std::to_string(taps));
  Shape shape{x.shape()[0], x.shape()[1] / taps};
  shape.insert(shape.end(), image.begin(), image.end());
  Tensor y(x.dtype(), shape);
  for_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* from = x.read<T>().data();
    T* to = y.write<T>().data();
    for_rows(c.threads, shape[0] * shape[1], taps * positions, [&](std::int64_t plane) {
      add_columns_to_image(w, from + plane * taps * positions, 1, positions, to + plane * size);
    });
  });
  c.out(0, narrowed(std::move(y), c.in(0).dtype()));
}

void infer(InferContext& c) {
  if (!c.in(0).known_dtype) return;
  c.out(0, c.in(0).dtype);
  if (!c.constant(1) || !c.constant(2) || !c.in(0).known_rank || c.in(0).shape.size() != 3) return;
  const std::vector<std::int64_t> image = to_int64s(c.constant(1));
  const Window w = window_over(c.attrs(), image, to_int64s(c.constant(2)));
  const std::int64_t rows = c.in(0).shape[1];
  Shape shape{c.in(0).shape[0], rows < 0 ? -1 : rows / w.kernel_size()};
  shape.insert(shape.end(), image.begin(), image.end());
  c.out(0, c.in(0).dtype, shape);
}

}  // namespace

constinit const OpDef Col2Im{"Col2Im", "", 18, infer, forward, nullptr};

}  // namespace qtool::op
