// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/parts.h"

#include <algorithm>

#include "formats/base/error.h"
#include "formats/ir/runs.h"

namespace qtool {

using runs::ceil_div;
using runs::index;

Parts::Parts(const Grain& grain, const Shape& x) : shape_(x), count_(index(element_count(x))) {
  const Shape scale = scale_shape(grain, x);
  scales_ = index(element_count(scale));
  for (std::size_t i = 1; i < x.size(); ++i) inner_ *= index(x[i]);
  const bool groups = grain.kind == Grain::Kind::groups, blocks = grain.kind == Grain::Kind::blocks;
  if (groups && grain.axis == 0) unit_ = index(grain.group);
  if (blocks && x.size() == 2) unit_ = index(grain.group);
  if (x.empty()) return;
  unit_ = std::min(unit_, std::max<std::size_t>(index(x[0]), 1));
  sliced_ = groups || blocks || (grain.kind == Grain::Kind::axis && grain.axis == 0);
  if (sliced_) scales_of_unit_ = scales_ / std::max<std::size_t>(index(scale[0]), 1);
}

Part Parts::at(std::size_t begin, std::size_t count) const {
  QTOOL_ENSURE(begin % unit() == 0 && (count % unit() == 0 || begin + count == count_), "parts are whole units");
  Part part{shape_, begin, count, 0, scales_};
  if (shape_.empty()) return part;
  const std::size_t rows = count / inner_;
  part.shape[0] = static_cast<std::int64_t>(rows);
  if (!sliced_) return part;
  part.scale = begin / unit() * scales_of_unit_;
  part.scales = (rows + unit_ - 1) / unit_ * scales_of_unit_;
  return part;
}

FloatParts::FloatParts(const Tensor& x) : x_(x) {
  // Elements that share bytes with others are not cut.
  const bool cut = bit_width(x.dtype()) >= 8 && x.dtype() != DType::string;
  const bool in_memory = x.dtype() == DType::f32 && x.address() != nullptr && !x.is_mapped();
  there_ = in_memory || !cut;
  if (there_) x_ = to_f32(x);
}

std::span<const float> FloatParts::at(std::size_t begin, std::size_t count) {
  if (there_) return x_.read<float>().subspan(begin, count);
  const std::size_t width = static_cast<std::size_t>(bit_width(x_.dtype())) / 8;
  if (x_.dtype() == DType::f32) {
    own_.resize(count);
    x_.read(begin * width, std::as_writable_bytes(std::span(own_)));
    return own_;
  }
  Tensor some = Tensor::unset(x_.dtype(), {static_cast<std::int64_t>(count)});
  x_.read(begin * width, some.write_bytes());
  const Tensor floats = to_f32(some);
  own_.assign(floats.read<float>().begin(), floats.read<float>().end());
  return own_;
}

}  // namespace qtool
