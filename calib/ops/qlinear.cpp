// SPDX-License-Identifier: Apache-2.0
// QLinear operators of com.microsoft: a float operator between dequantized operands and a quantized result. The sums
// and tables of the runtime's kernels are not repeated; results may differ from them by one code at ties.
#include <cstring>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/delegate.h"
#include "calib/ops/integer_product.h"
#include "calib/ops/operand.h"
#include "calib/ops/quantized.h"

namespace qtool::op {
namespace {

constexpr std::string_view microsoft = "com.microsoft";

/// Operand i with its scale and zero point, as float32.
Tensor dequantized(const OpContext& c, std::size_t x, std::size_t scale, std::size_t zero) {
  Tensor values = centred(c.in(x), c.in(zero), 0, "an operand");
  const float s = scalar_of(c.in(scale), "a scale");
  for (float& v : values.write<float>()) v *= s;
  return values;
}

/// Writes `values` as codes of the scale at input `scale` and the zero point at input `zero`.
void quantize_out(const OpContext& c, Tensor values, std::size_t scale, std::size_t zero, DType otherwise) {
  const float s = scalar_of(c.in(scale), "the output's scale");
  for (float& v : values.write<float>()) v /= s;
  const bool given = c.has(zero);
  c.out(0, saturated(c.threads, values, given ? scalar_of(c.in(zero), "the output's zero point") : 0.0F,
                     given ? c.in(zero).dtype() : otherwise));
}

Attrs kept(const Attrs& attrs, std::initializer_list<std::string_view> names) {
  Attrs out;
  for (const Attr& a : attrs.all) {
    for (const std::string_view n : names) {
      if (a.name == n) out.all.push_back(a);
    }
  }
  return out;
}

// ---- two operands: (A, A_scale, A_zero_point, B, B_scale, B_zero_point, C_scale, C_zero_point)

/// Codes of one type and shape: without a float in memory. False for others. f: of two floats.
template <class F>
bool combine_codes(const OpContext& c, const F& f) {
  const Tensor &a = c.in(0), &b = c.in(3);
  if (a.shape() != b.shape() || a.dtype() != b.dtype() || (a.dtype() != DType::u8 && a.dtype() != DType::i8) ||
      !c.has(2) || !c.has(5) || !c.has(7) || c.in(7).dtype() != a.dtype()) {
    return false;
  }
  const float sa = scalar_of(c.in(1), "a scale"), za = scalar_of(c.in(2), "a zero point"),
              sb = scalar_of(c.in(4), "a scale"), zb = scalar_of(c.in(5), "a zero point"),
              sy = scalar_of(c.in(6), "the output's scale"), zy = scalar_of(c.in(7), "the output's zero point");
  const CodeRange range = code_range(a.dtype());
  const float low = range.low - zy, high = range.high - zy;
  Tensor y = Tensor::unset(a.dtype(), a.shape());
  for_integer_type(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T *left = a.read<T>().data(), *right = b.read<T>().data();
    T* to = y.write<T>().data();
    const auto part = [&](std::int64_t begin, std::int64_t end) {
      with_widest_vectors([&]() QTOOL_INLINE {
        const float sa1 = sa, za1 = za, sb1 = sb, zb1 = zb, sy1 = sy, zy1 = zy, low1 = low, high1 = high;
        const T *l = left + begin, *r = right + begin;
        fill_by(to + begin, end - begin, [=](std::int64_t i) QTOOL_INLINE {
          const float v = f((static_cast<float>(l[i]) - za1) * sa1, (static_cast<float>(r[i]) - zb1) * sb1);
          return code_of<T>(v / sy1, low1, high1, zy1);
        });
      });
    };
    if (a.count() <= elements_per_chunk) return part(0, a.count());
    c.threads.for_each(a.count(), elements_per_chunk, part);
  });
  c.out(0, std::move(y));
  return true;
}

template <const OpDef& def>
void binary(const OpContext& c) {
  const bool done = &def == &op::Add ? combine_codes(c, [](float a, float b) QTOOL_INLINE { return a + b; })
                                     : combine_codes(c, [](float a, float b) QTOOL_INLINE { return a * b; });
  if (done) return;
  Tensor y = run_op(c, def, {dequantized(c, 0, 1, 2), dequantized(c, 3, 4, 5)}, {}, 14)[0];
  quantize_out(c, std::move(y), 6, 7, c.in(0).dtype());
}

void binary_infer(InferContext& c) {
  Type t = broadcast(c.in(0), c.in(3));
  t.dtype = c.in(0).dtype;
  t.known_dtype = c.in(0).known_dtype;
  c.out(0, t);
}

// ---- one operand: (X, X_scale, X_zero_point, Y_scale, Y_zero_point)

/// What becomes of every byte, looked up.
Tensor looked_up(Threads& threads, const Tensor& codes, const Tensor& table) {
  Tensor y = Tensor::unset(table.dtype(), codes.shape());
  const std::byte *all = codes.bytes().data(), *entry = table.bytes().data();
  std::byte* result = y.write_bytes().data();
  threads.for_each(codes.count(), elements_per_chunk, [&](std::int64_t begin, std::int64_t end) {
    const std::byte *from = all + begin, *const last = all + end, *const map = entry;
    std::byte* to = result + begin;
    for (; from + 8 <= last; from += 8, to += 8) {  // a store of one byte at a time would be the slowest part
      std::uint64_t eight = 0, out = 0;
      std::memcpy(&eight, from, sizeof eight);
      for (unsigned shift = 0; shift < 64; shift += 8) {
        out |= static_cast<std::uint64_t>(map[eight >> shift & 0xff]) << shift;
      }
      std::memcpy(to, &out, sizeof out);
    }
    for (; from < last; ++from, ++to) *to = map[static_cast<std::size_t>(*from)];
  });
  return y;
}

/// Operators of single elements: codes are 256 values.
template <const OpDef& def>
void unary(const OpContext& c) {
  const Tensor& x = c.in(0);
  require(x.dtype() == DType::u8 || x.dtype() == DType::i8, "8-bit codes are needed");
  Tensor all(x.dtype(), {256});
  for (std::size_t i = 0; std::byte & b : all.write_bytes()) b = static_cast<std::byte>(i++);
  std::vector<Tensor> inputs(c.inputs.begin(), c.inputs.end()), results(1);
  const bool small = x.count() < all.count();
  if (!small) inputs[0] = all;
  const OpContext inner{c.node, c.opset, inputs, results, c.threads, c.run_body};
  Tensor y = run_op(inner, def, {dequantized(inner, 0, 1, 2)}, kept(c.attrs(), {"alpha"}), 14)[0];
  quantize_out(inner, std::move(y), 3, 4, x.dtype());
  c.out(0, small ? std::move(results[0]) : looked_up(c.threads, x, results[0]));
}

void softmax(const OpContext& c) {
  const std::int64_t opset = c.attrs().get("opset", std::int64_t{13});
  Tensor y = run_op(c, op::Softmax, {dequantized(c, 0, 1, 2)}, kept(c.attrs(), {"axis"}), opset)[0];
  quantize_out(c, std::move(y), 3, 4, c.in(0).dtype());
}

// ---- pools, of images [N, C, spatial...] or with channels last

/// The image with channels second; `back`: from there to channels last.
Tensor moved_channels(const OpContext& c, const Tensor& x, bool back) {
  Shape shape{x.shape()[0]};
  const std::vector<std::int64_t> own = strides_of(x.shape());
  std::vector<std::int64_t> strides{own[0]};
  const std::size_t rank = own.size();
  if (!back) {
    shape.push_back(x.shape()[rank - 1]);
    strides.push_back(own[rank - 1]);
  }
  for (std::size_t i = back ? 2 : 1; i < (back ? rank : rank - 1); ++i) {
    shape.push_back(x.shape()[i]);
    strides.push_back(own[i]);
  }
  if (back) {
    shape.push_back(x.shape()[1]);
    strides.push_back(own[1]);
  }
  return gather_strided(c.threads, x, shape, strides);
}

template <const OpDef& def>
void pool(const OpContext& c) {
  const bool last = c.attrs().get("channels_last", std::int64_t{0}) != 0;
  Tensor x = dequantized(c, 0, 1, 2);
  require(x.rank() >= 3, "a pool needs an image, not shape " + to_string(x.shape()));
  if (last) x = moved_channels(c, x, false);
  const Attrs attrs =
      kept(c.attrs(), {"kernel_shape", "strides", "pads", "auto_pad", "ceil_mode", "count_include_pad"});
  Tensor y = run_op(c, def, {x}, attrs, 11)[0];
  if (last) y = moved_channels(c, y, true);
  quantize_out(c, std::move(y), 3, 4, c.in(0).dtype());
}

void pool_infer(InferContext& c) {
  if (c.attrs().get("channels_last", std::int64_t{0}) != 0) {
    if (c.in(0).known_dtype) c.out(0, c.in(0).dtype);
    return;
  }
  op::AveragePool.infer(c);
}

void global_pool_infer(InferContext& c) {
  if (c.attrs().get("channels_last", std::int64_t{0}) != 0) {
    if (c.in(0).known_dtype) c.out(0, c.in(0).dtype);
    return;
  }
  op::GlobalAveragePool.infer(c);
}

// ---- QLinearConcat(Y_scale, Y_zero_point, (X, scale, zero_point) ...)

void concat(const OpContext& c) {
  require(c.inputs.size() >= 5 && (c.inputs.size() - 2) % 3 == 0, "QLinearConcat needs three inputs per operand");
  std::vector<Tensor> parts;
  for (std::size_t i = 2; i < c.inputs.size(); i += 3) parts.push_back(dequantized(c, i, i + 1, i + 2));
  Tensor y = run_op(c, op::Concat, parts, kept(c.attrs(), {"axis"}), 13)[0];
  quantize_out(c, std::move(y), 0, 1, c.in(2).dtype());
}

void concat_infer(InferContext& c) {
  if (c.inputs.size() < 5) return;
  std::vector<Type> inputs;
  std::vector<Tensor> constants;
  for (std::size_t i = 2; i < c.inputs.size(); i += 3) {
    inputs.push_back(c.in(i));
    constants.emplace_back();
  }
  InferContext inner{c.node, 13, inputs, constants, c.outputs, c.infer_body};
  op::Concat.infer(inner);
}

// ---- QLinearWhere(condition, X, x_scale, x_zero_point, Y, y_scale, y_zero_point, z_scale, z_zero_point)

void where(const OpContext& c) {
  Tensor y = run_op(c, op::Where, {c.in(0), dequantized(c, 1, 2, 3), dequantized(c, 4, 5, 6)}, {}, 16)[0];
  quantize_out(c, std::move(y), 7, 8, c.in(1).dtype());
}

void where_infer(InferContext& c) {
  Type t = broadcast(broadcast(c.in(0), c.in(1)), c.in(4));
  t.dtype = c.in(1).dtype;
  t.known_dtype = c.in(1).known_dtype;
  c.out(0, t);
}

}  // namespace

