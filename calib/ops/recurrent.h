// SPDX-License-Identifier: Apache-2.0
// What LSTM, GRU and RNN share: one node's operands, and the walk over the sequence. Letters as in the standard: X
// input, H state, C cell, W, R weights, P peepholes, B biases.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/operand.h"

namespace qtool::op {

/// An activation over an array, in place.
using Activation = std::function<void(float*, std::int64_t)>;

/// 8-bit weights of one direction, [in, gates * hidden], with what DynamicQuantizeMatMul needs beside them.
struct Codes {
  Tensor codes, scale, zero;
};

/// The extents of one node, its operands in float32 and in the layout [seq, batch, ...].
struct Cell {
  std::int64_t gates, steps, batch, inputs, hidden, directions;
  std::string direction;
  float clip;
  Tensor x, w, r, b, h, c, p;           // b, h, c, p may be empty
  std::vector<Codes> w_codes, r_codes;  // by direction, instead of w and r
  std::vector<std::int64_t> lengths;
  std::vector<Activation> activations;
  std::int64_t activations_per_direction;

  bool reversed(std::int64_t d) const { return direction == "reverse" || d == 1; }
  void clamp(float* x_, std::int64_t n) const {
    if (clip <= 0) return;
    for (std::int64_t i = 0; i < n; ++i) x_[i] = std::clamp(x_[i], -clip, clip);
  }
  const Activation& activation(std::int64_t d, std::int64_t i) const {
    return activations[at(d * activations_per_direction + i)];
  }
  const float* bias(std::int64_t d) const { return b ? b.read<float>().data() + d * 2 * gates * hidden : nullptr; }
};

/// Operands and attributes of a node with `gates` gates. `quantized`: of DynamicQuantizeLSTM.
Cell cell_of(const OpContext&, std::int64_t gates, const std::vector<std::string>& default_activations,
             bool quantized = false);

/// [A, B, rest] to [B, A, rest].
Tensor swap_first_two(const Tensor&);
/// layout = 1: the batch comes before the sequence.
bool batch_first(const Attrs&);

/// Buffers of one direction during its walk over the sequence.
struct Walker {
  std::vector<float> projected;  // X W^T + Wb, for all steps [steps, batch, gates*hidden]
  std::vector<float> z;          // gates of one step [batch, gates*hidden]
  std::vector<float> h, c;       // state [batch, hidden]
  // R of this direction as tiles take it: [hidden, gates*hidden]; empty where there are none, or too few columns.
  std::vector<float> r;
  std::vector<std::int32_t> r_rows;  // where the rows of r begin
  std::vector<float> share;          // of the state in the gates
};

/// Walks direction d from its initial state.
Walker start(const OpContext&, const Cell&, std::int64_t d);

/// Position in the sequence that batch row `row` reads at step t; -1: its sequence is over.
std::int64_t position(const Cell&, std::int64_t d, std::int64_t t, std::int64_t row);

/// z = projected input of step t, row by row.
void load_step(const Cell&, std::int64_t d, std::int64_t t, Walker&);

/// z[:, first gate ...] += h R^T + Rb for `count` gates from `first` on.
void add_recurrence(const OpContext&, const Cell&, Walker&, std::int64_t d, std::int64_t first, std::int64_t count,
                    const float* h, float* z, std::int64_t ld);

/// The way back through time. Error(Code::input) for activations other than the default ones, peepholes, clip and
/// input_forget.
void lstm_backward(BackwardContext&);
void gru_backward(BackwardContext&);
void rnn_backward(BackwardContext&);

}  // namespace qtool::op
