// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>

#include "formats/file/opset.h"
#include "formats/file/reader.h"

namespace qtool::opset {
namespace {

constexpr Signature signatures[] = {
#define QTOOL_OPSET(op, since, deprecated, least, most, outputs, attributes, in_types, out_types) \
  {#op, since, deprecated, least, most, outputs, attributes, in_types, out_types},
#include "formats/file/opset_facts.inc"
#undef QTOOL_OPSET
};

std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    if (end > 0) out.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

}  // namespace

const Signature* find_signature(std::string_view op, std::int64_t version) {
  const Signature* best = nullptr;
  for (const Signature& s : signatures) {
    if (s.op == op && s.since <= version) best = &s;  // in rising order of versions
  }
  return best;
}

bool known_operator(std::string_view op) { return find_signature(op, 1 << 20) != nullptr; }

std::vector<AttributeFact> attributes_of(const Signature& signature) {
  std::vector<AttributeFact> facts;
  for (std::string_view word : words(signature.attributes)) {
    AttributeFact fact;
    if (word.ends_with('!')) {
      fact.required = true;
      word.remove_suffix(1);
    }
    const std::size_t equals = word.find('=');
    fact.name = word.substr(0, equals);
    if (equals != std::string_view::npos) {
      fact.kind = word[equals + 1];
      fact.text = word.substr(equals + 2);
    }
    facts.push_back(fact);
  }
  return facts;
}

std::uint32_t types_of(std::string_view masks, std::size_t i) {
  const auto list = words(masks);
  if (list.empty()) return ~std::uint32_t{0};
  const std::string_view text = list[std::min(i, list.size() - 1)];
  std::uint32_t mask = 0;
  std::from_chars(text.data(), text.data() + text.size(), mask, 16);
  return mask;
}

std::uint32_t type_bit(DType dtype) { return std::uint32_t{1} << (onnx_of_dtype(dtype) - 1); }

}  // namespace qtool::opset
