// SPDX-License-Identifier: Apache-2.0
// Weights in blocks: MatMulNBits, MatMulBnb4 and GatherBlockQuantized, whose bytes the runtime takes as they are
// (onnx-quantized.md section 4).
#include "backends/verify/scene.h"

namespace qtool::verify {
namespace {

class Blocks {
 public:
  Blocks(const Scene& s, const NodeView& n) : s_(s), n_(n) {}

  void product() const {
    const std::int64_t k = n_.integer("K", 0), columns = n_.integer("N", 0), bits = n_.integer("bits", 4);
    const std::int64_t block = n_.integer("block_size", 0);
    constexpr std::int64_t most = std::int64_t{1} << 30;
    if (!block_fits(block, 256)) return;
    if (bits != 2 && bits != 4 && bits != 8) return add(std::to_string(bits) + " bits have no kernel", "use 2, 4 or 8");
    if (!n_.ints.contains("accuracy_level")) {
      add("accuracy_level is left to the session", "write the level that was measured");
    } else if (bits != 4 && n_.integer("accuracy_level", 0) == 0) {
      add("this width needs an accuracy level", "write accuracy_level 4, or 1 for float activations");
    }
    if (k <= 0 || columns <= 0 || k > most || columns > most) return add("it has no K or N", "write both extents");
    const std::int64_t blocks = (k + block - 1) / block, bytes = block * bits / 8;
    const TensorView* codes = needed(1, "weight");
    const TensorView* scale = needed(2, "scale");
    if (codes == nullptr || scale == nullptr) return;
    if (codes->type != u8 || codes->dims != std::vector<std::int64_t>{columns, blocks, bytes}) {
      add("its weight is not [N, blocks, bytes per block] = " + shape_text({columns, blocks, bytes}) + " but " +
              shape_text(codes->dims),
          "pack it column by column");
    } else {
      tail(*codes, columns, blocks, bytes, (k - (blocks - 1) * block) * bits);
    }
    scales(*scale, {columns, blocks});
    zero_points(3, columns, blocks, bits);
    if (!n_.input(4).empty()) {
      add("g_idx makes the runtime ignore zero points", "reorder the rows of the weight instead");
    }
    const TensorView* bias = s_.constant(n_, 5);
    if (bias != nullptr && bias->dims != std::vector<std::int64_t>{columns}) {
      add("its bias is not [N] but " + shape_text(bias->dims), "write it as a row of N numbers");
    }
  }

  void book() const {
    const std::int64_t k = n_.integer("K", 0), columns = n_.integer("N", 0), block = n_.integer("block_size", 0);
    constexpr std::int64_t most = std::int64_t{1} << 30;
    if (!block_fits(block, std::int64_t{1} << 20)) return;
    if (k <= 0 || columns <= 0 || k > most || columns > most) return add("it has no K or N", "write both extents");
    if (k % block != 0) add("its blocks reach from one column into the next", "use a block that divides K");
    const TensorView* codes = needed(1, "weight");
    const TensorView* scale = needed(2, "scale");
    if (codes == nullptr || scale == nullptr) return;
    if (codes->type != u8 || codes->count() != (k * columns + 1) / 2) {
      add("its weight is not two codes per byte: " + counted(codes->count(), "byte") + " for " +
              std::to_string(k * columns) + " codes",
          "pack the first of two codes into the high bits");
    }
    check_scale(s_, n_, *scale);
    if (scale->count() != (k * columns + block - 1) / block) {
      add("it has " + counted(scale->count(), "scale") + " for " + std::to_string(k * columns / block) + " blocks",
          "write one scale per block, column by column");
    }
  }

  void gather() const {
    const std::int64_t bits = n_.integer("bits", 4), block = n_.integer("block_size", 128);
    if (!block_fits(block, std::int64_t{1} << 20)) return;
    const TensorView* codes = needed(0, "table");
    const TensorView* scale = needed(2, "scale");
    if (codes == nullptr || scale == nullptr) return;
    if (codes->type == u8 && bits != 2 && bits != 4 && bits != 8) {
      return add(std::to_string(bits) + " bits have no kernel", "use 2, 4 or 8");
    }
    constexpr std::int64_t most = std::int64_t{1} << 48;
    if (codes->count() > most / 8) return;
    if (codes->dims.size() != 2 || scale->dims.size() != 2 || codes->dims[0] != scale->dims[0]) {
      return add("table and scales differ in rows: " + shape_text(codes->dims) + " and " + shape_text(scale->dims),
                 "write one row of scales per row of the table");
    }
    if (n_.integer("gather_axis", 0) != 0 || n_.integer("quantize_axis", 1) != 1) {
      add("its blocks do not lie along the rows", "write gather_axis 0 and quantize_axis 1");
    }
    // uint8 holds packed codes; other types are one element each.
    const std::int64_t width = codes->type == u8 ? codes->dims[1] * 8 / bits : codes->dims[1];
    const std::int64_t blocks = (width + block - 1) / block;
    if (scale->dims[1] != blocks) {
      add("it has " + std::to_string(scale->dims[1]) + " scales per row for " + counted(blocks, "block"),
          "write one scale per block");
    }
    check_scale(s_, n_, *scale);
    if (codes->type == u8) zero_points(3, codes->dims[0], blocks, bits);
  }

