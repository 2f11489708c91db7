// SPDX-License-Identifier: Apache-2.0
// How long ONNX Runtime's kernels take, in nanoseconds on one thread: fitted by tests/bench/kernel_rates.py to the
// runtime's own profile of some forty models, version 1.31 on a processor with AVX-512, VNNI and AMX. Half of the
// estimates for single nodes lie within a fifth of the measured time.
#include <array>

#include "backends/ort_cpu/ort_cpu.h"

namespace qtool::ort_cpu {
namespace {

constexpr Precision f = Precision::floating, i = Precision::integer, d = Precision::dynamic, w = Precision::weight_only;
constexpr std::int64_t lanes = 16;  // of a vector of 512 bits
constexpr std::int64_t tile = 64;   // bytes of depth in one AMX tile row

// Kernels that multiply. Codes lie in memory with channels last, floats in blocks of 16 channels.
const std::vector<KernelCost> products{
    {.kernel = "Conv 1x1", .precision = f, .call = 1500, .mac = .0088, .out = .007, .in = .05, .lanes = lanes},
    {.kernel = "Conv", .precision = f, .call = 1500, .mac = .0092, .out = .005, .tap = .6, .lanes = lanes},
    {.kernel = "Conv few channels", .precision = f, .call = 1500, .mac = .0073, .out = .025, .tap = .3, .lanes = lanes},
    {.kernel = "Conv depthwise", .precision = f, .call = 1800, .mac = .0044, .out = .185},
    {.kernel = "Conv depthwise ragged", .precision = f, .call = 6000, .out = 1.2},
    {.kernel = "Conv unpacked", .precision = f, .call = 1500, .mac = .0118, .out = .1, .tap = .6},
    {.kernel = "Conv unpacked depthwise", .precision = f, .call = 3000, .mac = .18},
    {.kernel = "MatMul", .precision = f, .call = 800, .mac = .0092, .out = .026, .in = .017, .weight = .05},
    {.kernel = "Gemm", .precision = f, .call = 800, .mac = .0092, .out = .026, .in = .017, .weight = .05},

    {.kernel = "Conv 1x1",
     .precision = i,
     .call = 2500,
     .mac = .0016,
     .out = .027,
     .in = .072,
     .ragged = 1.4,
     .lanes = lanes,
     .depth = tile},
    {.kernel = "Conv",
     .precision = i,
     .call = 2000,
     .mac = .0021,
     .tap = .76,
     .ragged = 13,
     .lanes = lanes,
     .depth = tile},
    {.kernel = "Conv few channels", .precision = i, .call = 3000, .out = .34, .tap = 1.1, .ragged = 10},
    {.kernel = "Conv depthwise", .precision = i, .call = 2500, .mac = .0089, .out = .16, .tap = 1.26},
    {.kernel = "Conv depthwise ragged", .precision = i, .call = 2500, .mac = .066, .ragged = 20},
    {.kernel = "MatMul",
     .precision = i,
     .call = 1300,
     .mac = .0013,
     .out = .25,
     .in = .1,
     .weight = .06,
     .lanes = lanes,
     .depth = lanes},
    {.kernel = "Gemm",
     .precision = i,
     .call = 900,
     .mac = .0013,
     .out = .2,
     .in = .1,
     .weight = .02,
     .lanes = lanes,
     .depth = lanes},

    {.kernel = "MatMul", .precision = d, .call = 1800, .mac = .0022, .out = .13, .in = .15, .weight = .006},
    {.kernel = "Gemm", .precision = d, .call = 1800, .mac = .0022, .out = .13, .in = .15, .weight = .006},
    {.kernel = "MatMul", .precision = w, .call = 1500, .mac = .0098, .out = 1},
    {.kernel = "Gemm", .precision = w, .call = 1500, .mac = .0098, .out = 1},
};

struct Elementwise {
  std::string_view op;
  double float_call, float_out, code_call, code_out;  // codes: 0, 0 where no kernel exists
};

// Per element of the largest operand.
constexpr std::array<Elementwise, 28> elementwise{{
    {"Add", 700, .11, 1300, .12},
    {"Mul", 500, .12, 1500, .23},
    {"Sub", 600, .12, 0, 0},
    {"Div", 1000, .165, 0, 0},
    {"Concat", 1000, .1, 1000, .04},
    {"AveragePool", 900, .07, 1500, .7},
    {"GlobalAveragePool", 500, .08, 800, .08},
    {"LeakyRelu", 500, .1, 1000, .24},
    {"Where", 1200, .32, 1200, .3},
    {"Sigmoid", 500, .29, 1000, .32},
    {"Softmax", 1200, .29, 1500, .5},
    {"Relu", 400, .11, 0, 0},
    {"Clip", 400, .08, 0, 0},
    {"PRelu", 700, 1.9, 0, 0},
    {"BatchNormalization", 2000, .13, 0, 0},
    {"Pow", 600, .3, 0, 0},
    {"Transpose", 500, .154, 500, .054},
    {"Slice", 1000, .057, 1000, .02},
    {"Gather", 700, .05, 700, .03},
    {"Split", 1000, .137, 1000, .04},
    {"Expand", 500, .06, 500, .02},
    {"Tile", 500, .06, 500, .02},
    {"Pad", 700, .12, 900, .04},
    {"MaxPool", 1000, .07, 1000, .085},
    {"Resize", 2000, .15, 4000, 1.0},
    {"Reshape", 400, .01, 500, .003},
    {"DepthToSpace", 700, .15, 700, .05},
    {"ReduceMax", 700, .07, 700, .07},
}};

KernelCost row(std::string_view op, Precision precision, double call, double out) {
  KernelCost cost;
  cost.kernel = op;
  cost.precision = precision;
  cost.call = call;
  cost.out = out;
  return cost;
}

}  // namespace

std::vector<KernelCost> rates() {
  std::vector<KernelCost> all = products;
  for (const Elementwise& e : elementwise) {
    all.push_back(row(e.op, f, e.float_call, e.float_out));
    if (e.code_call > 0) all.push_back(row(e.op, i, e.code_call, e.code_out));
  }
  all.push_back(row("layout", i, 500, .08));
  all.push_back(row("QuantizeLinear", i, 700, .076));
  all.push_back(row("DequantizeLinear", i, 600, .105));
  return all;
}

}  // namespace qtool::ort_cpu
