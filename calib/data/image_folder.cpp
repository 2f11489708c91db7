// SPDX-License-Identifier: Apache-2.0
// A folder of pictures: sorted by name; sub-folders, sorted too, are classes 0, 1, ...
#include <algorithm>
#include <cctype>
#include <mutex>

#include "calib/data/image.h"
#include "calib/data/samples.h"
#include "formats/base/error.h"
#include "formats/base/file.h"

namespace qtool {
namespace {

constexpr std::size_t kept_bytes = std::size_t{512} << 20;  // decoded samples that stay in memory

std::vector<std::filesystem::path> sorted_entries(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> out;
  for (const auto& e : std::filesystem::directory_iterator(folder)) out.push_back(e.path());
  std::sort(out.begin(), out.end());
  return out;
}

struct Source {
  std::filesystem::path path;
  std::int64_t label = -1;
};

class ImageSamples final : public Samples {
 public:
  ImageSamples(std::vector<Source> files, const Wanted& input, const ImageOptions& options)
      : files_(std::move(files)), name_(input.name), options_(options), kept_(files_.size()) {
    const std::string where = "data.image";
    if (options.layout != "nchw" && options.layout != "nhwc") {
      throw Error(Code::calibration, where + ": layout is nchw or nhwc, not \"" + options.layout + "\"");
    }
    if (options.color != "rgb" && options.color != "bgr" && options.color != "gray") {
      throw Error(Code::calibration, where + ": color is rgb, bgr or gray, not \"" + options.color + "\"");
    }
    for (const auto* list : {&options.mean, &options.std_dev}) {
      if (!list->empty() && list->size() != 1 && list->size() != channels()) {
        throw Error(Code::calibration,
                    where + ": mean and std_dev have one number per channel, " + std::to_string(channels()) + " here");
      }
    }
    if (options.scale == 0 || std::count(options.std_dev.begin(), options.std_dev.end(), 0.0) > 0) {
      throw Error(Code::calibration, where + ": scale and std_dev divide, they cannot be 0");
    }
    if (!input.type.known_rank || input.type.shape.size() != 4) {
      throw Error(Code::calibration, "pictures feed an input of rank 4; \"" + name_ + "\" has another",
                  "prepare the data as an .npz file");
    }
    type_.known_dtype = type_.known_rank = true;
    bytes_ = input.type.known_dtype && input.type.dtype == DType::u8;
    if (bytes_ && (!options.mean.empty() || !options.std_dev.empty())) {
      throw Error(Code::calibration,
                  where + ": the input \"" + name_ + "\" takes bytes; mean and std_dev do not apply");
    }
    half_ = input.type.known_dtype && (input.type.dtype == DType::f16 || input.type.dtype == DType::bf16);
    type_.dtype = bytes_ || half_ ? input.type.dtype : DType::f32;
    const bool first = options.layout == "nchw";
    height_ = options.crop_height > 0 ? options.crop_height : input.type.shape[first ? 2 : 1];
    width_ = options.crop_width > 0 ? options.crop_width : input.type.shape[first ? 3 : 2];
    const auto c = static_cast<std::int64_t>(channels());
    const std::int64_t h = height_ > 0 ? height_ : -1, w = width_ > 0 ? width_ : -1;
    type_.shape = first ? Shape{c, h, w} : Shape{h, w, c};
  }

  std::int64_t count() const override { return static_cast<std::int64_t>(files_.size()); }
  std::vector<std::string> names() const override { return {name_}; }
  Type type(const std::string&) const override { return type_; }

  Tensor sample(const std::string&, std::int64_t i) const override {
    const auto slot = static_cast<std::size_t>(i);
    {
      const std::lock_guard lock(mutex_);
      if (!kept_[slot].empty()) return kept_[slot];
    }
    Tensor t = decode(files_[slot].path);
    const std::lock_guard lock(mutex_);
    if (kept_size_ + t.size_bytes() <= kept_bytes) {
      kept_size_ += t.size_bytes();
      kept_[slot] = t;
    }
    return t;
  }

  Tensor label(std::int64_t i) const override {
    const std::int64_t label = files_[static_cast<std::size_t>(i)].label;
    return label < 0 ? Tensor{} : Tensor::scalar(label);
  }

