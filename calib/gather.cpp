// SPDX-License-Identifier: Apache-2.0
#include "calib/gather.h"

#include "calib/dataset_run.h"
#include "formats/ir/merkle.h"

namespace qtool {
namespace {

constexpr const char *whole = "statistics", *partial = "sweep";  // kinds of entries

}  // namespace

struct Gatherer::Missing {
  ValueId value;
  const Wish* wish;
  std::shared_ptr<Gathered> all;
  Json about;
};

std::vector<Gatherer::Collection> Gatherer::gather(const Dataset& data, const Graph& graph, Reading reading,
                                                   std::int64_t batches, const std::vector<Wish>& wishes) {
  const std::vector<Digest> digests = merkle(graph, reading == Reading::quantized);
  std::map<Digest, Missing> missing;
  std::vector<Collection> out;
  std::vector<Digest> keys;
  for (const Wish& wish : wishes) {
    Json about = Json::object();
    about.set("value", graph[wish.value].name).set("what", wish.what);
    about.set("reading", reading == Reading::quantized ? "quantized" : "reference");
    about.set("batches", batches).set("value_sha256", hex(digests[index(wish.value)]));
    for (const auto& [name, value] : keeping_.origin.as_object()) about.set(name, value);
    Json identity = about;
    identity.set("value", "");  // names mean nothing
    const Digest key = Hasher().text(identity.dump()).finish();
    keys.push_back(key);
    out.push_back({nullptr, !known_.contains(key) && !missing.contains(key)});
    if (!out.back().first) continue;
    std::shared_ptr<Gathered> all = wish.make();
    const auto read = [&](ByteReader& in, const Store::Entry&) { all->read(in); };
    if (keeping_.kept && keeping_.kept->find(whole, key, about, read)) {
      known_[key] = std::move(all);
    } else {
      missing[key] = {wish.value, &wish, nullptr, std::move(about)};
    }
  }
  if (!missing.empty()) sweep(data, graph, reading, batches, missing);
  for (std::size_t i = 0; i < out.size(); ++i) out[i].all = known_.at(keys[i]);
  return out;
}

void Gatherer::sweep(const Dataset& data, const Graph& graph, Reading reading, std::int64_t batches,
                     std::map<Digest, Missing>& missing) {
  const auto make_all = [&] {
    for (auto& [key, m] : missing) m.all = m.wish->make();
  };
  Hasher hasher;
  for (const auto& [key, m] : missing) hasher.digest(key);
  const Digest key = hasher.finish();
  make_all();
  Kept* kept = keeping_.kept;
  Json about = Json::object();
  about.set("collections", static_cast<std::int64_t>(missing.size()));
  Rests rests;
  if (kept && kept->work()) {
    const bool found = kept->find(partial, key, about, [&](ByteReader& in, const Store::Entry&) {
      const auto done = in.number<std::int64_t>();
      if (done < 0 || done > data.batches()) ByteReader::fail();
      for (const auto& [k, m] : missing) m.all->read(in);
      rests.first = done;
    });
    if (!found) {
      rests.first = 0;
      make_all();  // reading may have stopped half-way
    }
    rests.at_rest = [&](std::int64_t done) {
      kept->progress(partial, key, about, [&](ByteWriter& out, const Store&) {
        out.number(done);
        for (const auto& [k, m] : missing) m.all->write(out);
      });
    };
  }
  std::map<ValueId, std::vector<Gathered*>> listeners;
  std::vector<ValueId> wanted;
  for (const auto& [k, m] : missing) {
    auto& all = listeners[m.value];
    if (all.empty()) wanted.push_back(m.value);
    all.push_back(m.all.get());
  }
  const Executor executor(graph, reading, threads_);
  run_dataset(
      graph, executor, data, threads_, wanted,
      [&](std::int64_t, ValueId v, const Tensor& t) {
        for (Gathered* g : listeners.at(v)) g->add(t, threads_);
      },
      batches,
      [&](std::int64_t done, std::int64_t total) {
        journal_.progress({"calibration", done, total});
      },
      rests);
  for (const auto& [k, m] : missing) {
    known_[k] = m.all;
    if (!kept) continue;
    kept->keep(whole, k, m.about, [all = m.all](ByteWriter& out, const Store&) { all->write(out); });
  }
  if (kept && kept->work()) kept->forget(partial, key);
}

}  // namespace qtool
