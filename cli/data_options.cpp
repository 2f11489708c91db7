// SPDX-License-Identifier: Apache-2.0
#include "cli/data_options.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "formats/base/error.h"
#include "recipes/reader/bind.h"

namespace qtool {
namespace {

[[noreturn]] void fail(const Setting& setting, const std::string& text) {
  throw Error(Code::usage, setting.place.text() + ": " + text);
}

std::vector<double> numbers_of(const Setting& setting, const std::string& name) {
  std::vector<double> values;
  const auto add = [&](const Setting& item) {
    const Json value = item.json();
    if (item.quoted || !value.is_number() || !std::isfinite(value.as_number())) {
      fail(item, "\"" + name + "\" must be a number per channel");
    }
    values.push_back(value.as_number());
  };
  if (const auto* list = std::get_if<std::vector<Setting>>(&setting.value)) {
    std::for_each(list->begin(), list->end(), add);
  } else {
    add(setting);
  }
  return values;
}

/// What a section declares beside its own fields: keys that are read by hand, so that help and nearest names know them.
struct ImageKeys {
  ImageOptions& image;
  std::vector<std::string> mean, deviation;

  void options(Options& o) {
    constexpr double longest = 65536;
    o("resize", image.resize, "shorter side, bilinear; 0: none", 0, longest);
    o("crop_height", image.crop_height, "height of the centre crop; 0: the model's", 0, longest);
    o("crop_width", image.crop_width, "width of the centre crop; 0: the model's", 0, longest);
    o("mean", mean, "per channel, taken off after the division by scale");
    o("std", deviation, "per channel, divided by");
    o("scale", image.scale, "what pixel values are divided by", 1e-6, 1e6);
    o("layout", image.layout, "order of the axes", {"nchw", "nhwc"});
    o("color", image.color, "order of the channels", {"rgb", "bgr", "gray"});
  }
};

struct DataKeys {
  DataOptions& data;
  std::vector<std::string> image, state;
  std::int64_t seed = 0;

  void options(Options& o) {
    constexpr double most = 1e12;
    o("path", data.path, "file or folder, seen from the folder of the recipe; or random");
    o("kind", data.kind, "what it is; without it told from the path",
      {"npz", "npy", "test_data_set", "safetensors", "images", "jsonl", "random"});
    o("samples", data.samples, "samples to use; 0: all", 0, most);
    o("skip", data.skip, "samples to leave out first", 0, most);
    o("batch", data.batch, "samples per run where the model's batch is free; 0: chosen", 0, most);
    o("labels", data.labels, "name of the array of class labels");
    o("seed", seed, "of kind random", 0, most);
    o("image", image, "how images become tensors: resize, crop_height, crop_width, mean, std, scale, layout, color");
    o("state", state, "output -> input that a sequence hands on");
  }
};

void read_image(const Setting& setting, const std::string& owner, ImageOptions& image) {
  const auto* map = std::get_if<Settings>(&setting.value);
  if (!map) fail(setting, "\"image\" must be a map of keys");
  Settings plain;
  for (const auto& item : *map) {
    if (item.name == "mean") {
      image.mean = numbers_of(item.setting, "mean");
    } else if (item.name == "std") {
      image.std_dev = numbers_of(item.setting, "std");
      if (std::any_of(image.std_dev.begin(), image.std_dev.end(), [](double v) { return v == 0; })) {
        fail(item.setting, "\"std\" must not be zero");
      }
    } else {
      plain.push_back(item);
    }
  }
  ImageKeys keys{image, {}, {}};
  bind_knobs(
      plain, [&](Options& o) { keys.options(o); }, "\"image\" of " + owner);
}

/// `knobs` with the types of the keys that are read by hand.
Json typed(const Json& knobs, const std::map<std::string_view, std::string_view>& types) {
  Json out = Json::array();
  for (Json knob : knobs.as_array()) {
    const auto own = types.find(knob.find("name")->as_string());
    if (own != types.end()) knob.set("type", own->second);
    out.push(std::move(knob));
  }
  return out;
}

void read_state(const Setting& setting, std::map<std::string, std::string>& state) {
  const auto* map = std::get_if<Settings>(&setting.value);
  if (!map) fail(setting, "\"state\" must be a map from output names to input names");
  for (const auto& [output, input] : *map) state[output] = input.scalar();
}

}  // namespace

DataOptions read_data_options(const Settings& settings, const std::string& section) {
  DataOptions data;
  const std::string owner = "\"" + section + "\"";
  Settings plain;
  const Setting* path = nullptr;
  for (const auto& item : settings) {
    if (item.name == "image") {
      read_image(item.setting, owner, data.image);
    } else if (item.name == "state") {
      read_state(item.setting, data.state);
    } else {
      plain.push_back(item);
      if (item.name == "path") path = &item.setting;
    }
  }
  DataKeys keys{data, {}, {}};
  bind_knobs(
      plain, [&](Options& o) { keys.options(o); }, owner);
  data.seed = static_cast<std::uint64_t>(keys.seed);
  if (path && path->place.line != 0 && data.path != "random" && std::filesystem::path(data.path).is_relative()) {
    data.path = (std::filesystem::path(path->place.file).parent_path() / data.path).string();
  }
  return data;
}

Json describe_data() {
  DataOptions data;
  DataKeys keys{data, {}, {}};
  return typed(describe_knobs([&](Options& o) { keys.options(o); }), {{"image", "map"}, {"state", "map"}});
}

Json describe_image() {
  ImageOptions image;
  ImageKeys keys{image, {}, {}};
  return typed(describe_knobs([&](Options& o) { keys.options(o); }), {{"mean", "numbers"}, {"std", "numbers"}});
}

bool has_data(const DataOptions& data) { return !data.path.empty() || data.kind == "random"; }  // which needs no path

DataOptions data_from(const std::string& path) {
  DataOptions data;
  data.path = path;
  return data;
}

}  // namespace qtool
