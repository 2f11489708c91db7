// SPDX-License-Identifier: Apache-2.0
#include "backends/verify/scene.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace qtool::verify {
namespace {

/// What bodies read that they do not make themselves.
void captured(const GraphView& body, std::map<std::string_view, std::vector<Use>>& uses) {
  const auto look = [&](std::string_view name) {
    if (!name.empty() && !body.producer.contains(name) && !body.constants.contains(name)) uses[name].push_back({});
  };
  for (const NodeView& n : body.nodes) std::for_each(n.inputs.begin(), n.inputs.end(), look);
  for (const Declared& d : body.outputs) look(d.name);
  for (const GraphView& inner : body.bodies) captured(inner, uses);
}

bool declares(const std::vector<Declared>& list, std::string_view name) {
  return std::any_of(list.begin(), list.end(), [&](const Declared& d) { return d.name == name; });
}

}  // namespace

void Findings::add(const std::string& where, const std::string& what, const std::string& advice) {
  const Defect found{where, what, advice};
  if (std::find(all.begin(), all.end(), found) == all.end()) all.push_back(found);
}

Scene::Scene(const GraphView& g, const FileView& f, const Target& t, Findings& list, const Scene* outer)
    : graph(g), file(f), target(t), findings(list), outer_(outer) {
  for (const NodeView& n : graph.nodes) {
    for (std::size_t i = 0; i < n.inputs.size(); ++i) {
      if (!n.inputs[i].empty()) uses_[n.inputs[i]].push_back({&n, i});
    }
  }
  for (const Declared& d : graph.outputs) uses_[d.name].push_back({});
  for (const GraphView& body : graph.bodies) captured(body, uses_);
}

const TensorView* Scene::constant(std::string_view name) const {
  if (name.empty()) return nullptr;
  const auto found = graph.constants.find(name);
  if (found != graph.constants.end()) return &found->second;
  return outer_ != nullptr && !graph.producer.contains(name) ? outer_->constant(name) : nullptr;
}

const NodeView* Scene::producer(std::string_view name) const {
  const auto found = graph.producer.find(name);
  if (found != graph.producer.end()) return &graph.nodes[found->second];
  return outer_ != nullptr && !name.empty() && !graph.constants.contains(name) ? outer_->producer(name) : nullptr;
}

const NodeView* Scene::producer(const NodeView& n, std::size_t input, std::string_view op) const {
  const NodeView* from = n.input(input).empty() ? nullptr : producer(n.input(input));
  return from != nullptr && from->is(op) ? from : nullptr;
}

const std::vector<Use>& Scene::uses(std::string_view name) const {
  static const std::vector<Use> none;
  const auto found = uses_.find(name);
  return found == uses_.end() ? none : found->second;
}

bool Scene::is_output(std::string_view name) const { return declares(graph.outputs, name); }
bool Scene::is_input(std::string_view name) const { return declares(graph.inputs, name); }

bool Scene::is_known(std::string_view name) const {
  return graph.producer.contains(name) || graph.constants.contains(name) || graph.sparse.contains(name) ||
         is_input(name) || (outer_ != nullptr && outer_->is_known(name));
}

const NodeView* Scene::sole_reader(std::string_view name) const {
  const auto& all = uses(name);
  return all.size() == 1 && all[0].input == 0 ? all[0].node : nullptr;
}

std::int64_t Scene::opset() const {
  const auto found = file.opsets.find("");
  return found == file.opsets.end() ? 0 : found->second;
}

Parameters Scene::parameters(const NodeView& n, std::size_t scale, std::size_t zero) const {
  return {n.input(scale), n.input(zero), constant(n, scale), constant(n, zero)};
}

std::string shape_text(const std::vector<std::int64_t>& dims) {
  std::string text;
  for (const std::int64_t d : dims) text += (text.empty() ? "" : ", ") + std::to_string(d);
  return "[" + text + "]";
}

std::string counted(std::int64_t n, const char* what) { return std::to_string(n) + " " + what + (n == 1 ? "" : "s"); }

void check_scale(const Scene& scene, const NodeView& n, const TensorView& scale) {
  const auto wrong = [&](std::int64_t i, const std::string& what) {
    scene.findings.add(n, "scale " + std::to_string(i) + " is " + what,
                       "scales are finite and positive: take them from ranges without NaN, 1 for a channel of zeros");
  };
  if (scale.type == e8m0) {
    constexpr int nan_code = 255;
    for (std::int64_t i = 0; i < scale.count(); ++i) {
      if (scale.at(i) == nan_code) return wrong(i, "NaN");
    }
    return;
  }
  if (scale.type >= f8_first && scale.type <= f8_last) return;  // scales of scales
  if (scale.type != f32 && scale.type != f16 && scale.type != bf16) {
    scene.findings.add(n, "its scales are " + name_of(scale.type), "write scales as float32 or float16");
    return;
  }
  const double least = scale.type == f16 ? 0x1p-14 : static_cast<double>(std::numeric_limits<float>::min());
  std::array<float, 1024> some;
  for (std::int64_t from = 0, count = scale.count(); from < count; from += static_cast<std::int64_t>(some.size())) {
    const auto part = std::span(some).first(std::min(some.size(), static_cast<std::size_t>(count - from)));
    scale.read(from, part);
    for (std::size_t i = 0; i < part.size(); ++i) {
      const auto s = static_cast<double>(part[i]);
      if (std::isfinite(s) && s >= least) continue;
      const std::int64_t at = from + static_cast<std::int64_t>(i);
      return wrong(at,
                   !std::isfinite(s) || s <= 0 ? std::to_string(s) : "subnormal, and runtimes may take it for zero");
    }
  }
  constexpr std::int64_t large = 1 << 14;  // scales
  if (scale.count() > large) scene.file.let_go();
}

}  // namespace qtool::verify
