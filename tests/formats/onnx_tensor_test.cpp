// SPDX-License-Identifier: Apache-2.0
// Tensors of every element type, in every way that TensorProto can hold them.
#include <doctest/doctest.h>

#include "formats/ir/tensor.h"
#include "tests/formats/onnx_build.h"

using namespace qtool;
using namespace qtool::test;

namespace {

onnx::ModelProto with_tensor(int type, const std::vector<std::int64_t>& dims) {
  auto model = small_model();
  auto* t = model.mutable_graph()->add_initializer();
  t->set_name("w");
  t->set_data_type(type);
  for (const auto d : dims) t->add_dims(d);
  return model;
}

onnx::TensorProto* tensor(onnx::ModelProto& model) { return model.mutable_graph()->mutable_initializer(0); }

Tensor read_back(const onnx::ModelProto& model) {
  const Graph graph = read_message(model);
  CHECK((write_onnx_bytes(graph) == model.SerializeAsString()));
  return graph[*graph.find_value("w")].data;
}

std::string bytes_of(const Tensor& t) { return {reinterpret_cast<const char*>(t.bytes().data()), t.bytes().size()}; }

struct TypeCase {
  int onnx;
  DType dtype;
};
// onnx-quantized 1: numbers of the enum; 27 and 28 from IR 14.
constexpr TypeCase types[] = {
    {1, DType::f32},       {2, DType::u8},          {3, DType::i8},      {4, DType::u16},         {5, DType::i16},
    {6, DType::i32},       {7, DType::i64},         {9, DType::boolean}, {10, DType::f16},        {11, DType::f64},
    {12, DType::u32},      {13, DType::u64},        {14, DType::c64},    {15, DType::c128},       {16, DType::bf16},
    {17, DType::f8e4m3fn}, {18, DType::f8e4m3fnuz}, {19, DType::f8e5m2}, {20, DType::f8e5m2fnuz}, {21, DType::u4},
    {22, DType::i4},       {23, DType::f4e2m1},     {24, DType::f8e8m0}, {25, DType::u2},         {26, DType::i2},
    {27, DType::f6e2m3},   {28, DType::f6e3m2}};

}  // namespace

TEST_CASE("onnx: raw tensors of every type survive") {
  for (const TypeCase& c : types) {
    CAPTURE(c.onnx);
    auto model = with_tensor(c.onnx, {5});
    std::string bytes(byte_size(c.dtype, 5), '\1');
    tensor(model)->set_raw_data(bytes);
    const Tensor t = read_back(model);
    CHECK(t.dtype() == c.dtype);
    CHECK(t.shape() == Shape{5});
    CHECK(bytes_of(t) == bytes);
    bytes += '\1';
    tensor(model)->set_raw_data(bytes);
    CHECK(refusal(model).find("\"w\" holds") != std::string::npos);
  }
}

TEST_CASE("onnx: typed fields of every type survive") {
  for (const TypeCase& c : types) {
    CAPTURE(c.onnx);
    auto model = with_tensor(c.onnx, {3});
    auto* t = tensor(model);
    switch (c.dtype) {
      case DType::f32:
        for (const float v : {1.0F, -2.5F, 3.0F}) t->add_float_data(v);
        break;
      case DType::c64:
        for (int i = 0; i < 6; ++i) t->add_float_data(static_cast<float>(i));
        break;
      case DType::f64:
        for (const double v : {1.0, -2.5, 3.0}) t->add_double_data(v);
        break;
      case DType::c128:
        for (int i = 0; i < 6; ++i) t->add_double_data(i);
        break;
      case DType::i64:
        for (const int v : {1, -2, 3}) t->add_int64_data(v);
        break;
      case DType::u32:
      case DType::u64:
        for (const int v : {1, 2, 3}) t->add_uint64_data(v);
        break;
      case DType::i8:
      case DType::i16:
      case DType::i32:
        for (const int v : {1, -2, 3}) t->add_int32_data(v);
        break;
      case DType::boolean:
        for (const int v : {1, 0, 1}) t->add_int32_data(v);
        break;
      case DType::i4:
      case DType::u4:
      case DType::f4e2m1:
        for (const int v : {0xf1, 0x03}) t->add_int32_data(v);
        break;
      case DType::i2:
      case DType::u2: t->add_int32_data(0x2d); break;
      default:
        for (const int v : {1, 2, 0x3f}) t->add_int32_data(v);
    }
    const Tensor read = read_back(model);
    CHECK(read.dtype() == c.dtype);
    CHECK(read.count() == 3);
    if (c.dtype == DType::i8) CHECK(bytes_of(read) == "\x01\xfe\x03");
    if (c.dtype == DType::i4) CHECK(bytes_of(read) == "\xf1\x03");
    if (c.dtype == DType::bf16) CHECK(bytes_of(read) == std::string("\x01\x00\x02\x00\x3f\x00", 6));
    // onnx.proto: byte0 = x0 | (x1 & 3) << 6; byte1 = x1 >> 2 | (x2 & 15) << 4; byte2 = x2 >> 4
    if (c.dtype == DType::f6e2m3) CHECK(bytes_of(read) == "\x81\xf0\x03");
    if (c.dtype == DType::u32) CHECK(read.read<std::uint32_t>()[2] == 3);
    t->add_float_data(1);
    t->add_double_data(1);
    CHECK(!refusal(model).empty());
  }
}

