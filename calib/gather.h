// SPDX-License-Identifier: Apache-2.0
// Gathering: whatever is collected of values over a data set, in one sweep for all that ask, and kept under the Merkle
// hash of the value that it describes: change anything upstream and the key changes. A sweep that is interrupted is
// taken up again at the batch where it last rested.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "calib/data.h"
#include "calib/executor.h"
#include "formats/base/bytes.h"
#include "formats/base/journal.h"
#include "formats/base/kept.h"
#include "formats/ir/graph.h"

namespace qtool {

/// Where results go that outlive a run.
struct Keeping {
  Kept* kept = nullptr;  // null: nowhere; else it outlives whoever has this
  /// What results depend on beside the graph: {"data", "arithmetic", "build"}, all texts.
  Json origin = Json::object();
};

/// What is collected of one value.
class Gathered {
 public:
  virtual ~Gathered() = default;
  /// The value in the next batch.
  virtual void add(const Tensor&, Threads&) = 0;
  virtual void write(ByteWriter&) const = 0;
  virtual void read(ByteReader&) = 0;
};

class Gatherer {
 public:
  Gatherer(Threads& threads, Journal& journal, Keeping keeping)
      : threads_(threads), journal_(journal), keeping_(std::move(keeping)) {}

  struct Wish {
    ValueId value = ValueId::none;
    std::string what;  // tells collections of one value apart: "range", "range, 2048 bins", ...
    std::function<std::unique_ptr<Gathered>()> make;
  };
  struct Collection {
    std::shared_ptr<const Gathered> all;
    bool first = false;  // nobody asked for it before in this run
  };
  /// At most `batches` batches, 0: all.
  std::vector<Collection> gather(const Dataset&, const Graph&, Reading, std::int64_t batches,
                                 const std::vector<Wish>& wishes);

 private:
  struct Missing;
  void sweep(const Dataset&, const Graph&, Reading, std::int64_t batches, std::map<Digest, Missing>& missing);

  Threads& threads_;
  Journal& journal_;
  Keeping keeping_;
  std::map<Digest, std::shared_ptr<const Gathered>> known_;
};

}  // namespace qtool
