// SPDX-License-Identifier: Apache-2.0
#include "formats/target.h"

#include <algorithm>

namespace qtool {
namespace {

std::string text_of(const std::variant<std::int64_t, float, std::string_view>& value) {
  if (const auto* i = std::get_if<std::int64_t>(&value)) return std::to_string(*i);
  if (const auto* f = std::get_if<float>(&value)) {
    std::string text = std::to_string(*f);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.push_back('0');
    return text;
  }
  return "\"" + std::string(std::get<std::string_view>(value)) + "\"";
}

bool meets(const Node& node, const Need& need) {
  const Attr* attr = node.attrs.find(need.attribute);
  if (attr == nullptr) return need.value == need.otherwise;
  if (const auto* i = std::get_if<std::int64_t>(&need.value)) {
    const auto* has = std::get_if<std::int64_t>(&attr->value);
    return has != nullptr && *has == *i;
  }
  if (const auto* f = std::get_if<float>(&need.value)) {
    const auto* has = std::get_if<float>(&attr->value);
    return has != nullptr && *has == *f;
  }
  const auto* has = std::get_if<std::string>(&attr->value);
  return has != nullptr && *has == std::get<std::string_view>(need.value);
}

std::string_view role_text(Role role) {
  switch (role) {
    case Role::product: return "with 8-bit operands";
    case Role::arithmetic: return "on 8-bit values";
    case Role::move: return "on 8-bit values";
    case Role::weight_only: return "with quantized weights and float activations";
    case Role::dynamic: return "with activations quantized at run time";
  }
  return "";
}

std::string join(const std::vector<std::string_view>& words) {
  std::string text;
  for (const std::string_view word : words) text += (text.empty() ? "" : ", ") + std::string(word);
  return text;
}

}  // namespace

const Ability* Target::find(const Node& node, Role role) const {
  const std::string_view domain = node.domain == "ai.onnx" ? std::string_view{} : std::string_view(node.domain);
  for (const Ability& row : abilities) {
    if (row.op == node.op && row.domain == domain && row.role == role) return &row;
  }
  return nullptr;
}

Support Target::accepts(const Node& node, Role role, std::string_view activation, std::string_view weight) const {
  const Ability* row = find(node, role);
  if (row == nullptr) return {false, runtime + " has no " + node.op + " kernel " + std::string(role_text(role))};
  for (const Need& need : row->needs) {
    if (!meets(node, need)) {
      return {false, runtime + " runs " + node.op + " " + std::string(role_text(role)) + " only with " +
                         std::string(need.attribute) + " = " + text_of(need.value)};
    }
  }
  const auto listed = [](const std::vector<std::string_view>& all, std::string_view one) {
    return std::find(all.begin(), all.end(), one) != all.end();
  };
  if (!activation.empty() && !listed(row->activation_formats, activation)) {
    return {false, runtime + " runs " + node.op + " with activations in " + join(row->activation_formats) + ", not " +
                       std::string(activation)};
  }
  if (!weight.empty() && !listed(row->weight_formats, weight)) {
    return {false, runtime + " runs " + node.op + " " + std::string(role_text(role)) + " with weights in " +
                       join(row->weight_formats) + ", not " + std::string(weight)};
  }
  return {};
}

std::string_view Target::activation_instead_of(std::string_view wished) const {
  std::string_view instead;
  for (const Ability& row : abilities) {
    if (row.role == Role::weight_only || row.role == Role::dynamic) continue;
    for (const std::string_view format : row.activation_formats) {
      if (format == wished) return wished;
      if (instead.empty()) instead = format;
    }
  }
  return instead.empty() ? wished : instead;
}

}  // namespace qtool