TEST_CASE("onnx: strings survive") {
  auto model = with_tensor(8, {2});
  tensor(model)->add_string_data("a");
  tensor(model)->add_string_data(std::string("\0\xff", 2));
  CHECK(read_back(model).read_strings()[1] == std::string("\0\xff", 2));
  tensor(model)->clear_string_data();
  CHECK(refusal(model).find("holds 0 elements") != std::string::npos);
  tensor(model)->set_raw_data("ab");
  CHECK(refusal(model).find("strings as raw bytes") != std::string::npos);
}

TEST_CASE("onnx: tensors without elements survive, with and without an empty field") {
  auto model = with_tensor(1, {0, 3});
  CHECK(read_back(model).shape() == Shape{0, 3});
  tensor(model)->set_raw_data("");
  CHECK(read_back(model).count() == 0);
}

TEST_CASE("onnx: elements out of range or in the wrong field are refused") {
  auto model = with_tensor(2, {1});
  tensor(model)->add_int32_data(256);
  CHECK(refusal(model) == "m.onnx: initializer \"w\" holds 256, which is no u8");
  model = with_tensor(12, {1});
  tensor(model)->add_uint64_data(std::uint64_t{1} << 32);
  CHECK(refusal(model).find("no u32") != std::string::npos);
  model = with_tensor(9, {1});
  tensor(model)->set_raw_data("\x02");
  CHECK(refusal(model).find("neither true nor false") != std::string::npos);
  model = with_tensor(1, {1});
  tensor(model)->add_int32_data(1);
  CHECK(refusal(model).find("not for f32") != std::string::npos);
  tensor(model)->set_raw_data("abcd");
  CHECK(refusal(model).find("twice") != std::string::npos);
  model = with_tensor(29, {1});
  CHECK(refusal(model).find("element type 29") != std::string::npos);
}

TEST_CASE("onnx: hostile shapes are refused before memory is taken") {
  auto model = with_tensor(1, {-2});
  CHECK(refusal(model).find("negative extent -2") != std::string::npos);
  model = with_tensor(1, {std::int64_t{1} << 40, std::int64_t{1} << 40});
  CHECK(refusal(model).find("too large") != std::string::npos);
  model = with_tensor(1, {std::int64_t{1} << 50});
  CHECK(refusal(model).find("holds 0 elements") != std::string::npos);
}

TEST_CASE("onnx: a sparse initializer is dense in the graph and sparse in the file") {
  auto model = small_model();
  auto* sparse = model.mutable_graph()->add_sparse_initializer();
  sparse->add_dims(2);
  sparse->add_dims(3);
  auto* values = sparse->mutable_values();
  values->set_name("w");
  values->set_doc_string("doc");
  values->set_data_type(1);
  values->add_dims(2);
  values->add_float_data(5);
  values->add_float_data(0);
  auto* indices = sparse->mutable_indices();
  indices->set_data_type(7);
  SUBCASE("linear") {
    indices->add_dims(2);
    indices->add_int64_data(1);
    indices->add_int64_data(5);
  }
  SUBCASE("by axis") {
    indices->add_dims(2);
    indices->add_dims(2);
    for (const int i : {0, 1, 1, 2}) indices->add_int64_data(i);
  }
  Graph graph = read_message(model);
  CHECK((write_onnx_bytes(graph) == model.SerializeAsString()));
  Tensor& data = graph[*graph.find_value("w")].data;
  CHECK(data.shape() == Shape{2, 3});
  CHECK(data.read<float>()[1] == 5);
  data.write<float>()[1] = 6;  // still sparse
  CHECK(as_message(graph).graph().sparse_initializer(0).values().float_data(0) == 6);
  data.write<float>()[0] = 1;  // no longer
  const auto dense = as_message(graph).graph();
  CHECK(dense.sparse_initializer_size() == 0);
  CHECK(dense.initializer(0).raw_data().size() == 24);

  indices->set_int64_data(1, 6);
  CHECK(refusal(model).find("do not rise within its shape") != std::string::npos);
  sparse->set_dims(0, std::int64_t{1} << 30);
  CHECK(refusal(model).find("times as much") != std::string::npos);
}
