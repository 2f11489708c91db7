// SPDX-License-Identifier: Apache-2.0
#include "cli/text.h"

#include <doctest/doctest.h>

#include <limits>

using namespace qtool;

TEST_CASE("numbers for people") {
  CHECK(grouped(0) == "0");
  CHECK(grouped(999) == "999");
  CHECK(grouped(1234567) == "1,234,567");
  CHECK(bytes_text(12) == "12 bytes");
  CHECK(bytes_text(739688) == "739,688 bytes (722 KiB)");
  CHECK(bytes_text(std::uint64_t{3} << 30) == "3,221,225,472 bytes (3.0 GiB)");
  CHECK(percent(0.995) == "99.50 %");
  CHECK(fixed(std::numeric_limits<double>::infinity(), 2) == "inf");
  CHECK(fixed(1e300, 1).size() == 303);
  CHECK(significant(0.00001234, 3) == "1.23e-05");
}

TEST_CASE("names from files become harmless") {
  CHECK(printable("a\033[31mb\r\x7f") == "a\\x1b[31mb\\x0d\\x7f");
  CHECK(printable("\xc2\x9b"
                  "31m") == "\\x9b31m");
  CHECK(printable("Größe\n\tx") == "Größe\n\tx");
}

TEST_CASE("tables align") {
  Table table({"name", "n"});
  table.row({"Größe", "7"});
  table.row({"a\nb", "1234"});
  CHECK(table.text() == "name      n\nGröße     7\na b    1234\n");
  Table bare({});
  CHECK(bare.text().empty());
}

TEST_CASE("long text is broken at words") {
  CHECK(wrapped("one two three", 2, 9) == "one two\n  three");
  CHECK(wrapped("", 2, 9).empty());
}