 private:
  void add(const std::string& what, const std::string& advice) const { s_.findings.add(n_, what, advice); }

  bool block_fits(std::int64_t block, std::int64_t highest) const {
    const bool fits = block >= 16 && block <= highest && (block & (block - 1)) == 0;
    if (!fits) {
      add("block_size " + std::to_string(block) + " has no kernel",
          "use a power of two from 16 to " + std::to_string(highest));
    }
    return fits;
  }

  const TensorView* needed(std::size_t i, const char* what) const {
    const TensorView* t = s_.constant(n_, i);
    if (t == nullptr) add(std::string("its ") + what + " is no constant", "write it as an initializer");
    return t;
  }

  void scales(const TensorView& scale, const std::vector<std::int64_t>& shape) const {
    check_scale(s_, n_, scale);
    const bool flat = scale.dims.size() == 1 && scale.count() == shape[0] * shape[1];
    if (flat || scale.dims == shape) return;
    add("its scales are " + shape_text(scale.dims) + ", not [N, blocks] = " + shape_text(shape),
        "write one scale per block, column by column");
  }

  /// Packed row by row: each row starts on a byte, what is left of its last byte is zero.
  void zero_points(std::size_t at, std::int64_t rows, std::int64_t blocks, std::int64_t bits) const {
    if (n_.input(at).empty()) return;
    const TensorView* zero = needed(at, "zero point");
    if (zero == nullptr) return;
    if (is_real(zero->type)) {
      return add("float zero points have only a slow kernel", "pack them as codes of the same width");
    }
    const std::int64_t row = (blocks * bits + 7) / 8;
    if (zero->type != u8 || zero->count() != rows * row) {
      return add("its zero points are not packed row by row: " + counted(zero->count(), "byte") + " for " +
                     std::to_string(rows) + " rows of " + counted(row, "byte"),
                 "start every row on a byte");
    }
    const auto used = static_cast<unsigned>(blocks * bits % 8);
    if (used == 0 || !zero->raw) return;
    for (std::int64_t r = 0; r < rows; ++r) {
      if ((std::to_integer<unsigned>(zero->bytes[static_cast<std::size_t>((r + 1) * row - 1)]) >> used) == 0) continue;
      return add("bits behind the last zero point of row " + std::to_string(r) + " are not zero",
                 "pack the first zero point into the lowest bits and fill up with zeros");
    }
  }

  /// Codes behind K, up to the end of the last block, are zero bits. `used`: bits of the last block that hold codes.
  void tail(const TensorView& codes, std::int64_t columns, std::int64_t blocks, std::int64_t bytes,
            std::int64_t used) const {
    if (used == bytes * 8 || !codes.raw) return;
    for (std::int64_t n = 0; n < columns; ++n) {
      const Bytes last = codes.bytes.subspan(static_cast<std::size_t>(((n + 1) * blocks - 1) * bytes),
                                             static_cast<std::size_t>(bytes));
      const auto from = static_cast<std::size_t>(used / 8);
      unsigned rest = std::to_integer<unsigned>(last[from]) >> (used % 8);
      for (std::size_t i = from + 1; i < last.size(); ++i) rest |= std::to_integer<unsigned>(last[i]);
      if (rest == 0) continue;
      return add("codes behind the end of column " + std::to_string(n) + " are not zero",
                 "fill the last block up with zero bytes");
    }
  }

  const Scene& s_;
  const NodeView& n_;
};

}  // namespace

void check_blocks(const Scene& s) {
  for (const NodeView& n : s.graph.nodes) {
    if (n.is("MatMulNBits", "com.microsoft")) Blocks(s, n).product();
    if (n.is("MatMulBnb4", "com.microsoft")) Blocks(s, n).book();
    if (n.is("GatherBlockQuantized", "com.microsoft")) Blocks(s, n).gather();
  }
}

}  // namespace qtool::verify
