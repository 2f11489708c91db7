// SPDX-License-Identifier: Apache-2.0
// Element types, value types and fields that the packaged schema (IR 8) does not know.
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <iterator>

#include "formats/base/error.h"
#include "formats/file/onnx_internal.h"

namespace qtool {
namespace {

// TensorProto.DataType 1, 2, ...; the enum of the packaged schema ends at 16, the field is a plain integer.
constexpr DType data_types[] = {
    DType::f32,    DType::u8,      DType::i8,       DType::u16,        DType::i16,    DType::i32,        DType::i64,
    DType::string, DType::boolean, DType::f16,      DType::f64,        DType::u32,    DType::u64,        DType::c64,
    DType::c128,   DType::bf16,    DType::f8e4m3fn, DType::f8e4m3fnuz, DType::f8e5m2, DType::f8e5m2fnuz, DType::u4,
    DType::i4,     DType::f4e2m1,  DType::f8e8m0,   DType::u2,         DType::i2,     DType::f6e2m3,     DType::f6e3m2};

}  // namespace

std::optional<DType> dtype_of_onnx(std::int32_t data_type) {
  if (data_type < 1 || data_type > static_cast<std::int32_t>(std::size(data_types))) return std::nullopt;
  return data_types[data_type - 1];
}

std::int32_t onnx_of_dtype(DType dtype) {
  const auto* found = std::find(std::begin(data_types), std::end(data_types), dtype);
  QTOOL_ENSURE(found != std::end(data_types), "every element type has an ONNX number");
  return static_cast<std::int32_t>(found - std::begin(data_types)) + 1;
}

std::string_view opaque_bytes(const Attr& attr) {
  const auto* extras = onnx_file::extras_as<onnx_file::AttrExtras>(attr.extras);
  return extras == nullptr ? std::string_view() : std::string_view(extras->message);
}

}  // namespace qtool

namespace qtool::onnx_file {
namespace {

void read_tensor_type(const onnx::TensorShapeProto* shape, std::int32_t elem_type, Type& type) {
  if (const auto dtype = dtype_of_onnx(elem_type)) {
    type.dtype = *dtype;
    type.known_dtype = true;
  }
  if (shape == nullptr) return;
  type.known_rank = true;
  for (const auto& dim : shape->dim()) {
    type.shape.push_back(dim.has_dim_value() && dim.dim_value() >= 0 ? dim.dim_value() : -1);
    if (dim.has_dim_param() && !dim.dim_param().empty()) {
      type.symbols.resize(type.shape.size());
      type.symbols.back() = dim.dim_param();
    }
  }
}

const std::string& symbol(const Type& type, std::size_t axis) {
  static const std::string none;
  return axis < type.symbols.size() ? type.symbols[axis] : none;
}

}  // namespace

Type read_type(const onnx::ValueInfoProto& info) {
  Type type;
  const onnx::TypeProto& proto = info.type();
  switch (proto.value_case()) {
    case onnx::TypeProto::kTensorType:
      read_tensor_type(proto.tensor_type().has_shape() ? &proto.tensor_type().shape() : nullptr,
                       proto.tensor_type().elem_type(), type);
      break;
    case onnx::TypeProto::kSparseTensorType:
      type.kind = TypeKind::sparse_tensor;
      read_tensor_type(proto.sparse_tensor_type().has_shape() ? &proto.sparse_tensor_type().shape() : nullptr,
                       proto.sparse_tensor_type().elem_type(), type);
      break;
    case onnx::TypeProto::kSequenceType: type.kind = TypeKind::sequence; break;
    case onnx::TypeProto::kMapType: type.kind = TypeKind::map; break;
    case onnx::TypeProto::kOptionalType: type.kind = TypeKind::optional; break;
    case onnx::TypeProto::kOpaqueType: type.kind = TypeKind::opaque; break;
    case onnx::TypeProto::VALUE_NOT_SET: break;
  }
  return type;
}

bool same_type(const Type& a, const Type& b) {
  if (a.kind != b.kind || a.known_dtype != b.known_dtype || a.known_rank != b.known_rank) return false;
  if (a.known_dtype && a.dtype != b.dtype) return false;
  if (!a.known_rank) return true;
  if (a.shape != b.shape) return false;
  for (std::size_t i = 0; i < a.shape.size(); ++i) {
    if (symbol(a, i) != symbol(b, i)) return false;
  }
  return true;
}

void write_type(const Type& type, onnx::ValueInfoProto& info) {
  if (type.kind != TypeKind::tensor && type.kind != TypeKind::sparse_tensor) return;  // known to its extras alone
  if (!type.known_dtype && !type.known_rank) {
    info.clear_type();
    return;
  }
  const auto fill = [&](auto& tensor) {
    if (type.known_dtype) {
      tensor.set_elem_type(onnx_of_dtype(type.dtype));
    } else {
      tensor.clear_elem_type();
    }
    tensor.clear_shape();
    if (!type.known_rank) return;
    tensor.mutable_shape();
    for (std::size_t i = 0; i < type.shape.size(); ++i) {
      auto* dim = tensor.mutable_shape()->add_dim();
      if (type.shape[i] >= 0) {
        dim->set_dim_value(type.shape[i]);
      } else if (!symbol(type, i).empty()) {
        dim->set_dim_param(symbol(type, i));
      }
    }
  };
  if (type.kind == TypeKind::tensor) {
    fill(*info.mutable_type()->mutable_tensor_type());
  } else {
    fill(*info.mutable_type()->mutable_sparse_tensor_type());
  }
}

std::string unknown_string(const google::protobuf::UnknownFieldSet& fields, int field) {
  std::string text;
  for (int i = 0; i < fields.field_count(); ++i) {
    const auto& f = fields.field(i);
    if (f.number() == field && f.type() == google::protobuf::UnknownField::TYPE_LENGTH_DELIMITED) {
      text = f.length_delimited();
    }
  }
  return text;
}

void set_unknown_string(google::protobuf::UnknownFieldSet& fields, int field, const std::string& text) {
  google::protobuf::UnknownFieldSet old;
  old.Swap(&fields);
  bool written = text.empty();
  for (int i = 0; i < old.field_count(); ++i) {
    const auto& f = old.field(i);
    if (f.number() > field && !written) {
      fields.AddLengthDelimited(field, text);
      written = true;
    }
    if (f.number() != field) fields.AddField(f);
  }
  if (!written) fields.AddLengthDelimited(field, text);
}

}  // namespace qtool::onnx_file
