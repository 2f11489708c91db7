// SPDX-License-Identifier: Apache-2.0
// The two commands that measure: compare (one model against another) and eval (one model against labels).
#include "calib/compare.h"

#include "backends/cpu/cpu.h"
#include "cli/command.h"
#include "cli/data_options.h"
#include "cli/report.h"
#include "cli/text.h"
#include "formats/base/error.h"
#include "formats/file/reader.h"

namespace qtool {
namespace {

Comparison measure(const Graph& reference, const Graph& candidate, DataOptions options, const std::string& labels,
                   bool layers, Console& console) {
  if (!labels.empty()) options.labels = labels;
  const std::unique_ptr<Dataset> data = open_dataset(reference, options);
  Threads threads(console.threads(), &best_integer_kernels(), console.stop());
  return compare(reference, candidate, Reading::reference, *data, reference, threads, layers,
                 [&](std::int64_t done, std::int64_t total) {
                   console.journal().progress({"compare", done, total});
                 });
}

class Compare final : public Command {
  std::string reference_, candidate_, data_, labels_;

 public:
  void arguments(Arguments& a) override {
    a.positional("A", reference_, "ONNX file that is right by definition");
    a.positional("B", candidate_, "ONNX file to measure against it");
    a.option("-d,--data", "DATA", data_, "data to run both on").required = true;
    a.option("--labels", "NAME", labels_, "array of class labels in the data");
  }

  void run(Console& console) override {
    const Graph a = read_model(reference_), b = read_model(candidate_);
    const Comparison c = measure(a, b, data_from(data_), labels_, true, console);
    std::string text =
        comparison_text(c) + "measured on " + grouped(static_cast<std::uint64_t>(c.samples)) + " samples\n";
    const std::string layers = worst_layers_text(c, "worst values of equal name");
    console.print(text + (layers.empty() ? "" : "\n" + layers));
    Json report = Json::object();
    report.set("command", "compare").set("reference", reference_).set("candidate", candidate_);
    console.result(report.set("comparison", c.json()));
  }
};

class Eval final : public Command {
  std::string model_, data_, labels_;

 public:
  void arguments(Arguments& a) override {
    a.positional("MODEL", model_, "ONNX file");
    a.option("-d,--data", "DATA", data_, "data to run it on").required = true;
    a.option("--labels", "NAME", labels_, "array of class labels in the data");
  }

  void run(Console& console) override {
    const Graph graph = read_model(model_);
    const Comparison c = measure(graph, graph, data_from(data_), labels_, false, console);
    Table table({"output", "lowest", "highest", "not finite", "labelled", "accuracy"});
    Json outputs = Json::array();
    for (const OutputReport& output : c.outputs) {
      const ClassStats& s = output.classes;
      const std::int64_t not_finite = output.error.count - output.error.compared;  // alike in both: it is one model
      const double right =
          s.labelled == 0 ? 0 : static_cast<double>(s.candidate_right) / static_cast<double>(s.labelled);
      table.row({output.name, significant(output.error.low, 6), significant(output.error.high, 6),
                 std::to_string(not_finite), std::to_string(s.labelled), s.labelled == 0 ? "" : percent(right)});
      Json row = Json::object();
      row.set("name", output.name).set("low", output.error.low).set("high", output.error.high);
      row.set("not_finite", not_finite).set("labelled", s.labelled);
      outputs.push(row.set("accuracy", s.labelled == 0 ? Json() : Json(right)));
    }
    console.print(table.text() + "measured on " + grouped(static_cast<std::uint64_t>(c.samples)) + " samples\n");
    Json report = Json::object();
    report.set("command", "eval").set("model", model_).set("samples", c.samples);
    console.result(report.set("outputs", std::move(outputs)));
  }
};

}  // namespace

constinit const CommandDef command::compare{
    "compare",
    "measure the error of one model against another on the same data",
    "Outputs and values inside are matched by name. Equal names need not mean equal things inside: a folded\n"
    "normalization or activation moves into the layer before it.",
    "qtool compare model.onnx model.int8.onnx --data held_out.npz",
    true,
    false,
    make_command<Compare>};

constinit const CommandDef command::eval{"eval",
                                         "run a model on data: range of every output, accuracy where there are labels",
                                         "",
                                         "qtool eval model.onnx --data held_out.npz --labels labels",
                                         true,
                                         false,
                                         make_command<Eval>};

}  // namespace qtool
