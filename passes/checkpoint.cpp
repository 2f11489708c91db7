// SPDX-License-Identifier: Apache-2.0
#include "passes/checkpoint.h"

#include <utility>

#include "formats/base/error.h"
#include "formats/ir/verify.h"
#include "recipes/reader/bind.h"

namespace qtool {
namespace {

constexpr const char *graph_kind = "graph", *tensor_kind = "tensor";

/// Tensors are named by what they hold: a second checkpoint, or another run, finds them there.
void save_tensor(const Store& store, const Tensor& t) {
  if (store.has(tensor_kind, t.digest())) return;
  Json about = Json::object();
  about.set("what", to_string(t.shape()) + " " + std::string(name_of(t.dtype())));
  store.save(tensor_kind, t.digest(), about, t.bytes());
}

std::shared_ptr<Buffer> load_tensor(const std::optional<Store>& store, const Digest& digest) {
  const auto entry = store ? store->load(tensor_kind, digest) : std::nullopt;
  if (!entry) return nullptr;
  auto buffer = Buffer::view(entry->bytes, entry->owner);
  return buffer->digest() == digest ? buffer : nullptr;
}

}  // namespace

Checkpoints::Checkpoints(Kept* kept, const Digest& job, const Graph& base, const std::vector<BoundStep>& steps,
                         Journal& journal)
    : kept_(kept), journal_(journal), first_fact_(journal.facts().size()) {
  if (!kept || !kept->work() || kept->rehearsing()) return;
  snapshots_ = std::make_shared<const Snapshots>(base);
  keys_.push_back(Hasher().text("steps").digest(job).finish());
  for (const BoundStep& step : steps) {
    Hasher key;
    key.digest(keys_.back()).text(step.def->name).number(step.def->revision).text(step.step.id);
    keys_.push_back(key.text(fingerprint_knobs([&](Options& o) { step.pass->options(o); })).finish());
  }
}

std::size_t Checkpoints::resume(Graph& graph) {
  for (std::size_t done = keys_.empty() ? 0 : keys_.size() - 1; done > 0; --done) {
    if (load(done, graph)) return done;
  }
  return 0;
}

bool Checkpoints::load(std::size_t done, Graph& graph) {
  std::vector<Json> facts;
  Graph then;
  const auto read = [&](ByteReader& in, const Store::Entry&) {
    for (std::uint64_t n = in.size(); n > 0; --n) facts.push_back(Json::parse(in.text(), "a checkpoint"));
    then = snapshots_->read(in, [&](const Digest& d) { return load_tensor(kept_->work(), d); });
    verify(then);
  };
  if (!kept_->find(graph_kind, keys_[done], Json::object(), read)) return false;
  graph = std::move(then);
  for (Json& fact : facts) {
    const Json* kind = fact.find("kind");
    const std::string name = kind && kind->is_string() ? kind->as_string() : "";
    journal_.fact(name, std::move(fact));
  }
  return true;
}

void Checkpoints::store(std::size_t done, const Graph& graph) {
  if (!snapshots_ || !snapshots_->can_write(graph)) return;
  Json about = Json::object();
  about.set("steps", static_cast<std::int64_t>(done));
  std::vector<Json> facts(journal_.facts().begin() + static_cast<std::ptrdiff_t>(first_fact_), journal_.facts().end());
  std::erase_if(facts, [](const Json& f) { return *f.find("kind") == Json("kept"); });
  kept_->keep_latest(graph_kind, keys_[done], about,
                     [snapshots = snapshots_, graph, facts = std::move(facts)](ByteWriter& out, const Store& store) {
                       out.number(std::uint64_t{facts.size()});
                       for (const Json& fact : facts) out.text(fact.dump());
                       snapshots->write(graph, out, [&](const Tensor& t) { save_tensor(store, t); });
                     });
}

}  // namespace qtool
