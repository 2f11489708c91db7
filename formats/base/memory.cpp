// SPDX-License-Identifier: Apache-2.0
#include "formats/base/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "formats/base/error.h"

namespace qtool {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t large = std::size_t{1} << 20;   // such a block has a file of its own
constexpr std::size_t least = std::size_t{32} << 10;  // smaller blocks stay on the heap
constexpr std::size_t chunk = std::size_t{16} << 20;  // blocks in between share files of this size
/// What blocks may take of the ceiling; the rest is for what kernels and libraries allocate by themselves.
constexpr double share_of_blocks = 0.7;

struct State {
  std::mutex mutex;
  std::vector<const MemoryCeiling*> ceilings;
  std::atomic<std::uint64_t> most{0};                 // bytes in blocks on the heap
  std::shared_ptr<std::byte> shared_file;             // the chunk that is being filled
  std::size_t filled = 0;                             // of it
  std::multimap<std::size_t, std::byte*> free_files;  // by size, mapped: for the next block
  std::uint64_t free_bytes = 0, most_free = 0;
  std::atomic<bool> active{false};
  std::atomic<std::uint64_t> on_heap{0}, spilled{0};
};
State& state() {
  static State s;
  return s;
}

std::uint64_t page_size() { return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)); }

/// Large blocks of libraries and kernels get a mapping of their own, which goes back when they are freed: with memory
/// that is kept, holes between blocks would count too.
void give_back_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 1 << 16);
  mallopt(M_MMAP_THRESHOLD, static_cast<int>(large));
  mallopt(M_TRIM_THRESHOLD, static_cast<int>(large));
  malloc_trim(0);
#endif
}

std::shared_ptr<std::byte> on_heap(std::size_t size, bool zeroed) {
  // calloc keeps large zeroed blocks lazy; 64 bytes of slack give the alignment.
  if (size > SIZE_MAX - 64) throw std::bad_alloc();
  void* raw = zeroed ? std::calloc(1, size + 64) : std::malloc(size + 64);
  if (raw == nullptr) throw std::bad_alloc();
  auto* const first = static_cast<std::byte*>(raw);
  std::byte* const aligned = first + (64 - reinterpret_cast<std::uintptr_t>(raw) % 64) % 64;
  if (size < least) return {aligned, [raw](std::byte*) { std::free(raw); }};
  state().on_heap += size;
  return {aligned, [raw, size](std::byte*) {
            std::free(raw);
            state().on_heap -= size;
          }};
}

/// An unlinked file with room for `size` bytes; -1 and errno.
int file_of(std::size_t size, const fs::path& folder) {
  int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) {  // not every file system has files without a name
    std::string name = (folder / ".qtool-scratch-XXXXXX").string();
    fd = ::mkostemp(name.data(), O_CLOEXEC);
    if (fd >= 0) ::unlink(name.c_str());
  }
  if (fd < 0) return fd;
  // Room now: a full disk found by a write to mapped memory would end the process.
  const int failure = ::posix_fallocate(fd, 0, static_cast<off_t>(size));
  if (failure == 0) return fd;
  ::close(fd);
  errno = failure;
  return -1;
}

/// A new file of that size, mapped. Requires: the state is locked, so that the folder stays.
std::byte* new_file(std::size_t size) {
  State& s = state();
  if (s.ceilings.empty()) throw std::bad_alloc();  // the last job ended at this moment
  const fs::path& folder = s.ceilings.back()->folder();
  const int fd = file_of(size, folder);
  if (fd < 0) {
    throw Error(Code::no_fit,
                "no room for " + size_text(size) + " of scratch in " + folder.string() + ": " + std::strerror(errno),
                "free some space, write the output to another disk, or raise --max-ram");
  }
  void* p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (p == MAP_FAILED) throw std::bad_alloc();
  s.spilled += size;
  return static_cast<std::byte*>(p);
}

/// Results of operators come and go in the same sizes: pages that are there already cost nothing.
void keep_or_unmap(std::byte* p, std::size_t size) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.active && s.free_bytes + size <= s.most_free) {
    s.free_files.emplace(size, p);
    s.free_bytes += size;
  } else {
    ::munmap(p, size);
  }
}

/// One that nobody uses any more; null: there is none. Requires: the state is locked.
std::byte* kept_file(std::size_t size) {
  State& s = state();
  const auto found = s.free_files.find(size);
  if (found == s.free_files.end()) return nullptr;
  std::byte* const p = found->second;
  s.free_files.erase(found);
  s.free_bytes -= size;
  return p;
}

std::shared_ptr<std::byte> in_file(std::size_t size, bool zeroed) {
  std::unique_lock lock(state().mutex);
  std::byte* p = kept_file(size);
  const bool used = p != nullptr;
  if (!used) p = new_file(size);
  lock.unlock();
  if (used && zeroed) std::memset(p, 0, size);
  return {p, [size](std::byte* q) { keep_or_unmap(q, size); }};
}

