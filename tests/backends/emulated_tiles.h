// SPDX-License-Identifier: Apache-2.0
// EmulatedTiles: the AMX instructions that the kernel uses, carried out by a handler of SIGILL on processors that lack
// them, so that the code as compiled is tested everywhere. After the operation sections of Intel's Software Developer's
// Manual, volume 2 (LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TILERELEASE, TDPBUSD,
// TDPBF16PS); other instructions stay illegal.
#pragma once

#if defined(__x86_64__)

#include <signal.h>
#include <sys/ucontext.h>

#include <cstdint>
#include <cstring>

namespace qtool::test {

class EmulatedTiles {
 public:
  EmulatedTiles() {
    struct sigaction action {};
    action.sa_sigaction = on_illegal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGILL, &action, &before());
  }
  ~EmulatedTiles() { sigaction(SIGILL, &before(), nullptr); }
  EmulatedTiles(const EmulatedTiles&) = delete;
  EmulatedTiles& operator=(const EmulatedTiles&) = delete;

 private:
  struct Tile {
    std::uint8_t bytes[16][64] = {};
    int rows = 0, row_bytes = 0;
  };
  struct State {
    Tile tiles[8];
    bool configured = false;
  };
  static State& state() {
    thread_local State own;
    return own;
  }
  static struct sigaction& before() {
    static struct sigaction kept {};
    return kept;
  }

  static void on_illegal(int, siginfo_t*, void* context) {
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    if (!carry_out(registers)) sigaction(SIGILL, &before(), nullptr);  // again, and for good
  }

