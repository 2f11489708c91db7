// SPDX-License-Identifier: Apache-2.0
// Versions in which attributes became inputs, or inputs became optional. Upwards an attribute turns into a constant;
// downwards the input has to be one.
#include <algorithm>
#include <limits>
#include <numeric>

#include "formats/file/opset.h"

namespace qtool::opset {
namespace {

using Ints = std::vector<std::int64_t>;

Ints ints(const Step& s, const char* name) { return s.node().attrs.get(name, Ints{}); }

/// Attribute `name`, a list of integers, becomes input i; absent or empty: no input.
void list_up(const Step& s, const char* name, std::size_t i) {
  const Ints list = ints(s, name);
  s.node().attrs.erase(name);
  if (!list.empty()) s.set_input(i, name, int64_list(list));
}

void list_down(const Step& s, const char* name, std::size_t i, const char* what) {
  if (s.has_input(i)) {
    const Ints list = to_int64s(s.need_constant(i, what));
    if (!list.empty()) s.node().attrs.set(name, list);
  }
  s.cut_inputs(i);
}

void axes_up(const Step& s) { list_up(s, "axes", 1); }
void squeeze_down(const Step& s) { list_down(s, "axes", 1, "axes"); }

void reduce_down(const Step& s) {
  const bool all = !s.has_input(1) || s.constant(s.input(1)).count() == 0;
  if (s.node().attrs.get("noop_with_empty_axes", std::int64_t{0}) != 0 && all) {
    s.refuse("reduces nothing when it has no axes, which the older version cannot say");
  }
  s.node().attrs.erase("noop_with_empty_axes");
  list_down(s, "axes", 1, "axes");
}

void split13_up(const Step& s) { list_up(s, "split", 1); }
void split13_down(const Step& s) { list_down(s, "split", 1, "sizes"); }

void split18_up(const Step& s) {
  if (!s.has_input(1)) s.node().attrs.set("num_outputs", static_cast<std::int64_t>(s.node().outputs.size()));
}

void split18_down(const Step& s) {
  Node& node = s.node();
  if (!node.attrs.has("num_outputs")) return;
  const std::int64_t parts = node.attrs.get("num_outputs", std::int64_t{0});
  std::int64_t axis = node.attrs.get("axis", std::int64_t{0});
  const auto rank = s.rank(s.input(0));
  const std::int64_t extent = [&] {
    if (!rank) return std::int64_t{-1};
    if (axis < 0) axis += *rank;
    const Value& x = s.graph()[s.input(0)];
    const Shape& shape = x.data.empty() ? x.type.shape : x.data.shape();
    return axis >= 0 && axis < *rank ? shape[static_cast<std::size_t>(axis)] : std::int64_t{-1};
  }();
  if (extent < 0 || parts < 1) s.refuse("splits an extent that is not known into equal parts");
  node.attrs.erase("num_outputs");
  if (extent % parts == 0) return;
  const std::int64_t size = (extent + parts - 1) / parts;
  Ints sizes(static_cast<std::size_t>(parts), size);
  sizes.back() = extent - size * (parts - 1);
  if (sizes.back() < 0) s.refuse("splits " + std::to_string(extent) + " into too many parts");
  s.set_input(1, "split", int64_list(sizes));
}

void pad11_up(const Step& s) {
  const float value = s.node().attrs.get("value", 0.0F);
  s.set_input(1, "pads", int64_list(ints(s, "pads")));
  s.node().attrs.erase("pads");
  if (value != 0) s.set_input(2, "value", from_f32(Tensor::scalar(value), s.need_dtype(0)));
  s.node().attrs.erase("value");
}

void pad11_down(const Step& s) {
  if (s.has_input(2)) {
    const Tensor value = s.need_constant(2, "pad values");
    if (!is_float(value.dtype()) || value.count() != 1) s.refuse("pads with a value that is no float");
    s.node().attrs.set("value", to_f32(value).read<float>()[0]);
  }
  list_down(s, "pads", 1, "pads");
}

void pad18_down(const Step& s) {
  if (!s.has_input(3)) return;
  const Ints axes = to_int64s(s.need_constant(3, "axes"));
  const Ints pads = to_int64s(s.need_constant(1, "pads"));
  const auto rank = s.rank(s.input(0));
  if (!rank) s.refuse("pads some axes of a value whose rank is not known");
  Ints all(static_cast<std::size_t>(2 * *rank), 0);
  if (pads.size() != 2 * axes.size()) s.refuse("has pads that do not fit its axes");
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const std::int64_t axis = axes[i] < 0 ? axes[i] + *rank : axes[i];
    if (axis < 0 || axis >= *rank) s.refuse("pads an axis that the value lacks");
    all[static_cast<std::size_t>(axis)] = pads[i];
    all[static_cast<std::size_t>(axis + *rank)] = pads[axes.size() + i];
  }
  s.set_input(1, "pads", int64_list(all));
  s.cut_inputs(3);
}

void clip11_up(const Step& s) {
  Attrs& attrs = s.node().attrs;
  for (const auto& [name, i] : {std::pair<const char*, std::size_t>{"min", 1}, {"max", 2}}) {
    if (!attrs.has(name)) continue;
    const float limit = attrs.get(name, 0.0F);
    attrs.erase(name);
    const bool no_limit = limit == (i == 1 ? std::numeric_limits<float>::lowest() : std::numeric_limits<float>::max());
    if (!no_limit) s.set_input(i, name, from_f32(Tensor::scalar(limit), s.need_dtype(0)));
  }
}

void clip11_down(const Step& s) {
  for (const auto& [name, i] : {std::pair<const char*, std::size_t>{"min", 1}, {"max", 2}}) {
    if (!s.has_input(i)) continue;
    const Tensor limit = s.need_constant(i, "limits");
    if (!is_float(limit.dtype()) || limit.dtype() == DType::f64 || limit.count() != 1) {
      s.refuse("has a limit that a float attribute cannot hold");
    }
    s.node().attrs.set(name, to_f32(limit).read<float>()[0]);
  }
  s.cut_inputs(1);
}

/// The mask changed its type at version 10 and what it says in inference at version 12.
void drop_mask(const Step& s) {
  Node& node = s.node();
  if (node.outputs.size() > 1 && s.used(node.outputs[1]))
    s.refuse("gives a mask, which the other version defines differently");
  node.outputs.resize(1);
}

void dropout12_up(const Step& s) {
  drop_mask(s);
  Attrs& attrs = s.node().attrs;
  if (attrs.has("ratio")) s.set_input(1, "ratio", Tensor::scalar(attrs.get("ratio", 0.5F)));
  attrs.erase("ratio");
}

void dropout12_down(const Step& s) {
  drop_mask(s);
  if (s.has_input(2)) {
    const Tensor training = s.need_constant(2, "modes");
    if (training.count() != 1 || training.bytes()[0] != std::byte{0}) s.refuse("is in training mode");
  }
  const Tensor ratio = s.constant(s.input(1));
  if (ratio.count() == 1) s.node().attrs.set("ratio", to_f32(ratio).read<float>()[0]);  // idle in inference
  s.node().attrs.erase("seed");
  s.cut_inputs(1);
}

void slice10_up(const Step& s) {
  const Ints starts = ints(s, "starts"), ends = ints(s, "ends");
  s.node().attrs.erase("starts");
  s.node().attrs.erase("ends");
  s.set_input(1, "starts", int64_list(starts));
  s.set_input(2, "ends", int64_list(ends));
  list_up(s, "axes", 3);
}

void slice10_down(const Step& s) {
  if (s.has_input(4)) {
    const Ints steps = to_int64s(s.need_constant(4, "steps"));
    if (std::any_of(steps.begin(), steps.end(), [](std::int64_t v) { return v != 1; })) s.refuse("slices in steps");
  }
  s.cut_inputs(4);
  list_down(s, "axes", 3, "axes");
  const Ints ends = to_int64s(s.need_constant(2, "ends")), starts = to_int64s(s.need_constant(1, "starts"));
  s.node().attrs.set("starts", starts);
  s.node().attrs.set("ends", ends);
  s.cut_inputs(1);
}

void slice11_down(const Step& s) {
  if (!s.has_input(3)) return;
  Ints axes = to_int64s(s.need_constant(3, "axes"));
  if (std::all_of(axes.begin(), axes.end(), [](std::int64_t a) { return a >= 0; })) return;
  const auto rank = s.rank(s.input(0));
  if (!rank) s.refuse("counts axes from the back of a value whose rank is not known");
  for (std::int64_t& a : axes) a += a < 0 ? *rank : 0;
  s.set_input(3, "axes", int64_list(axes));
}

void topk10_up(const Step& s) {
  const std::int64_t k = s.node().attrs.get("k", std::int64_t{0});
  s.node().attrs.erase("k");
  s.set_input(1, "k", int64_list({k}));
}

void topk10_down(const Step& s) {
  const Ints k = to_int64s(s.need_constant(1, "counts"));
  if (k.size() != 1) s.refuse("has more than one count");
  s.node().attrs.set("k", k[0]);
  s.cut_inputs(1);
}

void topk11_down(const Step& s) { s.node().attrs.erase("sorted"); }  // any order is right where it was 0

void upsample9_up(const Step& s) {
  const auto scales = s.node().attrs.get("scales", std::vector<float>{});
  s.node().attrs.erase("scales");
  s.set_input(1, "scales", Tensor::of<float>({static_cast<std::int64_t>(scales.size())}, scales));
}

void upsample9_down(const Step& s) {
  const Tensor scales = s.need_constant(1, "scales");
  if (scales.dtype() != DType::f32) s.refuse("has scales that are not float");
  const auto list = scales.read<float>();
  s.node().attrs.set("scales", std::vector<float>(list.begin(), list.end()));
  s.cut_inputs(1);
}

/// An empty list stands for an input that later versions leave out.
void resize13_down(const Step& s) {
  for (const std::size_t i : {std::size_t{1}, std::size_t{2}}) {
    if (!s.has_input(i)) s.set_input(i, i == 1 ? "roi" : "scales", Tensor(DType::f32, {0}));
  }
}

void resize13_up(const Step& s) {
  if (s.node().attrs.get("coordinate_transformation_mode", "half_pixel") == "tf_half_pixel_for_nn") {
    s.refuse("uses tf_half_pixel_for_nn, which newer versions dropped");
  }
  const bool sizes = s.has_input(3);
  for (const std::size_t i : {std::size_t{1}, std::size_t{2}}) {
    const Tensor data = s.constant(s.input(i));
    const bool empty = !data.empty() && data.count() == 0;
    if (empty || (i == 2 && sizes)) s.set_input(i, ValueId::none);  // beside sizes, scales had to be empty
  }
}

void dft20_up(const Step& s) {
  const std::int64_t axis = s.node().attrs.get("axis", std::int64_t{1});
  s.node().attrs.erase("axis");
  s.set_input(2, "axis", Tensor::scalar(axis));
}

void dft20_down(const Step& s) {
  std::int64_t axis = -2;
  if (s.has_input(2)) {
    const Ints axes = to_int64s(s.need_constant(2, "axes"));
    if (axes.size() != 1) s.refuse("has an axis that is no single number");
    axis = axes[0];
  }
  if (axis < 0) {
    const auto rank = s.rank(s.input(0));
    if (!rank) s.refuse("counts its axis from the back of a value whose rank is not known");
    axis += *rank;
  }
  s.node().attrs.set("axis", axis);
  s.cut_inputs(s.has_input(1) ? 2 : 1);
}

void gemm11_down(const Step& s) {
  if (!s.has_input(2)) s.set_input(2, "zero", Tensor(s.need_dtype(0), {1}));
}

void constant12_down(const Step& s) {
  Attrs& attrs = s.node().attrs;
  if (attrs.all.size() != 1) return;
  const auto value = attrs.all[0].value;
  Tensor data;
  if (const auto* f = std::get_if<float>(&value)) data = Tensor::scalar(*f);
  if (const auto* i = std::get_if<std::int64_t>(&value)) data = Tensor::scalar(*i);
  if (const auto* t = std::get_if<std::string>(&value)) data = Tensor::strings({}, {*t});
  if (const auto* list = std::get_if<std::vector<float>>(&value)) {
    data = Tensor::of<float>({static_cast<std::int64_t>(list->size())}, *list);
  }
  if (const auto* list = std::get_if<Ints>(&value)) data = int64_list(*list);
  if (const auto* list = std::get_if<std::vector<std::string>>(&value)) {
    data = Tensor::strings({static_cast<std::int64_t>(list->size())}, *list);
  }
  if (data.empty()) return;
  attrs.all.clear();
  attrs.set("value", data);
}

constexpr Rule list[] = {
    {"Squeeze", 13, axes_up, squeeze_down},
    {"Unsqueeze", 13, axes_up, squeeze_down},
    {"ReduceSum", 13, axes_up, reduce_down},
    {"ReduceL1", 18, axes_up, reduce_down},
    {"ReduceL2", 18, axes_up, reduce_down},
    {"ReduceLogSum", 18, axes_up, reduce_down},
    {"ReduceLogSumExp", 18, axes_up, reduce_down},
    {"ReduceMax", 18, axes_up, reduce_down},
    {"ReduceMean", 18, axes_up, reduce_down},
    {"ReduceMin", 18, axes_up, reduce_down},
    {"ReduceProd", 18, axes_up, reduce_down},
    {"ReduceSumSquare", 18, axes_up, reduce_down},
    {"Split", 13, split13_up, split13_down},
    {"Split", 18, split18_up, split18_down},
    {"Pad", 11, pad11_up, pad11_down},
    {"Pad", 18, nullptr, pad18_down},
    {"Clip", 11, clip11_up, clip11_down},
    {"Dropout", 10, drop_mask, drop_mask},
    {"Dropout", 12, dropout12_up, dropout12_down},
    {"Slice", 10, slice10_up, slice10_down},
    {"Slice", 11, nullptr, slice11_down},
    {"TopK", 10, topk10_up, topk10_down},
    {"TopK", 11, nullptr, topk11_down},
    {"Upsample", 9, upsample9_up, upsample9_down},
    {"Resize", 13, resize13_up, resize13_down},
    {"DFT", 20, dft20_up, dft20_down},
    {"Gemm", 11, nullptr, gemm11_down},
    {"Constant", 12, nullptr, constant12_down},
};

}  // namespace

std::span<const Rule> signature_rules() { return list; }

}  // namespace qtool::opset
