// SPDX-License-Identifier: Apache-2.0
// Snapshot: a graph in the middle of its way, as bytes, told relative to the graph that the way began with (the base).
// What a pass left alone is a reference into the base: constants, bodies of If and Loop, local functions, and what
// formats/file remembers of the file. What was made since is written out, large tensors one by one, by the digest of
// their bytes. Ids, holes among them, and the sharing of decisions and storage come back as they were, so that
// everything that follows does what it would have done.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/ir/graph.h"

namespace qtool {

class Snapshots {
 public:
  /// `base` must be the same graph, read the same way, where snapshots are written and where they are read.
  explicit Snapshots(const Graph& base);

  /// False for graphs with something of the file format that the base has not; those cannot be written.
  bool can_write(const Graph&) const;
  /// `save` gets tensors of 4 KiB and more, once each.
  using Save = std::function<void(const Tensor&)>;
  void write(const Graph&, ByteWriter&, const Save& save) const;
  /// `load` gives the bytes of a tensor by its digest. Error(Code::input) for bytes that are no snapshot over this
  /// base, and when `load` has nothing.
  using Load = std::function<std::shared_ptr<Buffer>(const Digest&)>;
  Graph read(ByteReader&, const Load& load) const;

 private:
  struct Writer;
  struct Reader;
  void collect(const Graph&);
  void collect(const std::vector<Attr>&);
  void collect(const ExtrasPtr&);

  Graph base_;
  std::vector<Tensor> tensors_;  // everything that the base holds, in one order
  std::map<const std::byte*, std::size_t> tensor_places_;
  std::vector<ExtrasPtr> extras_;
  std::map<const Extras*, std::size_t> extras_places_;
  std::vector<std::shared_ptr<const Graph>> bodies_;
  std::map<const Graph*, std::size_t> body_places_;
};

/// A tensor by itself, of any numeric type. Error(Code::input) from read_tensor() for bytes that are none.
void write_tensor(ByteWriter&, const Tensor&);
Tensor read_tensor(ByteReader&);

}  // namespace qtool
