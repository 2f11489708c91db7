// SPDX-License-Identifier: Apache-2.0
// If, Loop and Scan: operators that run bodies.
#include <algorithm>
#include <cstring>

#include "calib/ops/support.h"

namespace qtool::op {
namespace {

std::shared_ptr<const Graph> body_of(const Attrs& attrs, std::string_view name) {
  auto body = attrs.graph(name);
  if (body == nullptr) refuse("the body \"" + std::string(name) + "\" is missing");
  return body;
}

bool truth(const Tensor& t) {
  if (t.dtype() != DType::boolean || t.count() != 1) refuse("the condition should be one boolean");
  return t.read<bool>()[0];
}

void forward_if(const OpContext& ctx) {
  const auto body = body_of(ctx.attrs(), truth(ctx.in(0)) ? "then_branch" : "else_branch");
  std::vector<Tensor> results = ctx.run_body(*body, {});
  for (std::size_t i = 0; i < results.size(); ++i) ctx.out(i, std::move(results[i]));
}

/// What is common to both; -1 and unknown where they differ.
Type common(const Type& a, const Type& b) {
  Type t = a;
  t.known_dtype = a.known_dtype && b.known_dtype && a.dtype == b.dtype;
  t.known_rank = a.known_rank && b.known_rank && a.shape.size() == b.shape.size();
  t.symbols.resize(t.known_rank ? t.shape.size() : 0);
  if (!t.known_rank) t.shape.clear();
  for (std::size_t d = 0; d < t.shape.size(); ++d) {
    if (a.shape[d] == b.shape[d] && (a.shape[d] >= 0 || (d < b.symbols.size() && b.symbols[d] == t.symbols[d])))
      continue;
    if (a.shape[d] != b.shape[d]) t.shape[d] = -1;
    t.symbols[d].clear();
  }
  return t;
}

void infer_if(InferContext& ctx) {
  const auto yes = ctx.infer_body("then_branch", {}), no = ctx.infer_body("else_branch", {});
  for (std::size_t i = 0; i < yes.size() && i < no.size(); ++i) ctx.out(i, common(yes[i], no[i]));
}

/// Puts equally shaped tensors one after the other along a new axis.
Tensor stacked(const std::vector<Tensor>& parts, std::int64_t axis, bool reverse, const Type& declared) {
  if (parts.empty()) {  // nothing ran: the element shape is what the body declares
    Shape shape = declared.shape;
    for (std::int64_t& d : shape) d = std::max<std::int64_t>(d, 0);
    shape.insert(shape.begin() + std::min<std::int64_t>(axis, static_cast<std::int64_t>(shape.size())), 0);
    return Tensor(declared.dtype, shape);
  }
  const Tensor& first = parts[0];
  if (axis < 0 || axis > first.rank()) refuse("a scan output has no axis " + std::to_string(axis));
  Shape shape = first.shape();
  shape.insert(shape.begin() + axis, static_cast<std::int64_t>(parts.size()));
  Tensor result(first.dtype(), shape);
  const std::int64_t outer = extent(first.shape(), 0, axis);
  const std::size_t row = outer == 0 ? 0 : first.size_bytes() / at(outer);
  if (bit_width(first.dtype()) % 8 != 0 || first.dtype() == DType::string) refuse_type(first.dtype());
  std::byte* out = result.write_bytes().data();
  for (std::size_t k = 0; k < parts.size(); ++k) {
    if (parts[k].shape() != first.shape() || parts[k].dtype() != first.dtype()) {
      refuse("a scan output changes its shape from " + to_string(first.shape()) + " to " + to_string(parts[k].shape()));
    }
    const std::size_t place = reverse ? parts.size() - 1 - k : k;
    for (std::size_t o = 0; o < at(outer) && row > 0; ++o) {
      std::memcpy(out + (o * parts.size() + place) * row, parts[k].bytes().data() + o * row, row);
    }
  }
  return result;
}

const Type& declared_output(const Graph& body, std::size_t i) { return body[body.outputs[i].value].type; }

void forward_loop(const OpContext& ctx) {
  const auto body = body_of(ctx.attrs(), "body");
  const std::size_t carried = ctx.inputs.size() < 2 ? 0 : ctx.inputs.size() - 2;
  if (body->inputs.size() != carried + 2 || body->outputs.size() < carried + 1) {
    refuse("the body of the loop takes and gives other numbers of values than the loop");
  }
  const std::size_t scans = body->outputs.size() - 1 - carried;
  std::vector<Tensor> state(
      ctx.inputs.begin() + std::min<std::ptrdiff_t>(2, static_cast<std::ptrdiff_t>(ctx.inputs.size())),
      ctx.inputs.end());
  std::vector<std::vector<Tensor>> collected(scans);
  const std::int64_t most = ctx.has(0) ? one_integer(ctx.in(0), "the trip count") : -1;
  bool go_on = !ctx.has(1) || truth(ctx.in(1));
  for (std::int64_t i = 0; go_on && (!ctx.has(0) || i < most); ++i) {
    std::vector<Tensor> feeds{Tensor::scalar<std::int64_t>(i), Tensor::scalar<bool>(go_on)};
    std::move(state.begin(), state.end(), std::back_inserter(feeds));
    std::vector<Tensor> results = ctx.run_body(*body, std::move(feeds));
    go_on = truth(results[0]);
    state.assign(std::move_iterator(results.begin() + 1),
                 std::move_iterator(results.begin() + 1 + static_cast<std::ptrdiff_t>(carried)));
    for (std::size_t k = 0; k < scans; ++k) collected[k].push_back(std::move(results[1 + carried + k]));
  }
  for (std::size_t k = 0; k < carried; ++k) ctx.out(k, std::move(state[k]));
  for (std::size_t k = 0; k < scans; ++k) {
    ctx.out(carried + k, stacked(collected[k], 0, false, declared_output(*body, 1 + carried + k)));
  }
}

Type scalar_type(DType dtype) {
  Type t;
  t.dtype = dtype;
  t.known_dtype = t.known_rank = true;
  return t;
}

void infer_loop(InferContext& ctx) {
  const std::size_t carried = ctx.inputs.size() < 2 ? 0 : ctx.inputs.size() - 2;
  std::vector<Type> inputs{scalar_type(DType::i64), scalar_type(DType::boolean)};
  for (std::size_t k = 0; k < carried; ++k) inputs.push_back(ctx.in(k + 2));
  auto results = ctx.infer_body("body", inputs);
  if (results.size() < carried + 1) return;
  // A state whose shape changes from turn to turn is known by what all turns share.
  for (std::size_t k = 0; k < carried; ++k) inputs[k + 2] = common(inputs[k + 2], results[k + 1]);
  results = ctx.infer_body("body", inputs);
  for (std::size_t k = 0; k < carried && k + 1 < results.size(); ++k) ctx.out(k, common(inputs[k + 2], results[k + 1]));
  for (std::size_t k = carried; k + 1 < results.size(); ++k) {
    Type t = results[k + 1];
    if (t.known_rank) {
      t.shape.insert(t.shape.begin(), -1);
      if (!t.symbols.empty()) t.symbols.insert(t.symbols.begin(), "");
    }
    ctx.out(k, std::move(t));
  }
}

/// Element i along `axis`, without that axis.
Tensor element_of(Threads& threads, const Tensor& x, std::int64_t axis, std::int64_t i) {
  const auto strides = strides_of(x.shape());
  Shape shape = x.shape();
  auto rest = strides;
  shape.erase(shape.begin() + axis);
  rest.erase(rest.begin() + axis);
  return gather_strided(threads, x, shape, rest, i * strides[at(axis)]);
}

std::int64_t entry(const std::vector<std::int64_t>& list, std::size_t i) { return i < list.size() ? list[i] : 0; }

/// One sequence: the last values of the states, then the stacked scan outputs.
std::vector<Tensor> scan(const OpContext& ctx, const Graph& body, std::vector<Tensor> state,
                         const std::vector<Tensor>& sequences, std::int64_t length) {
  const std::vector<std::int64_t> none;
  const auto in_axes = ctx.attrs().get("scan_input_axes", none), out_axes = ctx.attrs().get("scan_output_axes", none);
  const auto in_back = ctx.attrs().get(ctx.opset >= 9 ? "scan_input_directions" : "directions", none);
  const auto out_back = ctx.attrs().get("scan_output_directions", none);
  const std::size_t states = state.size();
  if (body.inputs.size() != states + sequences.size() || body.outputs.size() < states) {
    refuse("the body of the scan takes and gives other numbers of values than the scan");
  }
  std::vector<std::vector<Tensor>> collected(body.outputs.size() - states);
  for (std::int64_t i = 0; i < length; ++i) {
    std::vector<Tensor> feeds = std::move(state);
    for (std::size_t k = 0; k < sequences.size(); ++k) {
      const std::int64_t axis = axis_in(entry(in_axes, k), sequences[k].rank());
      feeds.push_back(element_of(ctx.threads, sequences[k], axis, entry(in_back, k) != 0 ? length - 1 - i : i));
    }
    std::vector<Tensor> results = ctx.run_body(body, std::move(feeds));
    state.assign(std::move_iterator(results.begin()),
                 std::move_iterator(results.begin() + static_cast<std::ptrdiff_t>(states)));
    for (std::size_t k = 0; k < collected.size(); ++k) collected[k].push_back(std::move(results[states + k]));
  }
  std::vector<Tensor> results = std::move(state);
  for (std::size_t k = 0; k < collected.size(); ++k) {
    const Type& declared = declared_output(body, states + k);
    const std::int64_t rank =
        collected[k].empty() ? static_cast<std::int64_t>(declared.shape.size()) : collected[k][0].rank();
    results.push_back(stacked(collected[k], axis_in(entry(out_axes, k), rank + 1), entry(out_back, k) != 0, declared));
  }
  return results;
}

/// Opset 8 has an optional input with lengths and a batch axis in front of everything.
void forward_scan_batched(const OpContext& ctx, const Graph& body, std::size_t sequences_count) {
  const std::size_t states = ctx.inputs.size() - 1 - sequences_count;
  std::vector<std::int64_t> lengths;
  if (ctx.has(0)) lengths = to_int64s(ctx.in(0));
  const Tensor& probe = ctx.in(1 + states);
  if (probe.rank() < 2) refuse("scan inputs should have a batch and a sequence axis");
  const std::int64_t batch = probe.shape()[0], longest = probe.shape()[1];
  std::vector<std::vector<Tensor>> rows(body.outputs.size());
  for (std::int64_t b = 0; b < batch; ++b) {
    std::vector<Tensor> state, sequences;
    for (std::size_t k = 0; k < states; ++k) state.push_back(element_of(ctx.threads, ctx.in(1 + k), 0, b));
    for (std::size_t k = 0; k < sequences_count; ++k) {
      sequences.push_back(element_of(ctx.threads, ctx.in(1 + states + k), 0, b));
    }
    const std::int64_t length = lengths.empty() ? longest : entry(lengths, at(b));
    if (length < 0 || length > longest) refuse("a sequence is longer than the input");
    std::vector<Tensor> results = scan(ctx, body, std::move(state), sequences, length);
    for (std::size_t k = 0; k < results.size(); ++k) {
      if (k >= states && length < longest) {  // padded with zeros to the longest
        Shape shape = results[k].shape();
        shape[0] = longest;
        Tensor whole(results[k].dtype(), shape);
        const auto from = results[k].bytes();
        std::copy(from.begin(), from.end(), whole.write_bytes().begin());
        results[k] = std::move(whole);
      }
      rows[k].push_back(std::move(results[k]));
    }
  }
  for (std::size_t k = 0; k < rows.size(); ++k) ctx.out(k, stacked(rows[k], 0, false, declared_output(body, k)));
}

void forward_scan(const OpContext& ctx) {
  const auto body = body_of(ctx.attrs(), "body");
  const std::size_t before = ctx.opset < 9 ? 1 : 0;
  const std::int64_t count = ctx.attrs().get("num_scan_inputs", std::int64_t{0});
  if (count < 1 || at(count) + before > ctx.inputs.size()) refuse("num_scan_inputs does not fit the inputs");
  if (ctx.opset < 9) return forward_scan_batched(ctx, *body, at(count));
  const auto split = ctx.inputs.end() - count;
  const std::vector<Tensor> sequences(split, ctx.inputs.end());
  const auto in_axes = ctx.attrs().get("scan_input_axes", std::vector<std::int64_t>{});
  std::int64_t length = -1;
  for (std::size_t k = 0; k < sequences.size(); ++k) {
    const std::int64_t n = sequences[k].shape()[at(axis_in(entry(in_axes, k), sequences[k].rank()))];
    if (length >= 0 && n != length) refuse("the scan inputs have different lengths");
    length = n;
  }
  auto results = scan(ctx, *body, std::vector<Tensor>(ctx.inputs.begin(), split), sequences, length);
  for (std::size_t k = 0; k < results.size(); ++k) ctx.out(k, std::move(results[k]));
}

/// Opset 8: without the batch axis, and for sequences without the one after it, the types are those of the body.
void infer_scan_batched(InferContext& ctx, std::size_t sequences) {
  std::vector<Type> inputs(ctx.inputs.begin() + 1, ctx.inputs.end());
  const std::size_t states = inputs.size() - std::min(sequences, inputs.size());
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    Type& t = inputs[k];
    const std::size_t drop = std::min<std::size_t>(k < states ? 1 : 2, t.shape.size());
    t.symbols.clear();
    t.shape.erase(t.shape.begin(), t.shape.begin() + static_cast<std::ptrdiff_t>(drop));
  }
  auto results = ctx.infer_body("body", inputs);
  for (std::size_t k = 0; k < results.size(); ++k) {
    results[k].symbols.clear();
    results[k].shape.insert(results[k].shape.begin(), k < states ? 1 : 2, -1);
    ctx.out(k, std::move(results[k]));
  }
}

void infer_scan(InferContext& ctx) {
  const std::int64_t count = ctx.attrs().get("num_scan_inputs", std::int64_t{0});
  if (count < 1 || at(count) > ctx.inputs.size()) return;
  if (ctx.opset < 9) return infer_scan_batched(ctx, at(count));
  const std::vector<std::int64_t> none;
  const auto in_axes = ctx.attrs().get("scan_input_axes", none), out_axes = ctx.attrs().get("scan_output_axes", none);
  const std::size_t states = ctx.inputs.size() - at(count);
  std::int64_t length = -1;
  std::vector<Type> inputs(ctx.inputs.begin(), ctx.inputs.end());
  for (std::size_t k = states; k < inputs.size(); ++k) {
    Type& t = inputs[k];
    t.symbols.clear();
    if (!t.known_rank) continue;
    const std::int64_t axis = axis_in(entry(in_axes, k - states), static_cast<std::int64_t>(t.shape.size()));
    length = std::max(length, t.shape[at(axis)]);
    t.shape.erase(t.shape.begin() + axis);
  }
  auto results = ctx.infer_body("body", inputs);
  for (std::size_t k = 0; k < results.size(); ++k) {
    Type t = results[k];
    if (k >= states && t.known_rank) {
      t.symbols.clear();
      t.shape.insert(
          t.shape.begin() + axis_in(entry(out_axes, k - states), static_cast<std::int64_t>(t.shape.size()) + 1),
          length);
    }
    ctx.out(k, std::move(t));
  }
}

}  // namespace

constinit const OpDef If{"If", "", 7, infer_if, forward_if, nullptr};
constinit const OpDef Loop{"Loop", "", 7, infer_loop, forward_loop, nullptr};
constinit const OpDef Scan{"Scan", "", 8, infer_scan, forward_scan, nullptr};

}  // namespace qtool::op
