// SPDX-License-Identifier: Apache-2.0
// Versions in which the same words came to mean something else: defaults, axes, coordinates, shapes of parameters.
#include <algorithm>
#include <numeric>

#include "formats/file/opset.h"

namespace qtool::opset {
namespace {

using Ints = std::vector<std::int64_t>;

Attr attribute(const char* name, decltype(Attr::value) value) { return {name, std::move(value), nullptr}; }

const Shape* shape_of(const Step& s, ValueId v) {
  const Value& value = s.graph()[v];
  if (!value.data.empty()) return &value.data.shape();
  return value.type.known_rank ? &value.type.shape : nullptr;
}

/// True where flattening from `axis` on leaves one extent other than 1, the one at `axis`.
bool only_axis_counts(const Shape& shape, std::int64_t axis) {
  const auto rank = static_cast<std::int64_t>(shape.size());
  if (axis < 0 || axis >= rank) return false;
  return std::all_of(shape.begin() + axis + 1, shape.end(), [](std::int64_t d) { return d == 1; });
}

/// Until version 12 Softmax, LogSoftmax and Hardmax work on the value flattened to two axes at `axis` (default 1);
/// from 13 on, on `axis` alone (default -1).
void softmax13_up(const Step& s) {
  std::int64_t axis = s.node().attrs.get("axis", std::int64_t{1});
  const Shape* shape = shape_of(s, s.input(0));
  if (axis == -1) return s.node().attrs.set("axis", axis);
  if (shape != nullptr) {
    if (axis < 0) axis += static_cast<std::int64_t>(shape->size());
    if (only_axis_counts(*shape, axis)) return s.node().attrs.set("axis", axis);
  }
  const ValueId x = s.input(0);
  s.put_before(0, "Flatten", {x}, {attribute("axis", axis)});
  s.node().attrs.set("axis", std::int64_t{1});
  const ValueId flat = s.input(0);
  const ValueId extents = s.put_before(0, "Shape", {x}, {});
  s.set_input(0, flat);
  s.put_behind("Reshape", {extents}, {});
}

void softmax13_down(const Step& s) {
  std::int64_t axis = s.node().attrs.get("axis", std::int64_t{-1});
  if (axis == -1) return s.node().attrs.set("axis", axis);
  const Shape* shape = shape_of(s, s.input(0));
  if (shape == nullptr) s.refuse("works on an axis of a value whose rank is not known");
  const auto rank = static_cast<std::int64_t>(shape->size());
  if (axis < 0) axis += rank;
  if (axis < 0 || axis >= rank) s.refuse("works on an axis that its input lacks");
  s.node().attrs.set("axis", axis);
  if (only_axis_counts(*shape, axis)) return;
  Ints swap(static_cast<std::size_t>(rank));
  std::iota(swap.begin(), swap.end(), 0);
  std::swap(swap[static_cast<std::size_t>(axis)], swap.back());
  s.put_before(0, "Transpose", {s.input(0)}, {attribute("perm", swap)});
  s.node().attrs.set("axis", rank - 1);
  s.put_behind("Transpose", {}, {attribute("perm", swap)});
}

/// Axes counted from the back exist from version 11 on.
void axes11_down(const Step& s) {
  Attrs& attrs = s.node().attrs;
  const bool unsqueeze = s.node().op == "Unsqueeze";
  const bool minus_one_known = s.node().op == "TopK" || s.node().op == "OneHot";
  const auto forward = [&](std::int64_t axis) {
    if (axis >= 0) return axis;
    const auto rank = s.rank(s.input(0));
    if (!rank) s.refuse("counts an axis from the back of a value whose rank is not known");
    const auto added = unsqueeze ? static_cast<std::int64_t>(attrs.get("axes", Ints{}).size()) : 0;
    return axis + *rank + added;
  };
  if (const Attr* axis = attrs.find("axis"); axis != nullptr) {
    const std::int64_t old = attrs.get("axis", std::int64_t{0});
    if (old < 0 && !(minus_one_known && old == -1)) attrs.set("axis", forward(old));
  }
  if (attrs.has("axes")) {
    Ints axes = attrs.get("axes", Ints{});
    if (std::any_of(axes.begin(), axes.end(), [](std::int64_t a) { return a < 0; })) {
      std::transform(axes.begin(), axes.end(), axes.begin(), forward);
      attrs.set("axes", axes);
    }
  }
}

/// Indices counted from the back exist from version 11 on.
void check_indices(const Step& s, std::size_t i) {
  const Tensor indices = s.constant(s.input(i));
  if (indices.empty()) s.refuse("has computed indices, which could be negative and then mean something else");
  const Ints list = to_int64s(indices);
  if (std::any_of(list.begin(), list.end(), [](std::int64_t v) { return v < 0; })) {
    s.refuse("has negative indices, which only one of the two versions counts from the back");
  }
}

void gather11_down(const Step& s) {
  check_indices(s, 1);
  axes11_down(s);
}

void onehot11_up(const Step& s) { check_indices(s, 0); }
void onehot11_down(const Step& s) {
  check_indices(s, 0);
  axes11_down(s);
}

void scatter11_up(const Step& s) { s.node().op = "ScatterElements"; }
void scatter11_down(const Step& s) {
  check_indices(s, 1);
  axes11_down(s);
  s.node().op = "Scatter";
}

void scatter18_down(const Step& s) {
  const std::string reduction = s.node().attrs.get("reduction", "none");
  if (reduction == "max" || reduction == "min") s.refuse("reduces by " + reduction + ", which the older version lacks");
}

void upsample10_up(const Step& s) { s.node().op = "Resize"; }

void resize10_down(const Step& s) {
  const Tensor scales = s.need_constant(1, "scales");
  if (scales.dtype() != DType::f32) s.refuse("has scales that are not float");
  for (const float scale : scales.read<float>()) {
    if (!(scale >= 1)) s.refuse("shrinks, which Upsample cannot");
  }
  s.node().op = "Upsample";
}

/// Version 10 maps coordinates by x / scale and rounds down.
void resize11_up(const Step& s) {
  Attrs& attrs = s.node().attrs;
  attrs.set("coordinate_transformation_mode", std::string("asymmetric"));
  if (attrs.get("mode", "nearest") == "nearest") attrs.set("nearest_mode", std::string("floor"));
  s.set_input(2, s.input(1));
  s.set_input(1, "roi", Tensor(DType::f32, {0}));
}

void resize11_down(const Step& s) {
  Attrs& attrs = s.node().attrs;
  const std::string mode = attrs.get("mode", "nearest");
  const Tensor scales = s.constant(s.input(2));
  if (s.has_input(3) || (!scales.empty() && scales.count() == 0)) s.refuse("resizes to given sizes");
  if (mode == "cubic") s.refuse("interpolates with cubics");
  if (attrs.get("coordinate_transformation_mode", "half_pixel") != "asymmetric" ||
      (mode == "nearest" && attrs.get("nearest_mode", "round_prefer_floor") != "floor")) {
    s.refuse("maps coordinates in a way that the older version lacks");
  }
  for (const char* name :
       {"coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value"}) {
    attrs.erase(name);
  }
  s.set_input(1, s.input(2));
  s.cut_inputs(2);
}

void resize19_down(const Step& s) {
  if (s.node().attrs.get("coordinate_transformation_mode", "half_pixel") == "half_pixel_symmetric") {
    s.refuse("uses half_pixel_symmetric, which the older version lacks");
  }
}

void pad19_down(const Step& s) {
  if (s.node().attrs.get("mode", "constant") == "wrap") s.refuse("wraps around, which the older version lacks");
}

void reshape14_down(const Step& s) {
  if (s.node().attrs.get("allowzero", std::int64_t{0}) == 0) return;
  const Ints shape = to_int64s(s.need_constant(1, "shapes"));
  if (std::find(shape.begin(), shape.end(), 0) != shape.end())
    s.refuse("makes an empty extent, which the older version cannot");
  s.node().attrs.erase("allowzero");
}

/// Only output 0 has the same meaning: running statistics changed form twice.
void batch_normalization14(const Step& s) {
  Node& node = s.node();
  for (std::size_t i = 1; i < node.outputs.size(); ++i) {
    if (node.outputs[i] != ValueId::none) s.refuse("gives running statistics, which the versions define differently");
  }
  node.outputs.resize(1);
}

constexpr std::pair<const char*, const char*> grid_modes[] = {{"bilinear", "linear"}, {"bicubic", "cubic"}};

void grid_sample20_up(const Step& s) {
  std::string mode = s.node().attrs.get("mode", "bilinear");
  for (const auto& [older, newer] : grid_modes) {
    if (mode == older) mode = newer;
  }
  s.node().attrs.set("mode", mode);
}

void grid_sample20_down(const Step& s) {
  if (s.rank(s.input(0)) != 4) s.refuse("reads a value that is not known to have four axes");
  std::string mode = s.node().attrs.get("mode", "linear");
  for (const auto& [older, newer] : grid_modes) {
    if (mode == newer) mode = older;
  }
  s.node().attrs.set("mode", mode);
}

/// Scale and bias: one per group until 20, one per channel from 21 on. The older form is deprecated: never a target.
void group_normalization21_up(const Step& s) {
  const Shape* shape = shape_of(s, s.input(0));
  const std::int64_t groups = s.node().attrs.get("num_groups", std::int64_t{0});
  if (shape == nullptr || shape->size() < 2 || (*shape)[1] < 1) s.refuse("has a number of channels that is not known");
  const std::int64_t channels = (*shape)[1];
  if (groups < 1 || channels % groups != 0) s.refuse("has groups that do not divide its channels");
  for (const auto& [i, role] : {std::pair<std::size_t, const char*>{1, "scale"}, {2, "bias"}}) {
    const ValueId old = s.input(i);
    const ValueId column = s.add_constant(std::string(role) + "_column", int64_list({groups, 1}));
    const ValueId square = s.add_constant(std::string(role) + "_square", int64_list({groups, channels / groups}));
    const ValueId flat = s.add_constant(std::string(role) + "_flat", int64_list({channels}));
    const ValueId stood = s.put_before(i, "Reshape", {old, column}, {});
    const ValueId spread = s.put_before(i, "Expand", {stood, square}, {});
    s.put_before(i, "Reshape", {spread, flat}, {});
  }
}

void roi_align16_up(const Step& s) {
  s.node().attrs.set("coordinate_transformation_mode", std::string("output_half_pixel"));
}
void roi_align16_down(const Step& s) {
  if (s.node().attrs.get("coordinate_transformation_mode", "half_pixel") != "output_half_pixel") {
    s.refuse("maps coordinates by half pixels, which the older version lacks");
  }
  s.node().attrs.erase("coordinate_transformation_mode");
}

/// Scales per axis exist from version 13 on.
void quantize13_down(const Step& s) {
  const Tensor scale = s.constant(s.input(1));
  if (scale.empty() ? s.rank(s.input(1)) != 0 : scale.count() != 1) {
    s.refuse("has scales that are not known to be a single number");
  }
  for (const std::size_t i : {std::size_t{1}, std::size_t{2}}) {
    const Tensor data = s.constant(s.input(i));
    if (!data.empty() && data.rank() != 0) s.set_input(i, i == 1 ? "scale" : "zero_point", data.reshaped({}));
  }
  s.node().attrs.erase("axis");
}

/// Before version 8 all inputs have one shape.
void broadcast8_down(const Step& s) {
  const Shape* first = shape_of(s, s.input(0));
  for (std::size_t i = 0; i < s.node().inputs.size(); ++i) {
    const Shape* shape = s.has_input(i) ? shape_of(s, s.input(i)) : nullptr;
    const bool known = shape != nullptr && first != nullptr &&
                       std::all_of(shape->begin(), shape->end(), [](std::int64_t d) { return d >= 0; });
    if (!known || *shape != *first) s.refuse("reads values that are not known to have one shape");
  }
}

/// The default of dilations is 1 everywhere; versions without the attribute know nothing else.
void dilations_down(const Step& s) {
  const Ints dilations = s.node().attrs.get("dilations", Ints{});
  if (std::any_of(dilations.begin(), dilations.end(), [](std::int64_t d) { return d != 1; })) {
    s.refuse("has dilations, which the older version lacks");
  }
  s.node().attrs.erase("dilations");
}

/// Padding that a formula gives is split the other way in version 1, which only shows where it is odd.
void conv_transpose11(const Step& s) {
  const Attrs& attrs = s.node().attrs;
  const std::string pad = attrs.get("auto_pad", "NOTSET");
  const Ints output = attrs.get("output_shape", Ints{});
  if ((pad == "NOTSET" || pad == "VALID") && output.empty()) return;
  const Shape* image = shape_of(s, s.input(0));
  const Shape* weights = shape_of(s, s.input(1));
  const std::size_t axes = image != nullptr && image->size() > 2 ? image->size() - 2 : 0;
  const Ints ones(axes, 1), zeros(axes, 0);
  const Ints stride = attrs.get("strides", ones), dilation = attrs.get("dilations", ones);
  const Ints room = attrs.get("output_padding", zeros);
  // The last entries are the spatial axes; products of two stay far from overflow.
  const auto per_axis = [axes](const std::vector<std::int64_t>& list) {
    return (list.size() == axes || list.size() == axes + 2) &&
           std::all_of(list.end() - static_cast<std::ptrdiff_t>(axes), list.end(),
                       [](std::int64_t x) { return x >= 0 && x < std::int64_t{1} << 30; });
  };
  const auto spatial = [axes](const std::vector<std::int64_t>& list, std::size_t i) {
    return list[list.size() - axes + i];
  };
  if (axes == 0 || weights == nullptr || !per_axis(*image) || !per_axis(*weights) || !per_axis(stride) ||
      !per_axis(dilation) || !per_axis(room) || (!output.empty() && !per_axis(output))) {
    s.refuse("leaves its padding to a formula, and its extents are not known");
  }
  for (std::size_t i = 0; i < axes; ++i) {
    const std::int64_t in = spatial(*image, i), step = spatial(stride, i);
    const std::int64_t full =
        (in - 1) * step + spatial(room, i) + (spatial(*weights, i) - 1) * spatial(dilation, i) + 1;
    const std::int64_t out = output.empty() ? in * step : spatial(output, i);
    if (full > out && (full - out) % 2 != 0) {
      s.refuse("pads by an odd number that a formula gives, and the versions put the odd row at different ends");
    }
  }
}

void mod28_down(const Step& s) {
  if (s.node().attrs.get("fmod", std::int64_t{0}) != 0) return;
  const auto dtype = s.dtype(s.input(0));
  if (!dtype || is_float(*dtype)) s.refuse("takes a floored remainder of values that are not known to be integers");
}

void refused(const Step& s) { s.refuse("has another form in the other version, which is not converted"); }

constexpr Rule list[] = {
    {"Softmax", 13, softmax13_up, softmax13_down},
    {"LogSoftmax", 13, softmax13_up, softmax13_down},
    {"Hardmax", 13, softmax13_up, softmax13_down},
    {"ArgMax", 11, nullptr, axes11_down},
    {"ArgMin", 11, nullptr, axes11_down},
    {"Compress", 11, nullptr, axes11_down},
    {"Concat", 11, nullptr, axes11_down},
    {"Flatten", 11, nullptr, axes11_down},
    {"Gather", 11, nullptr, gather11_down},
    {"Hardmax", 11, nullptr, axes11_down},
    {"LogSoftmax", 11, nullptr, axes11_down},
    {"OneHot", 11, onehot11_up, onehot11_down},
    {"ReduceL1", 11, nullptr, axes11_down},
    {"ReduceL2", 11, nullptr, axes11_down},
    {"ReduceLogSum", 11, nullptr, axes11_down},
    {"ReduceLogSumExp", 11, nullptr, axes11_down},
    {"ReduceMax", 11, nullptr, axes11_down},
    {"ReduceMean", 11, nullptr, axes11_down},
    {"ReduceMin", 11, nullptr, axes11_down},
    {"ReduceProd", 11, nullptr, axes11_down},
    {"ReduceSum", 11, nullptr, axes11_down},
    {"ReduceSumSquare", 11, nullptr, axes11_down},
    {"Scan", 9, refused, refused},
    {"Scan", 11, nullptr, refused},
    {"Scatter", 11, scatter11_up, nullptr},
    {"ScatterElements", 11, nullptr, scatter11_down},
    {"ScatterElements", 18, nullptr, scatter18_down},
    {"ScatterND", 18, nullptr, scatter18_down},
    {"Softmax", 11, nullptr, axes11_down},
    {"Split", 11, nullptr, axes11_down},
    {"Squeeze", 11, nullptr, axes11_down},
    {"TopK", 11, nullptr, axes11_down},
    {"Unsqueeze", 11, nullptr, axes11_down},
    {"Upsample", 10, upsample10_up, nullptr},
    {"Resize", 10, nullptr, resize10_down},
    {"Resize", 11, resize11_up, resize11_down},
    {"Resize", 19, nullptr, resize19_down},
    {"Pad", 19, nullptr, pad19_down},
    {"Reshape", 14, nullptr, reshape14_down},
    {"BatchNormalization", 14, batch_normalization14, batch_normalization14},
    {"GridSample", 20, grid_sample20_up, grid_sample20_down},
    {"GroupNormalization", 21, group_normalization21_up, nullptr},
    {"RoiAlign", 16, roi_align16_up, roi_align16_down},
    {"QuantizeLinear", 13, nullptr, quantize13_down},
    {"DequantizeLinear", 13, nullptr, quantize13_down},
    {"Max", 8, nullptr, broadcast8_down},
    {"Min", 8, nullptr, broadcast8_down},
    {"Mean", 8, nullptr, broadcast8_down},
    {"Sum", 8, nullptr, broadcast8_down},
    {"AveragePool", 19, nullptr, dilations_down},
    {"LpPool", 18, nullptr, dilations_down},
    {"MaxPool", 10, nullptr, dilations_down},
    {"ConvTranspose", 11, conv_transpose11, conv_transpose11},
    {"Mod", 28, nullptr, mod28_down},
};

}  // namespace

std::span<const Rule> meaning_rules() { return list; }

}  // namespace qtool::opset
