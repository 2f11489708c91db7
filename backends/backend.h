// SPDX-License-Identifier: Apache-2.0
// Backends: what a machine can carry (Target), and how a graph with decisions is written for it (Emitter).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "formats/base/journal.h"
#include "formats/base/options.h"
#include "formats/ir/graph.h"
#include "formats/target.h"

namespace qtool {

/// Writes a graph with decisions for one target.
class Emitter {
 public:
  virtual ~Emitter() = default;
  virtual void options(Options&) {}
  /// The graph with every quant annotation turned into the nodes and initializers that the target fuses; no
  /// annotation is left. Facts per node go to the journal ("emit": what became integer, "skip": what stays float
  /// and why, "slower": written form larger or slower than float).
  virtual Graph lower(const Graph&, const Target&, Journal&) = 0;
};

struct BackendDef {
  std::string_view name, summary;
  std::string_view evidence;  // how its table is known, and what was not measured: sentences for its page
  Target (*target)();
  std::unique_ptr<Emitter> (*make)();
};

template <class T>
std::unique_ptr<Emitter> make_emitter() {
  return std::make_unique<T>();
}

const BackendDef* find_backend(std::string_view name);
std::span<const BackendDef* const> backends();

namespace backend {
#define QTOOL_BACKEND(name) extern const BackendDef name;
#include "backends/list.inc"
#undef QTOOL_BACKEND
}  // namespace backend

}  // namespace qtool