/// A part of a file that it shares with its neighbours in time, and that is there as long as the last of them.
std::shared_ptr<std::byte> in_shared_file(std::size_t size) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (!s.shared_file || s.filled + size > chunk) {
    s.shared_file = {new_file(chunk), [](std::byte* p) { ::munmap(p, chunk); }};
    s.filled = 0;
  }
  std::byte* const at = s.shared_file.get() + s.filled;
  s.filled += (size + 63) / 64 * 64;
  return {s.shared_file, at};
}

/// The number in a file of /proc or /sys; none for "max" and where there is no such file.
std::optional<std::uint64_t> number_in(const fs::path& file) {
  std::ifstream in(file);
  std::uint64_t n = 0;
  if (!(in >> n)) return std::nullopt;
  return n;
}

}  // namespace

std::uint64_t parse_size(const std::string& text, const std::string& what) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, failure] = std::from_chars(text.data(), end, number);
  std::string unit(rest, end);
  std::erase(unit, ' ');
  double factor = 1;
  bool known = failure == std::errc();
  if (known && !unit.empty()) {
    static constexpr std::string_view prefixes = "KMGT";
    const std::size_t power = prefixes.find(static_cast<char>(unit[0] & ~0x20)) + 1;  // upper case; not found: 0
    const std::string tail = unit.substr(power > 0 ? 1 : 0);
    known = tail.empty() || tail == "B" || (tail == "iB" && power > 0);
    factor = std::pow(tail == "B" ? 1000.0 : 1024.0, static_cast<double>(power));
  }
  const double bytes = number * factor;
  if (!known || !(bytes >= 1) || !(bytes < 0x1p62)) {
    throw Error(Code::usage, what + ": \"" + text + "\" is no size", "write it like 512M, 1.5G or 2000000");
  }
  return static_cast<std::uint64_t>(bytes);
}

std::string size_text(std::uint64_t bytes) {
  static constexpr const char* units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double n = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; n >= 1024 && unit + 1 < std::size(units); ++unit) n /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 || n >= 10 ? "%.0f %s" : "%.1f %s", n, units[unit]);
  return text;
}

std::optional<MemoryLimit> container_limit(const fs::path& root) {
  std::optional<MemoryLimit> least;
  const auto consider = [&](const fs::path& file) {
    const auto bytes = number_in(root / file);
    if (bytes && (!least || *bytes < least->bytes)) least = MemoryLimit{*bytes, "/" + file.string()};
  };
  // "4:memory:/a/b" (version 1) and "0::/a/b" (version 2). Inside a container the path may be that of the host, which
  // is not there: the mount's own root then has the limit.
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool unified = controllers == ",,", memory = controllers.find(",memory,") != std::string::npos;
    if (!unified && !memory) continue;
    const fs::path mount = unified ? "sys/fs/cgroup" : "sys/fs/cgroup/memory";
    const char* const name = unified ? "memory.max" : "memory.limit_in_bytes";
    for (fs::path group = fs::path(line.substr(second + 1)).relative_path();; group = group.parent_path()) {
      consider(mount / group / name);
      if (group.empty()) break;
    }
  }
  const auto machine = static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * page_size();
  return least && least->bytes < machine ? least : std::nullopt;
}

std::uint64_t anonymous_memory() {
  std::uint64_t all = 0, resident = 0, of_files = 0;  // pages
  std::ifstream("/proc/self/statm") >> all >> resident >> of_files;
  return (resident - std::min(resident, of_files)) * page_size();
}

MemoryCeiling::MemoryCeiling(std::uint64_t bytes, fs::path folder) : bytes_(bytes), folder_(std::move(folder)) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const std::uint64_t all = anonymous_memory(), now = all - std::min<std::uint64_t>(all, s.on_heap);
  const auto most = static_cast<std::uint64_t>(static_cast<double>(bytes - std::min(bytes, now)) * share_of_blocks);
  s.most = s.ceilings.empty() ? most : std::min(s.most.load(), most);
  if (s.ceilings.empty()) s.spilled = 0;
  s.ceilings.push_back(this);
  s.most_free = bytes;
  s.active = true;
}

MemoryCeiling::~MemoryCeiling() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  std::erase(s.ceilings, this);
  if (!s.ceilings.empty()) return;
  s.active = false;
  s.shared_file = nullptr;
  for (const auto& [size, p] : s.free_files) ::munmap(p, size);
  s.free_files.clear();
  s.free_bytes = 0;
}

std::uint64_t MemoryCeiling::spilled() { return state().spilled; }

bool heap_has_room(std::size_t size, Lasting lasting) {
  const State& s = state();
  if (size < least || !s.active) return true;
  const std::uint64_t most = lasting == Lasting::yes ? s.most / 4 : s.most.load();
  return s.on_heap + size <= most;
}

std::shared_ptr<std::byte> memory_block(std::size_t size, bool zeroed, Lasting lasting) {
  if (heap_has_room(size, lasting)) return on_heap(size, zeroed);
  if (state().spilled == 0) give_back_freed_memory();
  return size < large ? in_shared_file(size) : in_file(size, zeroed);
}

}  // namespace qtool