constinit const OpDef ms_QLinearAdd{"QLinearAdd", microsoft, 1, binary_infer, binary<op::Add>, nullptr};
constinit const OpDef ms_QLinearAveragePool{"QLinearAveragePool",  microsoft, 1, pool_infer,
                                            pool<op::AveragePool>, nullptr};
constinit const OpDef ms_QLinearConcat{"QLinearConcat", microsoft, 1, concat_infer, concat, nullptr};
constinit const OpDef ms_QLinearGlobalAveragePool{"QLinearGlobalAveragePool",  microsoft, 1, global_pool_infer,
                                                  pool<op::GlobalAveragePool>, nullptr};
constinit const OpDef ms_QLinearLeakyRelu{"QLinearLeakyRelu", microsoft, 1, infer_same, unary<op::LeakyRelu>, nullptr};
constinit const OpDef ms_QLinearMul{"QLinearMul", microsoft, 1, binary_infer, binary<op::Mul>, nullptr};
constinit const OpDef ms_QLinearSigmoid{"QLinearSigmoid", microsoft, 1, infer_same, unary<op::Sigmoid>, nullptr};
constinit const OpDef ms_QLinearSoftmax{"QLinearSoftmax", microsoft, 1, infer_same, softmax, nullptr};
constinit const OpDef ms_QLinearWhere{"QLinearWhere", microsoft, 1, where_infer, where, nullptr};

}  // namespace qtool::op
