// SPDX-License-Identifier: Apache-2.0
// Messages from and to files without a second copy of the weights in memory.
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/message.h>
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <memory>

#include "formats/base/error.h"
#include "formats/file/onnx_internal.h"

namespace qtool::onnx_file {
namespace {

namespace io = google::protobuf::io;

/// A mapped file in blocks, whose memory goes back as soon as it was parsed: elements lie in the message by then.
class InputStream final : public io::ZeroCopyInputStream {
 public:
  explicit InputStream(const MappedFile& file) : file_(file) {}
  bool Next(const void** data, int* size) override {
    if (at_ > behind_) file_.release(behind_, at_ - behind_);
    behind_ = at_;
    const std::size_t n = std::min(block, file_.bytes().size() - at_);
    if (n == 0) return false;
    *data = file_.bytes().data() + at_;
    *size = static_cast<int>(n);
    at_ += n;
    return true;
  }
  void BackUp(int count) override { at_ -= static_cast<std::size_t>(count); }
  bool Skip(int count) override {
    const std::size_t n = std::min(static_cast<std::size_t>(count), file_.bytes().size() - at_);
    at_ += n;
    return n == static_cast<std::size_t>(count);
  }
  std::int64_t ByteCount() const override { return static_cast<std::int64_t>(at_); }

 private:
  static constexpr std::size_t block = std::size_t{1} << 20;
  const MappedFile& file_;
  std::size_t at_ = 0, behind_ = 0;  // what lies before `behind_` was given back
};

/// A full disk is kept until protobuf is done: it knows no exceptions.
class OutputStream final : public io::CopyingOutputStream {
 public:
  explicit OutputStream(OutputFile& file) : file_(file) {}
  bool Write(const void* buffer, int size) override {
    if (failure_) return false;
    try {
      file_.write(std::span(static_cast<const std::byte*>(buffer), static_cast<std::size_t>(size)));
    } catch (...) {
      failure_ = std::current_exception();
    }
    return !failure_;
  }
  void check() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  OutputFile& file_;
  std::exception_ptr failure_;
};

void check_size(std::size_t size, const std::string& source) {
  if (size <= max_message_bytes) return;
  throw Error(Code::input, source + ": the file is larger than 2 GiB, the most that one message may have",
              "keep the weights in external data files");
}

void parse_stream(io::ZeroCopyInputStream& bytes, const std::string& source, onnx::ModelProto& model) {
  io::CodedInputStream stream(&bytes);
  if (model.ParseFromCodedStream(&stream) && stream.ConsumedEntireMessage()) return;
  throw Error(Code::input, source + ": the file is no ONNX model, or is damaged", "download or export it again");
}

/// Takes the fields with numbers above `last`, and those that the schema does not know, out of a message: what is
/// written behind the others.
template <class Message>
Message take_behind(Message& message, int last) {
  Message behind;
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  std::erase_if(fields, [&](const auto* field) { return field->number() <= last; });
  message.GetReflection()->SwapFields(&message, &behind, fields);
  behind.mutable_unknown_fields()->Swap(message.mutable_unknown_fields());
  return behind;
}

/// A message within a message, or bytes: a field with a length in front.
std::uint64_t field_size(std::uint64_t size) {
  constexpr std::uint64_t tag = 1;  // of the fields here, whose numbers are below 16
  return tag + io::CodedOutputStream::VarintSize64(size) + size;
}

void open_field(int number, std::uint64_t size, io::CodedOutputStream& out) {
  constexpr std::uint32_t length_delimited = 2;
  out.WriteTag(static_cast<std::uint32_t>(number) << 3 | length_delimited);
  out.WriteVarint64(size);
}

/// A message cut where a list of others belongs in between.
template <class Message>
struct Cut {
  Cut(Message& message, int last) : behind(take_behind(message, last)), front(&message) {}
  std::uint64_t size() const { return front->ByteSizeLong() + behind.ByteSizeLong(); }
  Message behind;
  Message* front;
};

/// An initializer, cut where its raw_data belong; data null: they are in the message, or nowhere.
struct CutTensor {
  Cut<onnx::TensorProto> cut;
  const Tensor* data;
  std::uint64_t size() const { return cut.size() + (data ? field_size(data->size_bytes()) : 0); }
};

class CutModel {
 public:
  CutModel(onnx::ModelProto& model, const Kept& kept)
      : model_(model, onnx::ModelProto::kGraphFieldNumber),
        graph_message_(model.release_graph()),
        graph_(*graph_message_, onnx::GraphProto::kInitializerFieldNumber) {
    initializers_.Swap(graph_message_->mutable_initializer());
    std::uint64_t size = graph_.size();
    for (onnx::TensorProto& tensor : initializers_) {
      const auto found = kept.find(&tensor);
      const Tensor* data = found == kept.end() ? nullptr : &found->second;
      const int last = data ? onnx::TensorProto::kRawDataFieldNumber : std::numeric_limits<int>::max();
      size += field_size(tensors_.emplace_back(CutTensor{{tensor, last}, data}).size());
    }
    graph_size_ = size;
  }

