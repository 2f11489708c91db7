// SPDX-License-Identifier: Apache-2.0
#include "formats/file/npy.h"

#include <doctest/doctest.h>

#include <string>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "tests/support.h"

using namespace qtool;

namespace {

Tensor parse(const std::string& bytes) { return read_npy(std::as_bytes(std::span(bytes.data(), bytes.size())), "t"); }

std::string npy(const std::string& header, const std::string& data) {
  std::string out("\x93NUMPY\x01\0", 8);
  out += static_cast<char>(header.size());
  out += '\0';
  return out + header + data;
}

}  // namespace

TEST_CASE("an array written by NumPy is read, in place when mapped") {
  const MappedFile file(test::source_dir() / "tests/calib/files/x.npy");
  const Tensor t = read_npy(file.bytes(), "x.npy", file.owner());
  CHECK(t.shape() == Shape{5, 2, 3});
  CHECK(t.read<float>()[29] == 7.25f);
  CHECK(t.bytes().data() > file.bytes().data());
  CHECK(t.bytes().data() < file.bytes().data() + file.bytes().size());
  CHECK(npy_bytes(t) == read_text(test::source_dir() / "tests/calib/files/x.npy"));  // the very bytes of NumPy
}

TEST_CASE("npy round trip for every type, others as float32") {
  for (int i = 0; i <= static_cast<int>(DType::f4e2m1); ++i) {
    const auto t = static_cast<DType>(i);
    if (t == DType::string || t == DType::c64 || t == DType::c128) continue;
    CAPTURE(std::string(name_of(t)));
    const Tensor x = from_f32(Tensor::of<float>({1, 3}, {1, 0.5f, 1}), t);
    const Tensor back = parse(npy_bytes(x));
    CHECK(to_f32(back).same_bytes(to_f32(x)));
    CHECK(back.shape() == x.shape());
  }
  CHECK(parse(npy_bytes(Tensor::scalar(2.5))).read<double>()[0] == 2.5);
  CHECK(parse(npy_bytes(Tensor(DType::i8, {0, 4}))).shape() == Shape{0, 4});
}

TEST_CASE("Fortran order becomes C order") {
  const Tensor t = parse(npy("{'descr':'|u1','fortran_order':True,'shape':(2,3)}\n", "\1\4\2\5\3\6"));
  for (std::size_t i = 0; i < 6; ++i) CHECK(t.read<std::uint8_t>()[i] == i + 1);
}

TEST_CASE("broken arrays are refused") {
  const std::string data(8, '\0');
  const char* headers[] = {"{'descr':'>f4','fortran_order':False,'shape':(2,)}",
                           "{'descr':'|O','fortran_order':False,'shape':(1,)}",
                           "{'descr':[('a','<f4')],'fortran_order':False,'shape':(2,)}",
                           "{'descr':'<f4','fortran_order':False,'shape':(3,)}",
                           "{'descr':'<f4','fortran_order':False,'shape':(1,)}",
                           "{'descr':'<f4','fortran_order':False,'shape':(-2,)}",
                           "{'descr':'<f4','fortran_order':False,'shape':(4611686018427387904,4,4)}",
                           "{'descr':'<f4','fortran_order':False,'shape':(4611686018427387904,)}",
                           "{'descr':'<f4','fortran_order':0,'shape':(2,)}",
                           "{'descr':'<f4','shape':(2,)}",
                           "{'descr':'<f4','fortran_order':False,'shape':(2,)",
                           "{'descr':'<f4','fortran_order':False,'shape':(2,)} x",
                           "{'descr':'<f4','descr':'<f4','fortran_order':False,'shape':(2,)}",
                           ""};
  for (const char* header : headers) {
    CAPTURE(std::string(header));
    CHECK_THROWS_AS(parse(npy(header, data)), Error);
  }
  CHECK(parse(npy("{'descr':'<f4','fortran_order':False,'shape':(2L,)}", data)).count() == 2);
  CHECK_THROWS_AS(parse("\x93NUMPY\x01"), Error);
  const std::string good = npy("{'descr':'<f4','fortran_order':False,'shape':(2,)}", data);
  for (std::size_t n = 0; n < good.size(); ++n) CHECK_THROWS_AS(parse(good.substr(0, n)), Error);
}
