// SPDX-License-Identifier: Apache-2.0
// ONNX test data: a folder test_data_set_<n> with input_<k>.pb for the k-th model input, or a folder of such folders.
#include <algorithm>

#include "calib/data/samples.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/file/reader.h"

namespace qtool {
namespace {

ListSamples::Row read_set(const std::filesystem::path& folder, const std::vector<Wanted>& wanted) {
  ListSamples::Row row;
  for (std::size_t k = 0; k < wanted.size(); ++k) {
    const auto path = folder / ("input_" + std::to_string(k) + ".pb");
    if (!std::filesystem::exists(path)) {
      throw Error(Code::calibration, path.string() + " is missing: the model has " + std::to_string(wanted.size()) +
                                         " inputs, this one is \"" + wanted[k].name + "\"");
    }
    const MappedFile file(path);
    Tensor t = read_tensor_proto(file.bytes(), path.string());
    row[wanted[k].name] = wanted[k].type.known_dtype ? as_input(t, wanted[k].type.dtype, wanted[k].name) : t;
  }
  return row;
}

}  // namespace

std::unique_ptr<Samples> open_test_data(const std::filesystem::path& path, const std::vector<Wanted>& wanted) {
  std::vector<std::pair<std::int64_t, std::filesystem::path>> sets;  // by number, not by name: 10 comes after 9
  if (std::filesystem::exists(path / "input_0.pb")) {
    sets.emplace_back(0, path);
  } else {
    const std::string prefix = "test_data_set_";
    for (const auto& item : std::filesystem::directory_iterator(path)) {
      const std::string name = item.path().filename().string();
      const std::string number = name.substr(std::min(prefix.size(), name.size()));
      if (name.compare(0, prefix.size(), prefix) != 0 || number.empty() || number.size() > 9 ||
          number.find_first_not_of("0123456789") != std::string::npos) {
        continue;
      }
      sets.emplace_back(std::stoll(number), item.path());
    }
    std::sort(sets.begin(), sets.end());
  }
  std::vector<ListSamples::Row> rows;
  for (const auto& [number, folder] : sets) rows.push_back(read_set(folder, wanted));
  return std::make_unique<ListSamples>(std::move(rows), true);
}

}  // namespace qtool
