// SPDX-License-Identifier: Apache-2.0
// Bytes of tensors on their way into a file.
#include <algorithm>

#include "formats/file/onnx_internal.h"

namespace qtool::onnx_file {
namespace {

struct Piece {
  std::size_t tensor, from, size;
  const std::byte* there;  // null: read into a buffer first
};

std::vector<Piece> pieces_of(std::span<const Tensor* const> tensors) {
  constexpr std::size_t typical = std::size_t{1} << 20;
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& t = *tensors[i];
    if (t.size_bytes() == 0) continue;
    const bool there = t.address() != nullptr && !t.is_mapped();
    const std::size_t size = there ? t.size_bytes() : (typical + t.part() - 1) / t.part() * t.part();
    for (std::size_t at = 0; at < t.size_bytes(); at += size) {
      pieces.push_back({i, at, std::min(size, t.size_bytes() - at), there ? t.address() + at : nullptr});
    }
  }
  return pieces;
}

/// Some pieces and the bytes of those that were read.
struct Batch {
  std::span<const Piece> pieces;
  std::vector<std::vector<std::byte>> bytes;
};

}  // namespace

void stream_elements(std::span<const Tensor* const> tensors, Threads* threads, const ElementSink& sink) {
  const std::vector<Piece> pieces = pieces_of(tensors);
  const std::size_t together = threads == nullptr ? 1 : 2 * static_cast<std::size_t>(threads->count());
  Batch now, next;
  for (std::size_t at = 0; at < pieces.size() || !now.pieces.empty();) {
    next.pieces = std::span(pieces).subspan(at, std::min(together, pieces.size() - at));
    next.bytes.resize(together);
    const auto read = [&](std::size_t i) {
      const Piece& piece = next.pieces[i];
      if (piece.there != nullptr) return;
      next.bytes[i].resize(piece.size);
      tensors[piece.tensor]->read(piece.from, next.bytes[i]);
    };
    const auto give = [&] {
      for (std::size_t i = 0; i < now.pieces.size(); ++i) {
        const Piece& piece = now.pieces[i];
        sink(piece.tensor, piece.there ? std::span(piece.there, piece.size) : std::span<const std::byte>(now.bytes[i]));
      }
    };
    if (threads == nullptr) {
      give();
      for (std::size_t i = 0; i < next.pieces.size(); ++i) read(i);
    } else {
      threads->for_each(static_cast<std::int64_t>(next.pieces.size()) + 1, 1,
                        [&](std::int64_t i, std::int64_t) { i == 0 ? give() : read(static_cast<std::size_t>(i) - 1); });
    }
    at += next.pieces.size();
    std::swap(now, next);
  }
}

}  // namespace qtool::onnx_file
