// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"
#include "cli/model_diff.h"
#include "formats/base/error.h"
#include "formats/file/reader.h"

namespace qtool {
namespace {

class Diff final : public Command {
  std::string a_, b_;

 public:
  void arguments(Arguments& a) override {
    a.positional("A", a_, "ONNX file");
    a.positional("B", b_, "ONNX file to compare with it");
  }

  void run(Console& console) override {
    const Graph a = read_model(a_), b = read_model(b_);
    Threads threads(console.threads());
    const ModelDiff diff = diff_models(a, b, threads);
    console.print(diff.equal() ? "the models are equal\n" : diff.text());
    console.result(diff.json());
    if (!diff.equal()) {
      throw Error(Code::different, a_ + " and " + b_ + " differ in " + diff.summary(), "");
    }
  }
};

}  // namespace

constinit const CommandDef command::diff{
    "diff",
    "tell what differs between two models, tensor by tensor",
    "Nodes are matched by name; what they read is compared as numbers, whatever form it is stored in, so that a float\n"
    "model can be held against what was made of it. Exits with 9 when the models differ.",
    "qtool diff model.onnx model.int8.onnx\nqtool diff old.onnx new.onnx --json - --quiet",
    false,
    false,
    make_command<Diff>};

}  // namespace qtool
