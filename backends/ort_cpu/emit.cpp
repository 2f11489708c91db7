// SPDX-License-Identifier: Apache-2.0
// The emitter of the ort-cpu target: raises the opset where a decision needs it, then applies the rules.
#include "backends/backend.h"
#include "backends/ort_cpu/ort_cpu.h"

namespace qtool {
namespace {

class OrtCpuEmitter final : public Emitter {
  std::string form_ = "qdq";
  bool only_standard_ = false;

 public:
  void options(Options& o) override {
    o("form", form_, "how static decisions are written: pairs that the runtime fuses, or its integer operators",
      {"qdq", "qoperator"});
    o("only_standard", only_standard_, "static decisions without operators of com.microsoft (form qdq)");
  }

  Graph lower(const Graph& decided, const Target& target, Journal& journal) override {
    return onnx_form::lowered(decided, target, journal, onnx_form::contrib_opset, [&](onnx_form::Lowering& l) {
      onnx_form::lower_matmul_nbits(l);
      onnx_form::lower_matmul_bnb4(l);
      onnx_form::lower_blocks(l);
      ort_cpu::lower_dynamic(l);
      onnx_form::lower_static(l, only_standard_ && form_ == "qdq");
      if (form_ == "qoperator") ort_cpu::fuse_pairs(l);
    });
  }
};

}  // namespace

namespace backend {
const BackendDef ort_cpu{
    "ort-cpu", "ONNX Runtime on the CPU: fused int8 kernels, 2- to 8-bit weights, float8, nf4",
    "Measured: every row was seen in the optimized graph that ONNX Runtime 1.31 saves on a CPU with AVX-512 VNNI "
    "(tests/runtime repeats it), and so were the rates that estimates of speed rest on.",
    ort_cpu_target, make_emitter<OrtCpuEmitter>};
}  // namespace backend
}  // namespace qtool
