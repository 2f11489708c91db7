// SPDX-License-Identifier: Apache-2.0
// Executor: runs a graph, in either reading, forward and backward. Every value is freed after its last use.
//
// Quantized reading: an operand is passed through fake_quantize() of its Use::quant before the operator sees it
// (constants once, at construction); graph outputs likewise. is_bias specs take their scale from inputs 0 and 1.
// The target's own arithmetic (int8 activations inside MatMulNBits) is part of the specs. Conv, MatMul and Gemm whose
// operands are decided to be 8-bit codes multiply the codes (calib/ops/on_codes.h); gradients go through floats.
//
// Same bytes for any number of threads. run() and gradients() are safe to call from several threads.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "formats/base/threads.h"
#include "formats/ir/graph.h"

namespace qtool {

enum class Reading : std::uint8_t { reference, quantized };

using Feeds = std::map<ValueId, Tensor>;

class Executor {
 public:
  /// Keeps references to `graph` and `threads`; both must outlive it. Error(Code::input) naming the first node whose
  /// operator or opset is unknown. `runs`: how many there will be; for a few it is not worth the memory to keep copies
  /// of weights that lie askew in their file.
  Executor(const Graph& graph, Reading reading, Threads& threads, std::int64_t runs = many_runs);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// Values of `wanted`, in that order, as their producers made them. Feeds may name any value, constants and
  /// intermediate ones too: what only they depend on is not run. Error(Code::calibration) when a graph input without
  /// default is needed and missing, or when type, rank or a fixed extent is not as declared.
  std::vector<Tensor> run(const Feeds& feeds, std::span<const ValueId> wanted) const;
  /// The graph's outputs, in this reading.
  std::vector<Tensor> run(const Feeds& feeds) const;
  /// Calls `visit` for each wanted value as it is computed, then lets go of it: peak memory stays that of a plain run.
  using Visit = std::function<void(ValueId, const Tensor&)>;
  void run(const Feeds& feeds, std::span<const ValueId> wanted, const Visit& visit) const;
  /// The same run, pulled value by value: what is behind the last one handed out is computed when it is asked for. So
  /// several models can be run in step.
  class Walk {
   public:
    /// Keeps a reference to the executor.
    Walk(const Executor&, const Feeds& feeds, std::span<const ValueId> wanted);
    ~Walk();
    /// The next wanted value in the order of computation; none at the end.
    std::optional<std::pair<ValueId, Tensor>> next();

   private:
    struct State;
    std::unique_ptr<State> state_;
  };
  /// d(loss)/d(wanted) as float32 in the shape of the values, where `seeds` holds d(loss)/d(value) for some values;
  /// zeros where no path leads. Quantization is differentiated straight through (Bengio et al., 2013,
  /// arXiv:1308.3432) inside the range of the codes and stops gradients outside. Bodies of If, Loop and Scan and
  /// operators without backward stop gradients.
  std::vector<Tensor> gradients(const Feeds& feeds, const Feeds& seeds, std::span<const ValueId> wanted) const;

  struct Plan;  // calib/executor_plan.h
  static constexpr std::int64_t many_runs = 5;

 private:
  std::unique_ptr<const Plan> plan_;
};

}  // namespace qtool
