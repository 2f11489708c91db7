// SPDX-License-Identifier: Apache-2.0
#include "formats/file/safetensors.h"

#include <vector>

#include "tests/fuzz/targets.h"

namespace qtool::fuzz {

/// Tensors that were read can be written, and are the same when read again.
void safetensors(std::span<const std::byte> bytes) {
  refuses_with(Code::input, [&] {
    const auto kept = std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end());
    const Safetensors file(*kept, "m.safetensors", kept);
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (const auto& entry : file.entries()) tensors.emplace_back(entry.name, file.read(entry.name));
    const std::string written = safetensors_bytes(tensors, file.metadata());
    const Safetensors again(std::as_bytes(std::span(written.data(), written.size())), "again.safetensors", {});
    if (again.metadata() != file.metadata()) throw std::logic_error("writing and reading changed the metadata");
    for (const auto& [name, tensor] : tensors) {
      const Tensor other = again.read(name);
      const auto a = tensor.bytes(), b = other.bytes();
      if (other.dtype() != tensor.dtype() || other.shape() != tensor.shape() ||
          !std::equal(a.begin(), a.end(), b.begin(), b.end())) {
        throw std::logic_error("writing and reading changed a tensor");
      }
    }
  });
}

}  // namespace qtool::fuzz
