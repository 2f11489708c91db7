// SPDX-License-Identifier: Apache-2.0
// The doors to libpng and libjpeg. Both report errors by longjmp, so each decoder is a plain function over state that
// lives outside it: nothing with a destructor is jumped over.
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <jerror.h>
#include <jpeglib.h>
#include <png.h>

#include "calib/data/image.h"
#include "formats/base/error.h"

namespace qtool {
namespace {

constexpr std::uint64_t pixel_limit = std::uint64_t{1} << 27;

// A header alone claims no memory. No deflate stream grows more than this; and a JPEG block of 64 samples takes a bit,
// in progressive files, and two in others.
constexpr std::uint64_t deflate_ratio = 1032, pixels_per_jpeg_byte = 64 * 8;

struct Decoding {
  std::span<const std::byte> bytes;
  std::size_t at = 0;
  Picture picture;
  std::vector<png_bytep> rows;
  char message[JMSG_LENGTH_MAX] = "";
};

void say(Decoding& d, const char* text) { std::snprintf(d.message, sizeof d.message, "%s", text); }

[[noreturn]] void png_fail(png_structp png, png_const_charp text) {
  say(*static_cast<Decoding*>(png_get_error_ptr(png)), text);
  png_longjmp(png, 1);
}
void png_quiet(png_structp, png_const_charp) {}

void png_take(png_structp png, png_bytep to, std::size_t size) {
  auto& d = *static_cast<Decoding*>(png_get_io_ptr(png));
  if (size > d.bytes.size() - d.at) png_error(png, "the file is cut short");
  std::memcpy(to, d.bytes.data() + d.at, size);
  d.at += size;
}

/// False: too large, or broken (then with a message).
bool decode_png(png_structp png, png_infop info, Decoding& d) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_set_read_fn(png, &d, png_take);
  png_set_user_limits(png, 1u << 16, 1u << 16);
  png_read_info(png, info);
  d.picture.width = png_get_image_width(png, info);
  d.picture.height = png_get_image_height(png, info);
  if (static_cast<std::uint64_t>(d.picture.width) * static_cast<std::uint64_t>(d.picture.height) > pixel_limit) {
    png_error(png, "the picture is too large");
  }
  if (std::uint64_t{png_get_rowbytes(png, info)} * png_get_image_height(png, info) / deflate_ratio > d.bytes.size()) {
    png_error(png, "the file is cut short");
  }
  png_set_expand(png);  // palette and low bit depths to 8 bits
  png_set_strip_16(png);
  png_set_strip_alpha(png);
  png_set_gray_to_rgb(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  const auto stride = static_cast<std::size_t>(d.picture.width) * 3;
  if (png_get_rowbytes(png, info) != stride) png_error(png, "the pixel format is unknown");
  d.picture.rgb.resize(stride * static_cast<std::size_t>(d.picture.height));
  d.rows.resize(static_cast<std::size_t>(d.picture.height));
  for (std::size_t y = 0; y < d.rows.size(); ++y) d.rows[y] = d.picture.rgb.data() + y * stride;
  png_read_image(png, d.rows.data());
  return true;
}

struct JpegErrors {
  jpeg_error_mgr manager;  // first: libjpeg knows only this part
  Decoding* decoding;
  std::jmp_buf back;
};

[[noreturn]] void jpeg_fail(j_common_ptr jpeg) {
  auto* errors = reinterpret_cast<JpegErrors*>(jpeg->err);
  errors->manager.format_message(jpeg, errors->decoding->message);
  std::longjmp(errors->back, 1);
}
/// Photographs may have flaws that warrant a warning, which nobody hears; but where the file ends too soon libjpeg
/// would make up the rest of the picture.
void jpeg_warn(j_common_ptr jpeg, int level) {
  if (level < 0 && jpeg->err->msg_code == JWRN_JPEG_EOF) jpeg_fail(jpeg);
}

bool decode_jpeg(jpeg_decompress_struct& jpeg, JpegErrors& errors, Decoding& d) {
  if (setjmp(errors.back) != 0) return false;
  jpeg_create_decompress(&jpeg);
  jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(d.bytes.data()), d.bytes.size());
  jpeg_read_header(&jpeg, TRUE);
  const std::uint64_t pixels = static_cast<std::uint64_t>(jpeg.image_width) * jpeg.image_height;
  if (pixels > pixel_limit) {
    say(d, "the picture is too large");
    return false;
  }
  if (pixels / pixels_per_jpeg_byte > d.bytes.size()) {
    say(d, "the file is cut short");
    return false;
  }
  if (jpeg.jpeg_color_space == JCS_CMYK || jpeg.jpeg_color_space == JCS_YCCK) {
    say(d, "CMYK is not read");
    return false;
  }
  jpeg.out_color_space = JCS_RGB;
  jpeg_start_decompress(&jpeg);
  d.picture.width = jpeg.output_width;
  d.picture.height = jpeg.output_height;
  const std::size_t stride = std::size_t{jpeg.output_width} * 3;
  d.picture.rgb.resize(stride * jpeg.output_height);
  while (jpeg.output_scanline < jpeg.output_height) {
    unsigned char* row = d.picture.rgb.data() + jpeg.output_scanline * stride;
    jpeg_read_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_decompress(&jpeg);
  return true;
}

}  // namespace

Picture decode_picture(std::span<const std::byte> bytes, const std::string& source) {
  Decoding d;
  d.bytes = bytes;
  bool good = false;
  if (bytes.size() >= 8 && png_sig_cmp(reinterpret_cast<png_const_bytep>(bytes.data()), 0, 8) == 0) {
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &d, png_fail, png_quiet);
    png_infop info = png != nullptr ? png_create_info_struct(png) : nullptr;
    if (info != nullptr) good = decode_png(png, info, d);
    png_destroy_read_struct(&png, &info, nullptr);
  } else if (bytes.size() >= 3 && bytes[0] == std::byte{0xff} && bytes[1] == std::byte{0xd8}) {
    jpeg_decompress_struct jpeg{};
    JpegErrors errors{};
    errors.decoding = &d;
    jpeg.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = jpeg_fail;
    errors.manager.emit_message = jpeg_warn;
    good = decode_jpeg(jpeg, errors, d);
    jpeg_destroy_decompress(&jpeg);
  } else {
    say(d, "neither PNG nor JPEG");
  }
  if (!good) {
    throw Error(Code::calibration, source + ": the picture cannot be read: " + d.message,
                "remove the file from the folder, or convert it");
  }
  return std::move(d.picture);
}

}  // namespace qtool
