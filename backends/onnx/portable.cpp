// SPDX-License-Identifier: Apache-2.0
// The ONNX standard itself: weights in few bits in front of their products, as a DequantizeLinear with block_size, or
// of output channels in front of convolutions. Element types, scales that are powers of two (E8M0) and scales of scales
// are written as they were decided; codes of 3 bits take 4, for the standard has no type for them.
#include "backends/backend.h"
#include "backends/onnx/rules.h"

namespace qtool {
namespace {

Target portable_target() {
  Target target;
  target.name = "onnx";
  target.runtime = "the ONNX standard";
  target.version = "opset 25";
  target.instruction_set = "any";
  target.max_opset = 25;
  target.max_ir = 13;
  const std::vector<std::string_view> weights{"int4",
                                              "uint4",
                                              "int8",
                                              "uint8",
                                              "int2",
                                              "uint2",
                                              "int3",
                                              "uint3",
                                              "e2m1",
                                              "e4m3",
                                              "e4m3fnuz",
                                              "e5m2",
                                              "e5m2fnuz",
                                              "mxfp4",
                                              "mxfp8_e4m3",
                                              "mxfp8_e5m2",
                                              "mxint8",
                                              "nvfp4",
                                              "nvfp4_one_level",
                                              "bfp2",
                                              "bfp4",
                                              "bfp8"};
  constexpr std::size_t integers = 8;  // the first ones, which need no blocks
  target.abilities = onnx_form::weight_only_rows(weights, {});
  target.abilities.pop_back();  // a table would be dequantized as a whole
  for (Ability& row : target.abilities) row.note = "DequantizeLinear of blocks in front of it";
  Ability conv = target.abilities.front();
  conv.op = "Conv";
  conv.bias_input = 2;
  conv.weight_formats.resize(integers);
  conv.groups = {};
  conv.note = "DequantizeLinear of output channels in front of it";
  target.abilities.push_back(std::move(conv));
  target.abilities[0].batched_weights = true;
  for (const std::string_view op : {"LSTM", "GRU", "RNN"}) {
    Ability row = target.abilities[0];
    row.op = op;
    row.second_weight = 2;
    row.note = "DequantizeLinear of blocks in front of W and R";
    target.abilities.push_back(row);
  }
  const std::string_view why = "it is for weights in types that few runtimes have kernels for yet; use method weights";
  target.refused_methods = {{"static", why}, {"dynamic", why}};
  return target;
}

class PortableEmitter final : public Emitter {
 public:
  Graph lower(const Graph& decided, const Target& target, Journal& journal) override {
    return onnx_form::lowered(decided, target, journal, onnx_form::blocked_opset, [](onnx_form::Lowering& l) {
      onnx_form::lower_blocks(l, onnx_form::Scales::as_decided);
    });
  }
};

}  // namespace

namespace backend {
const BackendDef onnx{
    "onnx", "the ONNX standard: weights in 2 to 8 bits, FP4, FP8 and MX blocks, in standard operators",
    "Measured: what the files compute, by the reference evaluator of ONNX 1.23 (tests/runtime). Not "
    "measured: any runtime; "
    "ONNX Runtime 1.31 has no kernels for FP4 and for scales in E8M0, and computes 2-bit products wrongly "
    "where columns are no multiple of 4 and its optimizer is on (target ort-cpu avoids that).",
    portable_target, make_emitter<PortableEmitter>};
}  // namespace backend
}  // namespace qtool
