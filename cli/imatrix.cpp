// SPDX-License-Identifier: Apache-2.0
#include <filesystem>

#include "backends/cpu/cpu.h"
#include "calib/data.h"
#include "calib/observe.h"
#include "cli/command.h"
#include "cli/data_options.h"
#include "cli/resume.h"
#include "cli/text.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/kept.h"
#include "formats/file/reader.h"
#include "passes/importance.h"

namespace qtool {
namespace {

namespace fs = std::filesystem;

class ImatrixCommand final : public Command {
  std::string model_, calib_, output_, cache_;

 public:
  void arguments(Arguments& a) override {
    a.positional("MODEL", model_, "ONNX file");
    a.option("--calib", "DATA", calib_, "data to run it on").required = true;
    a.option("-o,--output", "FILE", output_, "file to write: FILE.gguf, or FILE.dat for the older kind").required =
        true;
    a.option("--cache-dir", "DIR", cache_, "folder of results that runs share, as of `quantize`");
  }

  void run(Console& console) override {
    const std::string ending = fs::path(output_).extension().string();
    if (ending != ".gguf" && ending != ".dat") {
      throw Error(Code::usage, "an importance matrix is FILE.gguf or FILE.dat, not \"" + output_ + "\"");
    }
    const Graph graph = read_model(model_);
    const std::shared_ptr<const Dataset> data = open_dataset(graph, data_from(calib_));
    Threads threads(console.threads(), &best_integer_kernels(), console.stop());
    Kept kept(cache_, {}, console.journal());
    Calibration calibration(data, threads, console.journal(), {&kept, origin_json(data->digest(threads))});
    Imatrix all = collect_importance(graph, calibration, console.journal());
    fs::path named = fs::path(calib_);
    if (!named.has_filename()) named = named.parent_path();
    all.datasets = {named.filename().string()};
    OutputFile file(output_);
    file.write(imatrix_bytes(all, ending == ".dat" ? Imatrix::Kind::dat : Imatrix::Kind::gguf));
    file.publish();
    tell(console, all);
  }

 private:
  /// Of a weight whose inputs weigh alike, 1; of one that lives by a single input, their number.
  static double peak(const Imatrix::Entry& e) {
    const std::vector<double> means = e.means();
    double sum = 0, most = 0;
    for (const double m : means) sum += m, most = std::max(most, m);
    return sum > 0 ? most / (sum / static_cast<double>(means.size())) : 1;
  }

  void tell(Console& console, const Imatrix& all) const {
    Table table({"weight", "inputs", "tokens", "mean square", "largest / mean"});
    Json list = Json::array();
    for (const Imatrix::Entry& e : all.entries) {
      double sum = 0;
      for (const double m : e.means()) sum += m;
      const double mean = sum / static_cast<double>(e.sums.size());
      table.row({e.name, std::to_string(e.sums.size()), grouped(static_cast<std::uint64_t>(e.counts[0])),
                 significant(mean, 4), significant(peak(e), 3)});
      Json row = Json::object();
      row.set("weight", e.name).set("inputs", static_cast<std::int64_t>(e.sums.size()));
      row.set("matrices", static_cast<std::int64_t>(e.counts.size()));
      list.push(row.set("tokens", e.counts[0]).set("mean_square", mean).set("peak", peak(e)));
    }
    console.summary(table.text());
    Json report = Json::object();
    console.result(report.set("output", output_).set("entries", std::move(list)));
  }
};

}  // namespace

constinit const CommandDef command::imatrix{
    "imatrix",
    "collect the importance of the inputs of every weight, as llama.cpp keeps it",
    "Runs the float model and sums the squares of what each weight is multiplied by. Quantizers take the file as "
    "weights\n"
    "of errors: llama.cpp, and here the knob `importance` of round_nearest and gptq.",
    "qtool imatrix model.onnx --calib samples.npz -o model.gguf\n"
    "qtool imatrix model.onnx --calib samples.npz -o model.dat",
    true,
    false,
    make_command<ImatrixCommand>};

}  // namespace qtool
