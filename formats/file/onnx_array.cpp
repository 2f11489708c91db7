// SPDX-License-Identifier: Apache-2.0
// A lone TensorProto: the inputs and outputs of ONNX test data.
#include <onnx/onnx_pb.h>

#include <limits>

#include "formats/base/error.h"
#include "formats/file/onnx_internal.h"
#include "formats/file/reader.h"

namespace qtool {

Tensor read_tensor_proto(std::span<const std::byte> bytes, const std::string& source) {
  onnx::TensorProto proto;
  constexpr auto limit = static_cast<std::size_t>(std::numeric_limits<int>::max());
  if (bytes.size() > limit || !proto.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    throw Error(Code::input, source + " is no serialized ONNX tensor");
  }
  if (proto.data_location() == onnx::TensorProto::EXTERNAL) {
    throw Error(Code::input, source + " keeps its elements in another file, which is not read for a lone tensor");
  }
  onnx_file::ExternalFiles none(source, {});
  onnx_file::TensorForm form;
  return onnx_file::take_tensor(proto, none, source, form);
}

}  // namespace qtool
