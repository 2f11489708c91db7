// SPDX-License-Identifier: Apache-2.0
// Models read without their weights: the same graph, the same refusals, the same bytes when written.
#include "formats/file/headers.h"

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>

#include "formats/base/error.h"
#include "formats/ir/absent.h"
#include "tests/data_file.h"
#include "tests/support.h"

using namespace qtool;
using namespace qtool::test;

namespace {

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string refusal(const std::filesystem::path& path, bool headers) {
  try {
    headers ? read_onnx_headers(path, {1}) : read_onnx(path);
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

std::vector<std::filesystem::path> samples() {
  const std::filesystem::path folder = source_dir() / "samples" / "models";
  return {folder / "digits_cnn.onnx", folder / "digits_transformer.onnx", folder / "tiny_lstm.onnx"};
}

}  // namespace

TEST_CASE("headers give the graph, with its large weights absent") {
  for (const auto& path : samples()) {
    CAPTURE(path);
    const Graph whole = read_onnx(path), headers = read_onnx_headers(path, {1});
    REQUIRE(whole.values().size() == headers.values().size());
    int left_out = 0;
    for (const ValueId v : whole.values()) {
      CHECK(whole[v].name == headers[v].name);
      const Tensor &a = whole[v].data, &b = headers[v].data;
      CHECK(a.dtype() == b.dtype());
      CHECK(a.shape() == b.shape());
      CHECK(a.size_bytes() == b.size_bytes());
      if (is_absent(b)) {
        ++left_out;
        CHECK(is_float(b.dtype()));
      } else {
        CHECK(a.same_bytes(b));
      }
    }
    CHECK(left_out > 0);
  }
}

TEST_CASE("bytes are counted as they are written, in one file or two") {
  const ScratchFolder folder;
  for (const auto& path : samples()) {
    CAPTURE(path);
    const Graph whole = read_onnx(path), headers = read_onnx_headers(path, {1});
    for (const std::uint64_t external_above : {std::uint64_t{1} << 31, std::uint64_t{0}}) {
      const std::filesystem::path target = folder / (path.stem().string() + std::to_string(external_above) + ".onnx");
      const OnnxWriteOptions options{external_above};
      write_onnx(whole, target, options);
      std::uint64_t written = std::filesystem::file_size(target);
      if (external_above == 0) written += std::filesystem::file_size(data_file_beside(target));
      CHECK(written_bytes(whole, target, options) == written);
      CHECK(written_bytes(headers, target, options) == written);
      if (external_above != 0) continue;
      const Graph external = read_onnx_headers(target, {1});
      CHECK(written_bytes(external, target, options) == written);
      std::filesystem::resize_file(data_file_beside(target), 4096);
      CHECK(!refusal(target, true).empty());
      CHECK(refusal(target, true) == refusal(target, false));
    }
  }
}

TEST_CASE("what is no model is refused in the same words") {
  const ScratchFolder folder;
  const std::string whole = bytes_of(samples()[0]);
  const std::filesystem::path path = folder / "cut.onnx";
  for (std::size_t size = 0; size < whole.size(); size += 1 + size / 7) {
    std::ofstream(path, std::ios::binary) << whole.substr(0, size);
    CAPTURE(size);
    CHECK(refusal(path, true) == refusal(path, false));
  }
  for (std::size_t at = 0; at < whole.size(); at += 1 + at / 97) {  // a byte turned over
    std::string damaged = whole;
    damaged[at] = static_cast<char>(~damaged[at]);
    std::ofstream(path, std::ios::binary) << damaged;
    CAPTURE(at);
    CHECK(refusal(path, true) == refusal(path, false));
  }
}

TEST_CASE("absent tensors take no memory, and are told from zeros") {
  const Tensor a = absent(DType::f32, {1 << 20, 1 << 14}), b = absent(DType::f32, {3});
  CHECK(is_absent(a));
  CHECK(is_absent(b));
  CHECK(is_absent(a.reshaped({1 << 14, 1 << 20})));
  CHECK(a.size_bytes() == std::size_t{1} << 36);
  CHECK(!is_absent(Tensor(DType::f32, {3})));
  CHECK(!is_absent(Tensor()));
  CHECK(!b.same_storage(absent(DType::f32, {3})));
  CHECK(b.read<float>()[2] == 0);
  QuantSpec spec;
  spec.format = &number::int4;
  spec.grain = {Grain::Kind::groups, 1, 32, 0};
  const Tensor w = absent(DType::f32, {8, 100});
  set_some_scales(spec, w.shape());
  CHECK(spec.scale.shape() == Shape{8, 4});
  const Tensor codes = quantize(w, spec);
  CHECK(is_absent(codes));
  CHECK(codes.dtype() == DType::i8);
  CHECK(pack_codes(codes, spec).size_bytes() == 400);
  CHECK(is_absent(dequantize(codes, spec)));
  CHECK(is_absent(to_f32(absent(DType::f16, {5}))));
}
