// SPDX-License-Identifier: Apache-2.0
#include "passes/solve/memo.h"

#include "formats/ir/merkle.h"
#include "formats/ir/quant.h"
#include "formats/ir/snapshot.h"
#include "passes/rewrite.h"

namespace qtool::solve {
namespace {

constexpr const char *kind = "solved", *sums_kind = "hessian";

}  // namespace

Memo::Memo(const Graph& graph, PassContext& ctx, std::string_view pass, const WalkOptions& options,
           std::int64_t batches)
    : graph_(graph), ctx_(ctx), pass_(pass), options_(options), batches_(batches), kept_(ctx.keeping.kept) {
  if (kept_ != nullptr && !kept_->cache() && !kept_->work()) kept_ = nullptr;
}

Digest Memo::key_of(const std::vector<Digest>& inputs, const Together& group) const {
  Hasher key;
  key.text(pass_).text(options_.knobs).text(options_.inputs).number(batches_);
  for (const auto& [name, value] : ctx_.keeping.origin.as_object()) key.text(name).text(value.as_string());
  for (const Weight& w : group.targets) {
    key.text(w.layer.sight()).digest(w.weight.digest()).number(w.half).digest(fingerprint(*w.spec));
    for (const WeightPlace& p : w.places) tell_inputs(key, inputs, w.layer, p, true);
  }
  return key.finish();
}

void Memo::tell_inputs(Hasher& key, const std::vector<Digest>& inputs, const Layer& layer, const WeightPlace& place,
                       bool decided) const {
  const Node& node = graph_[place.node];
  for (const std::size_t i : layer.reads()) {
    const Use& x = node.inputs[i];
    key.digest(inputs[index(x.value)]);
    if (x.quant && decided) key.digest(fingerprint(*x.quant));
  }
  // What the node does counts as well, with all of its attributes.
  for (const ValueId v : layer.reads_itself() ? node.outputs : std::vector<ValueId>()) {
    if (v != ValueId::none) key.digest(inputs[index(v)]);
  }
}

std::pair<Digest, Json> Memo::sums_key(const std::vector<Digest>& inputs, Reading reading, const Layer& layer) const {
  Hasher rows;
  tell_inputs(rows, inputs, layer, layer.place(), options_.inputs == "quantized");
  rows.text(layer.sight()).number(layer.matrices()).number(layer.columns()).text(options_.products);
  rows.number(layer.sees_tokens() && graph_.find_value("attention_mask").has_value());
  if (layer.is_spatial()) rows.number(ctx_.rng.split("patches", "").uniform(0));  // which ones are drawn
  Json about = Json::object();
  about.set("value", graph_[graph_[layer.node()].inputs[0].value].name);
  about.set("what", "Hessian of " + std::to_string(layer.columns()) + " inputs" +
                        (layer.matrices() == 1 ? "" : ", " + std::to_string(layer.matrices()) + " of them"));
  about.set("batches", batches_).set("value_sha256", hex(rows.finish()));
  for (const auto& [name, value] : ctx_.keeping.origin.as_object()) about.set(name, value);
  Json identity = about;
  const Digest key = Hasher().text(identity.set("value", "").dump()).finish();
  about.set("reading", reading == Reading::quantized ? "quantized" : "reference");
  return {key, std::move(about)};
}

bool Memo::keeps_sums(const Layer& layer) const {
  constexpr std::int64_t most = 256 << 20;
  const std::int64_t bytes =
      layer.matrices() * layer.columns() * (layer.columns() + 1) / 2 * static_cast<std::int64_t>(sizeof(double));
  return kept_ != nullptr && kept_->cache() && bytes <= most;
}

bool Memo::restore_sums(const std::vector<Digest>& inputs, Reading reading, const Layer& layer,
                        std::vector<Hessian>& sums) {
  if (!keeps_sums(layer)) return false;
  const auto [key, about] = sums_key(inputs, reading, layer);
  std::vector<Hessian> read = sums;
  const bool found = kept_->find(sums_kind, key, about, [&](ByteReader& in, const Store::Entry&) {
    for (Hessian& h : read) h.read(in);
  });
  if (found) sums = std::move(read);
  return found;
}

void Memo::keep_sums(const std::vector<Digest>& inputs, Reading reading, const Layer& layer,
                     const std::vector<Hessian>& sums) {
  if (!keeps_sums(layer)) return;
  const auto [key, about] = sums_key(inputs, reading, layer);
  kept_->keep(sums_kind, key, about, [sums](ByteWriter& out, const Store&) {
    for (const Hessian& h : sums) h.write(out);
  });
}

Json Memo::about(const Together& group) const {
  Json about = Json::object();
  about.set("value", label(graph_, group.targets[0].places[0].node))
      .set("what", std::string(pass_) + " " + options_.knobs);
  return about;
}

bool Memo::restore(const std::vector<Digest>& inputs, Together& group) {
  if (!on()) return false;
  group.key = key_of(inputs, group);
  std::vector<Json> facts;
  std::vector<QuantSpec> specs;
  const auto read = [&](ByteReader& in, const Store::Entry&) {
    for (const Weight& w : group.targets) {
      QuantSpec spec = *w.spec;
      spec.grain.group = in.number<std::int64_t>();
      for (Tensor* t : tensors_of(spec)) *t = in.flag() ? read_tensor(in) : Tensor();
      const bool fits = spec.codes.empty() || (spec.codes.dtype() == code_type(*spec.format) &&
                                               spec.codes.shape() == w.weight.shape() && spec.grain.group >= 0);
      if (!fits) ByteReader::fail();
      specs.push_back(std::move(spec));
    }
    for (std::int64_t n = in.count(); n > 0; --n) facts.push_back(Json::parse(in.text(), "a solved layer"));
  };
  if (!kept_->find(kind, *group.key, about(group), read)) return false;
  for (std::size_t i = 0; i < specs.size(); ++i) *group.targets[i].spec = std::move(specs[i]);
  for (Json& fact : facts) {
    const Json* name = fact.find("kind");
    ctx_.journal.fact(name && name->is_string() ? name->as_string() : "", std::move(fact));
  }
  return true;
}

void Memo::keep(const Together& group, std::size_t first) {
  if (!on() || !group.key) return;
  const auto& all = ctx_.journal.facts();
  std::vector<Json> facts(all.begin() + static_cast<std::ptrdiff_t>(first), all.end());
  std::vector<std::shared_ptr<const QuantSpec>> specs;
  for (const Weight& w : group.targets) specs.push_back(w.spec);
  kept_->keep(kind, *group.key, about(group),
              [specs = std::move(specs), facts = std::move(facts)](ByteWriter& out, const Store&) {
                for (const auto& spec : specs) {
                  out.number(spec->grain.group);
                  for (const Tensor* t : tensors_of(*spec)) {
                    out.number(std::uint8_t{t->empty() ? std::uint8_t{0} : std::uint8_t{1}});
                    if (!t->empty()) write_tensor(out, *t);
                  }
                }
                out.count(static_cast<std::int64_t>(facts.size()));
                for (const Json& fact : facts) out.text(fact.dump());
              });
}

}  // namespace qtool::solve
