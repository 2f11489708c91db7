// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <map>

#include "backends/cpu/cpu.h"
#include "calib/data.h"
#include "calib/data/npz.h"
#include "calib/dataset_run.h"
#include "calib/executor.h"
#include "calib/unquantized.h"
#include "cli/command.h"
#include "cli/data_options.h"
#include "cli/text.h"
#include "formats/base/error.h"
#include "formats/file/reader.h"
#include "formats/ir/verify.h"

namespace qtool {
namespace {

/// The batches of one output behind one another along the first axis.
Tensor joined(const std::string& name, const std::vector<Tensor>& parts) {
  if (parts.size() == 1) return parts.front();
  Shape shape = parts.front().shape();
  if (shape.empty()) {
    throw Error(
        Code::calibration,
        "output \"" + name + "\" is one number per run, and the data make " + std::to_string(parts.size()) + " runs",
        "give data for one run");
  }
  shape[0] = 0;
  for (const Tensor& part : parts) {
    Shape rest = part.shape();
    if (rest.empty() || part.dtype() != parts.front().dtype() || bit_width(part.dtype()) < 8 ||
        !std::equal(rest.begin() + 1, rest.end(), shape.begin() + 1, shape.end())) {
      throw Error(Code::calibration, "output \"" + name + "\" differs in shape from run to run",
                  "give data for one run");
    }
    shape[0] += rest[0];
  }
  Tensor all(parts.front().dtype(), shape);
  std::size_t at = 0;
  const auto out = all.write_bytes();
  for (const Tensor& part : parts) {
    const auto in = part.bytes();
    if (!in.empty()) std::memcpy(out.data() + at, in.data(), in.size());
    at += in.size();
  }
  return all;
}

class Run final : public Command {
  std::string model_, inputs_, output_, reading_ = "quantized";

 public:
  void arguments(Arguments& a) override {
    a.positional("MODEL", model_, "ONNX file");
    a.option("-i,--inputs", "DATA", inputs_, "input data: npz with one array per input, or any other data").required =
        true;
    a.option(
        "--reading", "NAME", reading_,
        "of a quantized file: `quantized`, as the runtime computes (the default), or `reference`: its weights, with "
        "activations in float");
    a.option("-o,--output", "FILE", output_, "npz to write, one array per output (default: only print what came out)");
  }

  void run(Console& console) override {
    if (reading_ != "quantized" && reading_ != "reference") {
      throw Error(Code::usage, "--reading is quantized or reference, not \"" + reading_ + "\"");
    }
    Graph graph = read_model(model_);
    if (reading_ == "reference") {
      graph = without_activation_quantizers(graph);
      verify(graph);
    }
    const std::unique_ptr<Dataset> data = open_dataset(graph, data_from(inputs_));
    Threads threads(console.threads(), &best_integer_kernels(), console.stop());
    const Executor executor(graph, Reading::reference, threads);
    std::vector<ValueId> wanted;
    for (const Use& use : graph.outputs) wanted.push_back(use.value);
    std::map<ValueId, std::vector<Tensor>> parts;
    for (const ValueId value : wanted) parts[value];
    run_dataset(
        graph, executor, *data, threads, wanted,
        [&](std::int64_t, ValueId value, const Tensor& tensor) { parts.at(value).push_back(tensor); }, 0,
        [&](std::int64_t done, std::int64_t total) {
          console.journal().progress({"run", done, total});
        });
    std::vector<std::pair<std::string, Tensor>> arrays;
    for (const ValueId value : wanted) arrays.emplace_back(graph[value].name, joined(graph[value].name, parts[value]));
    if (!output_.empty()) write_npz(output_, arrays);
    tell(console, arrays);
  }

 private:
  static void tell(Console& console, const std::vector<std::pair<std::string, Tensor>>& arrays) {
    Table table({"output", "type", "shape", "lowest", "highest"});
    table.left(1).left(2);
    Json list = Json::array();
    for (const auto& [name, tensor] : arrays) {
      Json row = Json::object();
      row.set("name", name).set("dtype", name_of(tensor.dtype()));
      Json shape = Json::array();
      for (const std::int64_t d : tensor.shape()) shape.push(d);
      row.set("shape", std::move(shape));
      std::string low, high;
      if (tensor.count() > 0 && tensor.dtype() != DType::string) {
        const Tensor floats = to_f32(tensor);
        const auto v = floats.read<float>();
        const auto [least, most] = std::minmax_element(v.begin(), v.end());
        low = significant(*least, 6);
        high = significant(*most, 6);
      }
      table.row({name, std::string(name_of(tensor.dtype())), to_string(tensor.shape()), low, high});
      list.push(std::move(row));
    }
    console.summary(table.text());
    Json report = Json::object();
    console.result(report.set("outputs", std::move(list)));
  }
};

}  // namespace

constinit const CommandDef command::run{"run",
                                        "run a model on data and write its outputs",
                                        "",
                                        "qtool run model.onnx --inputs samples.npz -o outputs.npz",
                                        true,
                                        false,
                                        make_command<Run>};

}  // namespace qtool
