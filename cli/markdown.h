// SPDX-License-Identifier: Apache-2.0
// Markdown for the generated pages of the documentation.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/base/json.h"

namespace qtool::markdown {

using Row = std::vector<std::string>;

/// Text that cannot end a table cell early.
std::string cell(std::string_view text);
/// In backquotes; nothing for nothing.
std::string code(std::string_view text);
/// Words in backquotes with commas between.
std::string codes(const std::vector<std::string_view>& words);
std::string table(const Row& head, const std::vector<Row>& rows);
/// What describe_knobs tells, as a table whose first column is called `title`.
std::string knob_table(const Json& knobs, std::string_view title = "knob");
/// With a capital letter in front and a full stop behind.
std::string sentence(std::string_view text);

}  // namespace qtool::markdown
