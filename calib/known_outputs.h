// SPDX-License-Identifier: Apache-2.0
// KnownOutputs: what the float model puts out on a data set, in the cache, so that the next comparison with it need not
// run it. Up to 64 MiB; more is computed each time.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/base/kept.h"
#include "formats/ir/graph.h"

namespace qtool {

/// Where outputs are looked for. `about` tells the model, the data, the cut into batches, the arithmetic and the build,
/// and its hash is the key.
struct OutputsKept {
  Kept* kept = nullptr;  // null, or without a cache: nowhere
  Json about = Json::object();

  static constexpr const char* kind = "outputs";
  Digest key() const { return Hasher().text(about.dump()).finish(); }
};

class KnownOutputs {
 public:
  /// Looks for the values of `batches` batches.
  KnownOutputs(OutputsKept where, std::span<const ValueId> values, std::int64_t batches);
  /// All are there; of() may be asked.
  bool found() const { return found_; }
  const Tensor& of(ValueId v, std::int64_t batch) const;
  /// A value that was computed. Batch by batch; from several threads for different values.
  void add(ValueId v, const Tensor&);
  /// Every batch was computed in this run, or not: into the cache what is whole.
  void keep() const;

 private:
  void read(ByteReader&);

  OutputsKept where_;
  std::int64_t batches_;
  bool found_ = false, wanted_ = false;
  std::map<ValueId, std::vector<Tensor>> values_;
  struct Written {
    std::int64_t batches = 0;
    ByteWriter bytes;
  };
  std::map<ValueId, Written> written_;
  std::atomic<std::int64_t> size_ = 0;
};

}  // namespace qtool
