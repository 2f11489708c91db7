// SPDX-License-Identifier: Apache-2.0
#include "formats/ir/absent.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "formats/base/error.h"

namespace qtool {
namespace {

/// A range of addresses that all read as zeros: pages without memory of their own. It grows by further ranges and stays
/// for the life of the process, so that an address alone tells what is absent.
class Nothing {
 public:
  /// `size` bytes; no two calls give the same address, up to the end of the range.
  std::span<const std::byte> take(std::size_t size) {
    const std::lock_guard lock(mutex_);
    if (ranges_.empty() || ranges_.back().size() - used_ < size) grow(size);
    taken_ = true;
    const auto taken = ranges_.back().subspan(used_, size);
    used_ += (size + grain - 1) / grain * grain;
    used_ = std::min(used_, ranges_.back().size());
    return taken;
  }
  bool holds(const std::byte* at) {
    if (!taken_.load(std::memory_order_relaxed)) return false;  // no job is planned: nothing to look up
    const std::lock_guard lock(mutex_);
    const std::less_equal<> not_after;
    const std::less<> before;
    for (const auto& range : ranges_) {
      if (not_after(range.data(), at) && before(at, range.data() + range.size())) return true;
    }
    return false;
  }

 private:
  static constexpr std::size_t grain = 64;  // elements of every type lie aligned
  static constexpr std::size_t least = std::size_t{1} << 36;

  void grow(std::size_t size) {
    size = std::max(size, least);
    void* at = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw Error(Code::no_fit, "there are not enough addresses to plan for a model of this size");
    ranges_.emplace_back(static_cast<const std::byte*>(at), size);
    used_ = 0;
  }

  std::atomic<bool> taken_ = false;
  std::mutex mutex_;
  std::vector<std::span<const std::byte>> ranges_;
  std::size_t used_ = 0;
};

Nothing& nothing() {
  static Nothing one;
  return one;
}

}  // namespace

Tensor absent(DType dtype, const Shape& shape) {
  const std::size_t size = byte_size(dtype, element_count(shape));
  if (size == 0) return Tensor(dtype, shape);
  return Tensor(dtype, shape, Buffer::view(nothing().take(size), nullptr));
}

bool is_absent(const Tensor& t) { return t.size_bytes() > 0 && t.address() != nullptr && nothing().holds(t.address()); }

void set_some_scales(QuantSpec& spec, const Shape& x) {
  const auto n = static_cast<std::size_t>(element_count(scale_shape(spec.grain, x)));
  const float range = spec.format->highest - spec.format->lowest;
  set_scales(spec, std::vector<float>(n), std::vector<float>(n, range), x);
}

}  // namespace qtool
