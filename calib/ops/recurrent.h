// SPDX-License-Identifier: Apache-2.0
// What LSTM, GRU and RNN share: one node's operands, and the walk over the sequence. Letters as in the standard: X
// input, H state, C cell, W, R weights, P peepholes, B biases.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "calib/op.h"
#include "calib/ops/operand.h"

namespace qtool::op {

/// An activation over an array, in place.
using Activation = std::function<void(float*, std::int64_t)>;

/// Told a row [hidden] that R is multiplied by, and the first of the gates that this product is for: 0, or 2 for what
/// the candidate of a GRU takes of the state in a product of its own.
using SeeState = std::function<void(std::int64_t gate, std::span<const float> row)>;

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
  bool usual;                     // the operator's default activations, no clip and no peepholes
  const SeeState* see = nullptr;  // whom rows of states are told to; null: nobody

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
  // R of this direction as tiles take it: [hidden, gates*hidden]; null where there are none, or too few columns.
  const float* r = nullptr;
  std::vector<float> own_r;          // r, unless the executor keeps it
  std::vector<std::int32_t> r_rows;  // where the rows of r begin
  std::vector<float> share;          // of the state in the gates [batch, gates*hidden]
  std::int64_t step = 0;             // of the walk
};

/// Of W and R, operands 1 and 2: as many floats again, each matrix turned around.
std::int64_t recurrent_prepares(const Node&, std::size_t i, const Tensor& constant);

/// to[rows, gates*hidden] = X W^T + Wb of direction d, for all steps.
void project_inputs(const OpContext&, const Cell&, std::int64_t d, float* to);

/// Sets r, own_r and r_rows.
void lay_out_recurrence(const OpContext&, const Cell&, std::int64_t d, Walker&);

/// share[batch, count*hidden] = h R^T for `count` gates from `first` on.
void multiply_recurrence(const OpContext&, const Cell&, std::int64_t d, std::int64_t first, std::int64_t count,
                         const float* h, Walker&);

/// Walks direction d from its initial state.
Walker start(const OpContext&, const Cell&, std::int64_t d);

/// Position in the sequence that batch row `row` reads at step t; -1: its sequence is over.
std::int64_t position(const Cell&, std::int64_t d, std::int64_t t, std::int64_t row);

/// Goes to step t: z = its projected input, row by row.
void load_step(const Cell&, std::int64_t d, std::int64_t t, Walker&);

/// One row through the gates of a usual cell, written in one loop. x: its projected inputs, s: the state's share, b:
/// the biases of R (all [gates*hidden]); the state and the cell move on, and the new state goes to y.
void usual_lstm_row(const float* x, const float* s, const float* b, std::int64_t hidden, float* c, float* h, float* y);
/// The same of a GRU whose reset gate comes after the product.
void usual_gru_row(const float* x, const float* s, const float* b, std::int64_t hidden, float* h, float* y);

/// z[:, first gate ...] += h R^T + Rb for `count` gates from `first` on.
void add_recurrence(const OpContext&, const Cell&, Walker&, std::int64_t d, std::int64_t first, std::int64_t count,
                    const float* h, float* z, std::int64_t ld);

/// Tells every row that R of direction `d` of an LSTM, GRU or RNN is multiplied by, step by step; sequences that are
/// over tell none. `inputs`: of the node, empty where left out.
void for_each_state(const Node&, std::span<const Tensor> inputs, std::int64_t d, Threads&, const SeeState&);

/// The way back through time. Error(Code::input) for activations other than the default ones, peepholes, clip and
/// input_forget.
void lstm_backward(BackwardContext&);
void gru_backward(BackwardContext&);
void rnn_backward(BackwardContext&);

}  // namespace qtool::op
