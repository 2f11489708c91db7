// SPDX-License-Identifier: Apache-2.0
// Which node of the float model a node of the file was made from, and what was done to it on the way.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "backends/verify/replay.h"
#include "formats/lock.h"

namespace qtool::verify {

/// A node with the graph that it stands in.
struct Place {
  const Scene* scene = nullptr;
  const NodeView* node = nullptr;
  explicit operator bool() const { return node != nullptr; }
};

/// A graph and all its bodies.
class Scenes {
 public:
  Scenes(const FileView& file, const Target& target, Findings& unused);
  const std::deque<Scene>& all() const { return scenes_; }

 private:
  void add(const GraphView&, const FileView&, const Target&, Findings&, const Scene* outer);
  std::deque<Scene> scenes_;  // bodies point to outer ones
};

class Match {
 public:
  Match(const Scenes& file, const Scenes& model, const Lock* lock);

  /// The node of the model that `n` was made from: by its name, by what it puts out, by the name of its codes.
  Place origin(const NodeView& n, std::string_view codes) const;
  std::vector<Fold> folds(const Place& product) const;
  /// The lock's row for an input of a node; null: none.
  const LockedUse* row(const NodeView& n, const Place& origin, std::size_t input) const;
  bool has_lock() const { return lock_ != nullptr; }

 private:
  bool is_kept(const NodeView& n) const;
  Place producer(std::string_view value) const;
  void read_folds();

  const Lock* lock_;
  std::map<std::string_view, std::vector<Place>> by_name_, by_output_, by_weight_;
  std::set<std::pair<std::string_view, std::string_view>> kept_;  // operator, and name or output, in the file
  std::map<std::string, std::vector<Fold>> folds_;                // of the lock, by product
  std::map<std::pair<std::string_view, int>, const LockedUse*> rows_;
};

/// The standard operator that `n` stands for: "Conv" for QLinearConv; empty: none that has a weight.
bool can_become(std::string_view model_op, const NodeView& n);

}  // namespace qtool::verify