  /// Number `n` as instructions count: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 ...
  static std::int64_t general(const gregset_t& g, int n) {
    constexpr int places[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return g[places[n]];
  }

  /// A three-byte VEX instruction of map 0F38; false where it is none that is known here.
  static bool carry_out(gregset_t& g) {
    const auto* code = reinterpret_cast<const std::uint8_t*>(g[REG_RIP]);
    if (code[0] != 0xc4 || (code[1] & 0x1f) != 2) return false;
    const int prefix = code[2] & 3, other = ~(code[2] >> 3) & 7;  // prefix: none, 66, F3, F2
    const std::uint8_t op = code[3], modrm = code[4];
    const int mode = modrm >> 6, first = modrm >> 3 & 7, second = modrm & 7;
    const std::uint8_t* at = code + 5;
    std::int64_t address = 0, stride = 0;
    if (mode != 3) {
      bool relative = false;
      if (second == 4) {
        const std::uint8_t sib = *at++;
        const int index = (sib >> 3 & 7) | ((code[1] & 0x40) == 0 ? 8 : 0),
                  base = (sib & 7) | ((code[1] & 0x20) == 0 ? 8 : 0);
        if (index != 4) stride = general(g, index) * (std::int64_t{1} << (sib >> 6));
        const bool absolute = (sib & 7) == 5 && mode == 0;
        if (!absolute) address = general(g, base);
        at = displaced(at, absolute ? 2 : mode, address);
      } else {
        relative = second == 5 && mode == 0;
        if (!relative) address = general(g, second | ((code[1] & 0x20) == 0 ? 8 : 0));
        at = displaced(at, relative ? 2 : mode, address);
      }
      if (relative) address += reinterpret_cast<std::int64_t>(at);
    }
    if (!carry_out(op, prefix, mode == 3, first, second, other, address, stride)) return false;
    g[REG_RIP] = reinterpret_cast<std::int64_t>(at);
    return true;
  }

  static const std::uint8_t* displaced(const std::uint8_t* at, int mode, std::int64_t& address) {
    if (mode == 1) {
      address += static_cast<std::int8_t>(*at);
      return at + 1;
    }
    if (mode != 2) return at;
    std::int32_t displacement = 0;
    std::memcpy(&displacement, at, sizeof displacement);
    address += displacement;
    return at + sizeof displacement;
  }

  static bool carry_out(int op, int prefix, bool on_tiles, int first, int second, int other, std::int64_t address,
                        std::int64_t stride) {
    State& s = state();
    auto* memory = reinterpret_cast<std::uint8_t*>(address + (op == 0x49 ? stride : 0));
    if (op == 0x49 && prefix == 0 && !on_tiles && first == 0) return configure(memory);
    if (op == 0x49 && prefix == 0 && on_tiles && first == 0 && second == 0) {
      s = State{};
      return true;
    }
    if (!s.configured) return false;
    Tile& tile = s.tiles[first];
    if (op == 0x49 && prefix == 3 && on_tiles && second == 0) {
      std::memset(tile.bytes, 0, sizeof tile.bytes);
      return true;
    }
    if (op == 0x4b && prefix == 3 && !on_tiles) {
      std::memset(tile.bytes, 0, sizeof tile.bytes);
      for (int r = 0; r < tile.rows; ++r) std::memcpy(tile.bytes[r], memory + r * stride, tile_bytes(tile));
      return true;
    }
    if (op == 0x4b && prefix == 2 && !on_tiles) {
      for (int r = 0; r < tile.rows; ++r) std::memcpy(memory + r * stride, tile.bytes[r], tile_bytes(tile));
      return true;
    }
    if (op == 0x5e && prefix == 1 && on_tiles) return multiply(tile, s.tiles[second], s.tiles[other]);
    if (op == 0x5c && prefix == 2 && on_tiles) return multiply_pairs(tile, s.tiles[second], s.tiles[other]);
    return false;
  }

  static std::size_t tile_bytes(const Tile& t) { return static_cast<std::size_t>(t.row_bytes); }

  static bool configure(const std::uint8_t* config) {
    if (config[0] != 1 || config[1] != 0) return false;  // palette 1, from the first row on
    State& s = state();
    s = State{};
    s.configured = true;
    for (int i = 0; i < 8; ++i) {
      s.tiles[i].row_bytes = config[16 + 2 * i] | config[17 + 2 * i] << 8;
      s.tiles[i].rows = config[48 + i];
      if (s.tiles[i].row_bytes > 64 || s.tiles[i].rows > 16) return false;
    }
    return true;
  }

  /// sums += a times b, two bfloat16 at a time: the even products of a row and the odd ones are summed apart.
  static bool multiply_pairs(Tile& sums, const Tile& a, const Tile& b) {
    if (a.row_bytes / 4 != b.rows || sums.rows != a.rows || sums.row_bytes != b.row_bytes) return false;
    const auto value = [](const Tile& t, int row, int i) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, t.bytes[row] + 2 * i, sizeof bits);
      const std::uint32_t wide = std::uint32_t{bits} << 16;
      float x = 0;
      std::memcpy(&x, &wide, sizeof x);
      return x;
    };
    for (int m = 0; m < sums.rows; ++m) {
      for (int n = 0; n < sums.row_bytes / 4; ++n) {
        float parts[2] = {}, sum = 0;
        for (int k = 0; k < a.row_bytes / 4; ++k) {
          for (int i = 0; i < 2; ++i) parts[i] += value(a, m, 2 * k + i) * value(b, k, 2 * n + i);
        }
        std::memcpy(&sum, sums.bytes[m] + 4 * n, sizeof sum);
        sum += parts[0] + parts[1];
        std::memcpy(sums.bytes[m] + 4 * n, &sum, sizeof sum);
      }
    }
    return true;
  }

  /// sums += unsigned a times signed b, four bytes at a time.
  static bool multiply(Tile& sums, const Tile& a, const Tile& b) {
    if (a.row_bytes / 4 != b.rows || sums.rows != a.rows || sums.row_bytes != b.row_bytes) return false;
    for (int m = 0; m < sums.rows; ++m) {
      for (int k = 0; k < a.row_bytes / 4; ++k) {
        for (int n = 0; n < sums.row_bytes / 4; ++n) {
          std::uint32_t sum = 0;
          std::memcpy(&sum, sums.bytes[m] + 4 * n, sizeof sum);
          for (int i = 0; i < 4; ++i) {
            sum += static_cast<std::uint32_t>(a.bytes[m][4 * k + i] * static_cast<std::int8_t>(b.bytes[k][4 * n + i]));
          }
          std::memcpy(sums.bytes[m] + 4 * n, &sum, sizeof sum);
        }
      }
    }
    return true;
  }
};

}  // namespace qtool::test

#endif
