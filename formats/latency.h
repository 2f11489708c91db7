// SPDX-License-Identifier: Apache-2.0
// Latency: how long a graph takes on a target in float and as decided, before anything is written. A target lists
// its kernels with rates that were fitted to the runtime's own profile (tests/bench/kernel_rates.py); an estimate
// is the sum over nodes and over the conversions between codes and floats. It tells which layers a runtime runs
// slower in few bits than in float, which no size or error shows.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "formats/ir/graph.h"

namespace qtool {

struct Target;

/// How a kernel takes its operands.
enum class Precision : std::uint8_t {
  floating,
  integer,      // codes in; codes or floats out
  dynamic,      // quantizes its activations while it runs
  weight_only,  // weights as codes, activations float
};

/// Nanoseconds of one call on one thread. A product makes `rows` x `columns` results of `depth` multiply-adds each
/// (convolution: positions x output channels, `taps` positions of the window); every other operator has as many
/// rows as its largest operand has elements, and one column.
struct KernelCost {
  std::string_view kernel;  // an operator's name, or one of the classes "Conv 1x1", "Conv few channels" (4 at most),
                            // "Conv depthwise", "Conv depthwise ragged" (channels that fill no vector), "Conv
                            // unpacked", "Conv unpacked depthwise" (weights that a caller may override); "layout":
                            // from or to the order of axes in which convolutions keep codes
  Precision precision = Precision::floating;
  double call = 0;    // per call
  double mac = 0;     // per multiply-add, extents rounded up to `lanes` and `depth`
  double out = 0;     // per result
  double in = 0;      // per element that a product reads of its activations
  double tap = 0;     // per position and tap of the window
  double ragged = 0;  // per row, where the columns fill no whole vector
  double weight = 0;  // per element of the weight
  std::int64_t lanes = 1, depth = 1;
};

struct NodeLatency {
  NodeId node = NodeId::none;
  Precision precision = Precision::floating;
  double in_float = 0, as_decided = 0;  // ns, without conversions
};

/// A value between nodes with a decision and others. Nodes without one, inputs and outputs of the graph count as float.
struct BorderLatency {
  NodeId from = NodeId::none;          // the node with a decision that makes it as codes; none: made as floats
  std::vector<NodeId> into;            // nodes with a decision that read codes
  int float_readers = 0;               // others
  double to_codes = 0, to_floats = 0;  // ns; floats are made for every reader by itself
};

struct Latency {
  std::vector<NodeLatency> nodes;          // those with a decision
  std::vector<BorderLatency> borders;      // values that a node with an integer decision makes or reads
  double in_float = 0;                     // ns, all nodes that the target has rates for
  double as_decided = 0;                   // ns, conversions included
  double conversions = 0;                  // ns, the part of as_decided that only turns floats into codes and back
  double multiply_adds = 0, on_codes = 0;  // of Conv, MatMul and Gemm; of them in integers
};

/// The estimate for a graph whose extents are known (an extent of -1 counts as 1). Multiply-adds alone when the target
/// has no rates. Bodies are left out: decisions inside them do not exist. `overridable`: callers of the float model may
/// replace its weights (IR 3 lists them as inputs), so that no runtime packs them ahead of time.
Latency estimate_latency(const Graph& graph, const Target& target, bool overridable = false);

}  // namespace qtool