  std::uint64_t size() const { return model_.size() + field_size(graph_size_); }

  void check_size() const {
    if (size() <= max_message_bytes) return;
    throw Error(Code::no_fit, "the model takes more than 2 GiB, the most that one ONNX message may have",
                "write it to a file, with its weights in an external data file");
  }

  void write(io::ZeroCopyOutputStream& stream, Threads* threads) const {
    check_size();
    io::CodedOutputStream out(&stream);
    out.SetSerializationDeterministic(true);
    model_.front->SerializeToCodedStream(&out);
    open_field(onnx::ModelProto::kGraphFieldNumber, graph_size_, out);
    graph_.front->SerializeToCodedStream(&out);
    std::vector<const Tensor*> elements;
    std::vector<std::size_t> places;  // of those tensors in tensors_
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      if (tensors_[i].data == nullptr) continue;
      elements.push_back(tensors_[i].data);
      places.push_back(i);
    }
    std::size_t next = 0;  // tensor that was not begun; the one before it is not ended
    const auto go_to = [&](std::size_t end) {
      for (; next < end; ++next) {
        if (next > 0) tensors_[next - 1].cut.behind.SerializeToCodedStream(&out);
        const CutTensor& tensor = tensors_[next];
        open_field(onnx::GraphProto::kInitializerFieldNumber, tensor.size(), out);
        tensor.cut.front->SerializeToCodedStream(&out);
        if (tensor.data) open_field(onnx::TensorProto::kRawDataFieldNumber, tensor.data->size_bytes(), out);
      }
    };
    stream_elements(elements, threads, [&](std::size_t i, std::span<const std::byte> bytes) {
      go_to(places[i] + 1);
      out.WriteRaw(bytes.data(), static_cast<int>(bytes.size()));
    });
    go_to(tensors_.size());
    if (next > 0) tensors_[next - 1].cut.behind.SerializeToCodedStream(&out);
    graph_.behind.SerializeToCodedStream(&out);
    model_.behind.SerializeToCodedStream(&out);
  }

 private:
  Cut<onnx::ModelProto> model_;
  std::unique_ptr<onnx::GraphProto> graph_message_;
  Cut<onnx::GraphProto> graph_;
  google::protobuf::RepeatedPtrField<onnx::TensorProto> initializers_;
  std::vector<CutTensor> tensors_;
  std::uint64_t graph_size_ = 0;
};

}  // namespace

void parse(std::span<const std::byte> bytes, const std::string& source, onnx::ModelProto& model) {
  check_size(bytes.size(), source);
  io::ArrayInputStream stream(bytes.data(), static_cast<int>(bytes.size()));
  parse_stream(stream, source, model);
}

void parse(const MappedFile& file, const std::string& source, onnx::ModelProto& model) {
  check_size(file.bytes().size(), source);
  InputStream stream(file);
  parse_stream(stream, source, model);
}

void write(onnx::ModelProto& model, const Kept& kept, OutputFile& file, Threads* threads) {
  constexpr int block = 1 << 20;
  const CutModel cut(model, kept);
  OutputStream sink(file);
  {
    io::CopyingOutputStreamAdaptor stream(&sink, block);
    cut.write(stream, threads);
  }
  sink.check();
  QTOOL_ENSURE(file.size() == cut.size(), "the whole message was written");
}

std::uint64_t message_size(onnx::ModelProto& model, const Kept& kept) {
  const CutModel cut(model, kept);
  cut.check_size();
  return cut.size();
}

std::string write(onnx::ModelProto& model, const Kept& kept) {
  const CutModel cut(model, kept);
  std::string bytes;
  {
    io::StringOutputStream stream(&bytes);
    cut.write(stream, nullptr);
  }
  return bytes;
}

}  // namespace qtool::onnx_file
