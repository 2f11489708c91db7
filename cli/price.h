// SPDX-License-Identifier: Apache-2.0
// Price: time and peak memory of a job, phase by phase. What is resident when:
//
//   throughout       the program; the model's weights; the data
//   a run            values that are alive, times the batches that run side by side; what operators keep of constants
//   rewrite          weights that steps rewrote: held from then on, beside the old ones
//   round            codes and scales: held from then on; while a range is searched, copies of a weight per thread
//   codes            of a solver: the inputs of the layer at hand, of all batches; its Hessians and their factors
//   write            packed codes and scales of all weights
//   verify           and the pages of the written file
//   compare          the written model, and values alive of both models
//
// The allocator keeps what was freed (formats/base/heap.h), so that the peak is that of the largest phase.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "calib/data.h"
#include "cli/rates.h"
#include "formats/ir/graph.h"
#include "passes/forecast.h"

namespace qtool {

struct PhasePrice {
  std::string what;
  double seconds = 0;
  std::uint64_t bytes = 0;  // resident at its peak, what is held throughout included
};

struct Price {
  double seconds = 0;
  std::uint64_t peak_bytes = 0;
  std::vector<PhasePrice> phases;
};

/// A planned job: what the model was, what the steps decide, what the emitter writes (weights may be absent).
struct PriceInput {
  const Graph &original, &decided, &lowered;
  const Forecast& forecast;
  const Dataset *calib = nullptr, *eval = nullptr;  // null: none
  std::int64_t samples = 0;  // to assume where calib is null, one of them at a time; 0: the job takes none
  std::uint64_t output_bytes = 0;
  std::size_t steps = 0;
  int threads = 1;
  const Rates& rates;
};

Price price_job(const PriceInput&);

/// What a job on this model holds at the least, in bytes, when all that is large lies in files: the program, nodes in
/// all graphs, working memory of each thread's kernels. Weights may be absent.
std::uint64_t bytes_beside_files(const Graph& model, int threads);

}  // namespace qtool
