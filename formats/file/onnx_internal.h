// SPDX-License-Identifier: Apache-2.0
// What the onnx_*.cpp files share, and nobody else includes: what a graph remembers of the message it was read
// from (Extras), and tensors to and from TensorProto.
//
// Extras hold serialized skeletons: a message without the parts that the graph models. A skeleton is kept only
// where the plain message that the writer would build differs from the one that was read; on writing, modelled
// fields are laid over the skeleton where they changed. So unknown fields, doc strings and presence bits survive.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/file.h"
#include "formats/base/threads.h"
#include "formats/file/headers.h"
#include "formats/file/reader.h"
#include "formats/ir/graph.h"

namespace onnx {
class AttributeProto;
class ModelProto;
class SparseTensorProto;
class TensorProto;
class ValueInfoProto;
}  // namespace onnx
namespace google::protobuf {
class UnknownFieldSet;
}

namespace qtool {

struct Extras {
  virtual ~Extras() = default;
};

namespace onnx_file {

/// Bodies within bodies; protobuf's own limit of 100 message levels allows 33.
inline constexpr int max_body_depth = 24;
/// A protobuf message ends here.
inline constexpr std::uint64_t max_message_bytes = (std::uint64_t{1} << 31) - 1;
/// Tensors below this stay in the message; shapes and scales are read there without a second file.
inline constexpr std::size_t min_external_bytes = 1024;

enum class Storage : std::uint8_t { raw, typed, none };  // none: no elements, and no field for them

/// How a TensorProto stored its elements; `rest`: its fields beyond name, type, dims and elements.
struct TensorForm {
  Storage storage = Storage::raw;
  std::string rest;
  bool plain() const { return storage == Storage::raw && rest.empty(); }
};

/// Of a node (NodeProto), a function (FunctionProto) or a model (ModelProto): its skeleton.
struct MessageExtras final : Extras {
  std::string message;
};

struct AttrExtras final : Extras {
  std::string message;              // AttributeProto without tensors and graphs
  std::vector<TensorForm> tensors;  // of `t`, or of each of `tensors`
};

/// A sparse initializer: data is dense while the graph lives.
struct SparseForm {
  Tensor indices;  // i64, [n] linear or [n, rank]
  TensorForm values_form, indices_form;
  std::string rest;  // SparseTensorProto without its parts
};

struct ValueExtras final : Extras {
  Type type;                                       // as read; where it still holds, the messages below stand
  std::optional<std::string> input, output, info;  // ValueInfoProto; empty text: what the type gives
  std::int64_t info_place = -1;                    // place in value_info; -1: had no entry
  std::int64_t annotation_place = -1;              // likewise in quantization_annotation
  std::string annotation;                          // TensorAnnotation
  TensorForm tensor;                               // initializers
  std::optional<SparseForm> sparse;
};

/// Entries that name no value of the graph, with their places in the list.
using Strays = std::vector<std::pair<std::int64_t, std::string>>;

struct GraphExtras final : Extras {
  std::string message;  // GraphProto without lists
  Strays infos, annotations;
};

template <class T>
const T* extras_as(const ExtrasPtr& extras) {
  return dynamic_cast<const T*>(extras.get());
}

// ---- onnx_stream.cpp

/// Error(Code::input) when the bytes are no message, or more than one may have. Of a file, no page stays in memory once
/// it was parsed.
void parse(std::span<const std::byte>, const std::string& source, onnx::ModelProto& model);
void parse(const MappedFile&, const std::string& source, onnx::ModelProto& model);

/// Elements of initializers that are not in their messages: raw_data is put in their place as the message is written,
/// so that there is no second copy of all weights.
using Kept = std::map<const onnx::TensorProto*, Tensor>;
/// Serializes `model` and leaves it empty. The same bytes as if raw_data had been in the message. Error(Code::no_fit)
/// when they are more than a message may have. `threads` as in stream_elements().
void write(onnx::ModelProto& model, const Kept& kept, OutputFile& file, Threads* threads);
std::string write(onnx::ModelProto& model, const Kept& kept);
/// The bytes that write() would write; the elements beside the message may be absent.
std::uint64_t message_size(onnx::ModelProto& model, const Kept& kept);

// ---- onnx_elements.cpp

/// Bytes of tensor `i`, in order.
using ElementSink = std::function<void(std::size_t i, std::span<const std::byte>)>;
/// Gives the bytes of tensors to `sink` in order, in pieces, so that few of those that are made when they are read or
/// lie in files are in memory at once. `threads`: make them while others are given; null: nobody does.
void stream_elements(std::span<const Tensor* const> tensors, Threads* threads, const ElementSink& sink);

// ---- onnx_headers.cpp

/// Whether the elements of such a tensor are left out.
bool leaves_out(const Headers&, DType, const Shape&);
/// No smaller tensor is left out.
std::size_t least_bytes_of(const Headers&);
/// parse() without the elements of initializers that are left out: their messages have neither elements nor external
/// data.
void parse_headers(const MappedFile&, const Headers&, const std::string& source, onnx::ModelProto& model);

/// Where raw_data of initializers lies that is not in their messages.
using Elements = std::map<const onnx::TensorProto*, std::span<const std::byte>>;
/// parse() without raw_data of initializers whose messages have more than `least_bytes`; it stays in the file.
Elements parse_apart(const MappedFile&, std::size_t least_bytes, const std::string& source, onnx::ModelProto& model);

// ---- onnx_types.cpp

Type read_type(const onnx::ValueInfoProto&);
bool same_type(const Type&, const Type&);
/// Makes the type field say `type`; nothing known: no type field.
void write_type(const Type& type, onnx::ValueInfoProto&);

/// A string field that this schema does not know (NodeProto.overload and the like).
std::string unknown_string(const google::protobuf::UnknownFieldSet&, int field);
/// Replaces it (empty: removes it), in the order of field numbers.
void set_unknown_string(google::protobuf::UnknownFieldSet&, int field, const std::string& text);

// ---- onnx_external.cpp

/// The model file itself, where elements were left in it.
struct ModelFile {
  MappedFile file;
  Elements elements;
};

/// Files that tensors refer to, each mapped once.
class ExternalFiles {
 public:
  /// `headers`: what of the tensors that are taken is left out.
  ExternalFiles(std::string source, std::filesystem::path folder, std::optional<Headers> headers = std::nullopt,
                std::optional<ModelFile> model = std::nullopt)
      : source_(std::move(source)), folder_(std::move(folder)), headers_(headers), model_(std::move(model)) {}
  /// raw_data that parse_apart() left in the model file; null: none.
  std::shared_ptr<Buffer> left_in_file(const onnx::TensorProto&) const;
  bool leaves_out(DType dtype, const Shape& shape) const {
    return headers_ && onnx_file::leaves_out(*headers_, dtype, shape);
  }
  /// The bytes that `entries` of a TensorProto with external data name, which must be `size` long.
  std::shared_ptr<Buffer> find(const onnx::TensorProto&, std::size_t size, const std::string& where);

 private:
  std::string source_;
  std::filesystem::path folder_;
  std::optional<Headers> headers_;
  std::optional<ModelFile> model_;
  std::map<std::string, MappedFile> files_;
};

// ---- onnx_tensor.cpp

/// Takes the elements out of `proto`. `where` opens the messages of errors: `m.onnx: initializer "w"`.
Tensor take_tensor(onnx::TensorProto& proto, ExternalFiles&, const std::string& where, TensorForm& form);
Tensor take_sparse(onnx::SparseTensorProto& proto, ExternalFiles&, const std::string& where, SparseForm& form);

/// Puts raw bytes elsewhere (an external file, with external_data set; or where Kept says): true when it did.
/// `storage`: how they would be stored otherwise.
using Elsewhere = std::function<bool(const Tensor&, Storage storage, onnx::TensorProto&)>;
/// `form` null: raw data. Does not touch the name.
void put_tensor(const Tensor&, const TensorForm* form, const Elsewhere& elsewhere, onnx::TensorProto& proto);
/// False when an element outside the stored indices is no longer zero.
bool put_sparse(const Tensor&, const SparseForm& form, const std::string& name, onnx::SparseTensorProto& proto);

}  // namespace onnx_file
}  // namespace qtool
