// SPDX-License-Identifier: Apache-2.0
#include "backends/verify/match.h"

#include <algorithm>
#include <array>

#include "backends/verify/operators.h"

namespace qtool::verify {
namespace {

/// What is put behind the name of a constant whose codes are stored.
constexpr std::array<std::string_view, 2> endings{"_quantized", "_packed"};

/// "w" of "w_quantized" and of "w_quantized_1"; empty: no such name.
std::string_view stem_of(std::string_view name) {
  for (const std::string_view ending : endings) {
    const auto at = name.rfind(ending);
    if (at == std::string_view::npos) continue;
    const std::string_view rest = name.substr(at + ending.size());
    const bool counted = rest.size() > 1 && rest[0] == '_' &&
                         std::all_of(rest.begin() + 1, rest.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (rest.empty() || counted) return name.substr(0, at);
  }
  return {};
}

std::string text_in(const Json& fold, const char* name) {
  const Json* member = fold.find(name);
  return member != nullptr && member->is_string() ? member->as_string() : std::string();
}

std::vector<double> numbers_in(const Json& fold, const char* name) {
  const std::string text = text_in(fold, name);
  return text.empty() ? std::vector<double>{} : exact_numbers(text);
}

Place only(const std::map<std::string_view, std::vector<Place>>& places, std::string_view key) {
  const auto found = key.empty() ? places.end() : places.find(key);
  return found != places.end() && found->second.size() == 1 ? found->second[0] : Place{};
}

}  // namespace

bool can_become(std::string_view model_op, const NodeView& n) {
  const bool product = model_op == "MatMul" || model_op == "Gemm";
  if (n.op == model_op) return true;
  if (n.op == "QLinearConv") return model_op == "Conv";
  if (n.op == "GatherBlockQuantized") return model_op == "Gather";
  if (n.op == "QGemm" || n.op == "QLinearMatMul" || n.op == "MatMulNBits" || n.op == "MatMulBnb4" ||
      n.op == "MatMulIntegerToFloat" || n.op == "DynamicQuantizeMatMul") {
    return product;
  }
  return n.op.starts_with("QLinear") && n.op.substr(7) == model_op;
}

Scenes::Scenes(const FileView& file, const Target& target, Findings& unused) {
  add(file.graph, file, target, unused, nullptr);
}

void Scenes::add(const GraphView& graph, const FileView& file, const Target& target, Findings& unused,
                 const Scene* outer) {
  const Scene& scene = scenes_.emplace_back(graph, file, target, unused, outer);
  for (const GraphView& body : graph.bodies) add(body, file, target, unused, &scene);
}

Match::Match(const Scenes& file, const Scenes& model, const Lock* lock) : lock_(lock) {
  for (const Scene& s : file.all()) {
    for (const NodeView& n : s.graph.nodes) {
      if (!n.name.empty()) kept_.insert({n.op, n.name});
      for (const std::string_view v : n.outputs) kept_.insert({n.op, v});
    }
  }
  for (const Scene& s : model.all()) {
    for (const NodeView& n : s.graph.nodes) {
      if (!n.name.empty()) by_name_[n.name].push_back({&s, &n});
      for (const std::string_view v : n.outputs) {
        if (!v.empty()) by_output_[v].push_back({&s, &n});
      }
      for (const std::string_view v : n.inputs) {
        if (!v.empty()) by_weight_[v].push_back({&s, &n});
      }
    }
  }
  if (lock_ == nullptr) return;
  read_folds();
  for (const LockedUse& use : lock_->uses) rows_.try_emplace({use.node, use.input}, &use);
}

void Match::read_folds() {
  for (const Json& row : lock_->folds) {
    const std::string pass = text_in(row, "pass");
    Fold fold;
    std::string product = text_in(row, "node");
    if (pass == "fold_batch_norm") {
      fold.kind = text_in(row, "side") == "inputs" ? Fold::Kind::before : Fold::Kind::behind;
      Place step = only(by_name_, product);
      if (!step) step = only(by_output_, product);
      fold.node = step.node;
      product = text_in(row, "into");
    } else if (pass == "equalize_layers") {
      fold.kind = Fold::Kind::equalized;
      fold.outputs = numbers_in(row, "outputs");
      fold.inputs = numbers_in(row, "inputs");
    } else if (row.find("shift") != nullptr && (pass == "bias_correct" || pass == "tune_statistics")) {
      fold.kind = Fold::Kind::shifted;
      fold.outputs = numbers_in(row, "shift");
    } else {
      continue;  // what fold_constants computes is looked through, and scales stand in the rows of uses
    }
    folds_[product].push_back(std::move(fold));
  }
}

Place Match::producer(std::string_view value) const { return only(by_output_, value); }

Place Match::origin(const NodeView& n, std::string_view codes) const {
  const auto fits = [&](const Place& p) {
    return p && p.node->domain.empty() && !slots_of(*p.node) && can_become(p.node->op, n);
  };
  if (const Place named = only(by_name_, n.name); fits(named)) return named;
  if (!n.outputs.empty()) {
    Place at = producer(n.outputs[0]);
    if (!at) at = producer(stem_of(n.outputs[0]));
    constexpr int most_steps = 6;  // back over what became part of the node: bias, activation, normalization
    for (int i = 0; i < most_steps && at; ++i) {
      if (fits(at)) return at;
      Place next;
      for (const std::string_view v : at.node->inputs) {
        if (!next && !v.empty()) next = producer(v);
      }
      at = next;
    }
  }
  const Place reader = only(by_weight_, stem_of(codes));
  return fits(reader) ? reader : Place{};
}

bool Match::is_kept(const NodeView& n) const {
  if (!n.name.empty() && kept_.contains({n.op, n.name})) return true;
  return std::any_of(n.outputs.begin(), n.outputs.end(), [&](std::string_view v) { return kept_.contains({n.op, v}); });
}

std::vector<Fold> Match::folds(const Place& product) const {
  if (lock_ == nullptr) {
    return folds_between(*product.scene, *product.node, [&](const NodeView& n) { return is_kept(n); });
  }
  auto found = folds_.find(std::string(product.node->who()));
  if (found == folds_.end() && !product.node->outputs.empty()) {
    found = folds_.find(std::string(product.node->outputs[0]));
  }
  return found == folds_.end() ? std::vector<Fold>{} : found->second;
}

const LockedUse* Match::row(const NodeView& n, const Place& origin, std::size_t input) const {
  for (const std::string_view who : {n.who(), origin ? origin.node->who() : std::string_view{}}) {
    const auto found = who.empty() ? rows_.end() : rows_.find({who, static_cast<int>(input)});
    if (found != rows_.end()) return found->second;
  }
  return nullptr;
}

}  // namespace qtool::verify