 private:
  std::size_t channels() const { return options_.color == "gray" ? 1 : 3; }

  Tensor decode(const std::filesystem::path& path) const {
    const MappedFile file(path);
    Picture p = decode_picture(file.bytes(), path.string());
    if (options_.resize > 0) p = resize_shorter(p, options_.resize);
    const std::int64_t h = height_ > 0 ? height_ : p.height, w = width_ > 0 ? width_ : p.width;
    if (h > p.height || w > p.width) {
      throw Error(Code::calibration,
                  path.string() + ": " + std::to_string(p.width) + " x " + std::to_string(p.height) +
                      " pixels are fewer than the " + std::to_string(w) + " x " + std::to_string(h) + " that \"" +
                      name_ + "\" takes",
                  "set data.image.resize to the length that the shorter side shall have");
    }
    p = crop_center(p, w, h);
    return arrange(p);
  }

  /// Channel order, layout, (v / scale - mean) / std_dev in float32.
  Tensor arrange(const Picture& p) const {
    const bool first = options_.layout == "nchw", one = options_.color == "gray", bgr = options_.color == "bgr";
    const std::vector<std::uint8_t> luma = one ? gray(p) : std::vector<std::uint8_t>{};
    const std::size_t n = channels(), pixels = static_cast<std::size_t>(p.width * p.height);
    Shape shape{p.height, p.width};
    shape.insert(first ? shape.begin() : shape.end(), static_cast<std::int64_t>(n));
    Tensor out(bytes_ ? DType::u8 : DType::f32, shape);
    const auto raw = out.write_bytes();
    const auto real = bytes_ ? std::span<float>{} : out.write<float>();
    for (std::size_t c = 0; c < n; ++c) {
      const auto of = [&](const std::vector<double>& v, double otherwise) {
        return static_cast<float>(v.empty() ? otherwise : v[v.size() == 1 ? 0 : c]);
      };
      const float mean = of(options_.mean, 0), deviation = of(options_.std_dev, 1);
      const auto scale = static_cast<float>(options_.scale);
      for (std::size_t i = 0; i < pixels; ++i) {
        const std::uint8_t v = one ? luma[i] : p.rgb[3 * i + (bgr ? 2 - c : c)];
        const std::size_t at = first ? c * pixels + i : i * n + c;
        if (bytes_) {
          raw[at] = static_cast<std::byte>(v);
        } else {
          real[at] = (static_cast<float>(v) / scale - mean) / deviation;
        }
      }
    }
    return half_ ? from_f32(out, type_.dtype) : out;
  }

  std::vector<Source> files_;
  std::string name_;
  ImageOptions options_;
  Type type_;
  std::int64_t height_ = 0, width_ = 0;
  bool bytes_ = false, half_ = false;
  mutable std::mutex mutex_;
  mutable std::vector<Tensor> kept_;
  mutable std::size_t kept_size_ = 0;
};

}  // namespace

bool is_image_file(const std::filesystem::path& path) {
  std::string e = path.extension().string();
  std::transform(e.begin(), e.end(), e.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return e == ".png" || e == ".jpg" || e == ".jpeg";
}

std::unique_ptr<Samples> open_images(const std::filesystem::path& path, const std::vector<Wanted>& wanted,
                                     const DataOptions& options) {
  if (wanted.size() != 1) {
    throw Error(Code::calibration, "pictures feed a model of one input; this one has " + std::to_string(wanted.size()),
                "prepare the data as an .npz file with one array per input");
  }
  std::vector<Source> files;
  std::int64_t label = 0;
  for (const auto& entry : sorted_entries(path)) {
    if (std::filesystem::is_directory(entry)) {
      bool any = false;
      for (const auto& inner : sorted_entries(entry)) {
        if (!is_image_file(inner)) continue;
        files.push_back({inner, label});
        any = true;
      }
      label += any ? 1 : 0;
    } else if (is_image_file(entry)) {
      files.push_back({entry, -1});
    }
  }
  return std::make_unique<ImageSamples>(std::move(files), wanted.front(), options.image);
}

}  // namespace qtool
