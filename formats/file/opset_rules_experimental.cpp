// SPDX-License-Identifier: Apache-2.0
// Operators that were "experimental" in the standard domain until version 10 took them out, and that exporters of the
// time wrote: on the way up they become the standard operators that they abbreviate.
#include <limits>

#include "formats/file/opset.h"

namespace qtool::opset {
namespace {

using Ints = std::vector<std::int64_t>;
using Floats = std::vector<float>;

Tensor of_type(const Step& s, const Shape& shape, const Floats& values) {
  const Tensor floats = Tensor::of<float>(shape, values);
  const DType dtype = s.dtype(s.input(0)).value_or(DType::f32);
  return dtype == DType::f32 ? floats : from_f32(floats, dtype);
}

void becomes(const Step& s, std::string_view op, std::vector<Attr> attrs) {
  s.node().op = op;
  s.node().attrs.all = std::move(attrs);
}

/// ImageScaler (CoreML converters): x * scale + bias, one bias per channel of [N, C, H, W].
void image_scaler(const Step& s) {
  const float scale = s.node().attrs.get("scale", 1.0F);
  const Floats bias = s.node().attrs.get("bias", Floats{});
  becomes(s, "Mul", {});
  s.set_input(1, "scale", of_type(s, {}, {scale}));
  if (bias.empty()) return;
  const ValueId shift = s.add_constant("bias", of_type(s, {static_cast<std::int64_t>(bias.size()), 1, 1}, bias));
  s.put_behind("Add", {shift}, {});
}

/// Affine (Caffe2): alpha * x + beta.
void affine(const Step& s) {
  const float alpha = s.node().attrs.get("alpha", 1.0F), beta = s.node().attrs.get("beta", 0.0F);
  becomes(s, "Mul", {});
  s.set_input(1, "alpha", of_type(s, {}, {alpha}));
  s.put_behind("Add", {s.add_constant("beta", of_type(s, {}, {beta}))}, {});
}

/// Crop (CoreML converters): border = left, top, right, bottom of [N, C, H, W]; `scale`, where given, is the height and
/// width that remain.
void crop(const Step& s) {
  const Ints border = s.node().attrs.get("border", Ints{}), scale = s.node().attrs.get("scale", Ints{});
  if (border.size() != 4 || (!scale.empty() && scale.size() != 2)) s.refuse("has no border of four numbers");
  const auto end = [&](std::int64_t begin, std::int64_t behind, std::size_t axis) {
    if (!scale.empty()) return begin + scale[axis];
    return behind == 0 ? std::numeric_limits<std::int64_t>::max() : -behind;
  };
  const Ints starts{border[1], border[0]}, ends{end(border[1], border[3], 0), end(border[0], border[2], 1)};
  becomes(s, "Slice", {{"axes", Ints{2, 3}, nullptr}, {"ends", ends, nullptr}, {"starts", starts, nullptr}});
}

constexpr Experimental operators[]{{"Affine", affine}, {"Crop", crop}, {"ImageScaler", image_scaler}};

}  // namespace

const Experimental* find_experimental(std::string_view op) {
  for (const Experimental& e : operators) {
    if (e.op == op) return &e;
  }
  return nullptr;
}

}  // namespace qtool::opset
