// SPDX-License-Identifier: Apache-2.0
// What is planned against what is done: the same decisions, the same bytes, without looking at weights.
#include <chrono>

#include "cli/bill.h"
#include "formats/base/json.h"
#include "tests/cli/program.h"

using namespace qtool;
using namespace qtool::test;

namespace {

struct Job {
  std::string model, recipe, calib;  // calib empty: none
  std::vector<std::string> set = {};
  std::string target = {};
};

JobRequest request_of(const Job& job, const std::filesystem::path& output) {
  JobRequest request;
  request.model = job.model;
  request.recipe = job.recipe;
  request.calib = job.calib;
  request.set = job.set;
  request.target = job.target;
  request.output = output;
  if (!job.calib.empty()) request.set.emplace_back("data.samples=8");
  return request;
}

std::string dump(const Json& json, std::string_view member) { return json.find(member)->dump(0); }

/// Everything that may be left out is: weights of one element and more.
constexpr Headers nothing_but_headers{1};

void check(const Job& job, const ScratchFolder& folder) {
  CAPTURE(job.model);
  CAPTURE(job.recipe);
  CAPTURE(job.target);
  CAPTURE((job.set.empty() ? "" : job.set.front()));
  const JobRequest request = request_of(job, folder / "model.onnx");
  Journal journal;
  const JobResult done = run_job(request, journal);
  for (const Headers& headers : {Headers{}, nothing_but_headers}) {
    Journal planned;
    const Bill bill = plan_job(request, planned, headers);
    CHECK(bill.bytes.least <= done.output_bytes);
    CHECK(bill.bytes.most >= done.output_bytes);
    if (bill.bytes.least == bill.bytes.most) CHECK(bill.bytes.planned == done.output_bytes);
    for (const char* list : {"emitted", "skips"}) CHECK(dump(bill.report, list) == dump(done.report, list));
  }
}

std::vector<Job> shipped(const std::string& model, const std::string& calib) {
  return {{model, "int8_static", calib},
          {model, "int8_fast", calib},
          {model, "int8_dynamic", ""},
          {model, "int8_weights", ""},
          {model, "int4_weights", ""}};
}

bool exact(const Bill& bill) { return bill.bytes.least == bill.bytes.most; }

}  // namespace

TEST_CASE("the planned bytes are those of the file, for every shipped recipe and sample") {
  const ScratchFolder folder;
  for (const auto& [model, data] : {std::pair{"digits_cnn", "digits_calib"},
                                    {"digits_transformer", "digits_calib"},
                                    {"tiny_lstm", "arith_calib"}}) {
    for (const Job& job : shipped(sample_model(model), sample_data(data))) {
      check(job, folder);
      Journal journal;
      CHECK(exact(plan_job(request_of(job, folder / "model.onnx"), journal)));
    }
  }
}

TEST_CASE("knobs and targets are planned by the code that decides") {
  const ScratchFolder folder;
  const std::string cnn = sample_model("digits_cnn"), transformer = sample_model("digits_transformer");
  const std::string calib = sample_data("digits_calib");
  for (const char* target : {"openvino", "tensorrt", "ort-cuda"}) {
    if (target != std::string("ort-cuda")) check({cnn, "int8_static", calib, {}, target}, folder);
    check({transformer, "int4_weights", "", {}, target}, folder);
  }
  check({cnn, "int8_static", calib, {"emit.form=qoperator"}}, folder);
  check({cnn, "int8_static", calib, {"assign_formats.grain=tensor"}}, folder);
  check({transformer, "int8_static", calib, {"bias_correct.method=measured"}}, folder);
  check({transformer, "int4_weights", "", {"assign_formats.embeddings=true"}}, folder);
  check({transformer, "int4_weights", "", {"assign_formats.symmetric=false"}}, folder);
  check({transformer, "int4_weights", "", {"assign_formats.weights=uint4"}}, folder);
}

TEST_CASE("steps that move biases and scales are planned to the byte") {
  const ScratchFolder folder;
  for (const char* last :
       {"tune_statistics", "bias_correct: {method: batch_norm}", "bias_correct: {method: measured}"}) {
    const std::string recipe = folder / "recipe.yaml";
    write_bytes(recipe, std::string("version: 1\ntarget: ort-cpu\ndata: {}\nsteps:\n  - fold_constants\n"
                                    "  - fold_batch_norm\n  - assign_formats: {method: static}\n"
                                    "  - calibrate_ranges\n  - round_nearest\n  - ") +
                            last + "\n");
    for (const char* model : {"digits_cnn", "digits_transformer"}) {
      check({sample_model(model), recipe, sample_data("digits_calib")}, folder);
    }
  }
}

TEST_CASE("real models are planned to the byte") {
  if (data_dir().empty()) return skip("plans of real models", "no folder shared/data");
  const ScratchFolder folder;
  for (const char* model :
       {"lm/byte_llama_shakespeare_op14", "vision/squeezenet_fp32_op7", "vision/resnet20_cifar10_op10",
        "audio/silero_vad_op16_spox", "text/magika_standard_v3_3"}) {
    const std::filesystem::path path = data_dir() / "models" / (std::string(model) + ".onnx");
    if (!std::filesystem::exists(path)) continue;
    for (const char* recipe : {"int8_dynamic", "int4_weights"}) check({path.string(), recipe, ""}, folder);
  }
}

TEST_CASE("where bytes depend on the weights, an interval holds them") {
  Journal journal;
  const Job job{sample_model("digits_transformer"), "int4_weights", "", {"assign_formats.weights=uint4"}};
  const Bill bill = plan_job(request_of(job, "model.onnx"), journal);
  CHECK(bill.bytes.least < bill.bytes.most);
  CHECK(!bill.remarks.empty());
}

TEST_CASE("where extents decide and only data tell them, an interval holds the bytes") {
  const ScratchFolder folder;
  // The sequences of the LSTM model have the length that the data say.
  const std::string model = sample_model("tiny_lstm");
  const JobRequest named = request_of({model, "int8_fast", sample_data("arith_calib")}, folder / "model.onnx");
  Journal journal;
  const std::uint64_t bytes = plan_job(named, journal).bytes.planned;
  const Bill open = plan_job(request_of({model, "int8_fast", ""}, folder / "model.onnx"), journal);
  CHECK(open.bytes.least <= bytes);
  CHECK(bytes <= open.bytes.most);
}

TEST_CASE("every weight says what decided it, or why it stays float") {
  const ScratchFolder folder;
  write_bytes(
      folder / "mine.yaml",
      "version: 1\ntarget: ort-cpu\nsteps:\n  - assign_formats: {method: weights, weights: int4, grain: groups}\n"
      "  - round_nearest\nrules:\n  - where: {op: Gemm}\n    keep: float\n"
      "  - where: {name: \"*out*\"}\n    weights: int8\n");
  Journal journal;
  const Job job{sample_model("digits_transformer"), (folder / "mine.yaml").string(), ""};
  const Bill bill = plan_job(request_of(job, "model.onnx"), journal);
  int step = 0, rule = 0, refused = 0;
  for (const BillTensor& t : bill.tensors) {
    if (t.type.shape.size() != 2) continue;
    CAPTURE(t.name);
    CHECK(t.format.empty() != t.why_float.empty());
    CHECK(t.format.empty() == t.decided_by.empty());
    CHECK((t.format.empty() ? t.after == t.before : t.after < t.before));
    step += t.decided_by == "assign_formats" ? 1 : 0;
    rule += t.decided_by.starts_with("rule at ") ? 1 : 0;
    refused += t.why_float.find("a rule keeps it float") != std::string::npos ? 1 : 0;
  }
  CHECK(step > 0);
  CHECK(rule > 0);
  CHECK(refused > 0);
}

TEST_CASE("a gibibyte of weights is planned in less than a second and without their pages") {
  const ScratchFolder folder;
  // One MatMul whose weight is a hole at the end of a sparse file.
  constexpr std::uint64_t width = 16384, weight = width * width * 4;
  const auto varint = [](std::uint64_t n) {
    std::string out;
    for (; n >= 0x80; n >>= 7) out.push_back(static_cast<char>(n | 0x80));
    out.push_back(static_cast<char>(n));
    return out;
  };
  const auto field = [&](int number, const std::string& content) {
    return varint(static_cast<std::uint64_t>(number) << 3 | 2) + varint(content.size()) + content;
  };
  const auto number = [&](int of, std::uint64_t n) { return varint(static_cast<std::uint64_t>(of) << 3) + varint(n); };
  const auto info = [&](const std::string& name) {
    const std::string shape = field(1, number(1, 4)) + field(1, number(1, width));
    return field(1, name) + field(2, field(1, number(1, 1) + field(2, shape)));
  };
  const std::string tensor =
      number(1, width) + number(1, width) + number(2, 1) + field(8, "w") + varint(9 << 3 | 2) + varint(weight);
  const std::string before =
      field(1, field(1, "x") + field(1, "w") + field(2, "y") + field(3, "n") + field(4, "MatMul")) + field(2, "g") +
      field(11, info("x")) + field(12, info("y")) + varint(5 << 3 | 2) + varint(tensor.size() + weight) + tensor;
  const std::string head =
      number(1, 8) + field(8, number(2, 17)) + varint(7 << 3 | 2) + varint(before.size() + weight) + before;
  const std::filesystem::path model = folder / "large.onnx";
  write_bytes(model, head);
  std::filesystem::resize_file(model, head.size() + weight);

  const auto start = std::chrono::steady_clock::now();
  const Outcome planned =
      run_qtool({"plan", model.string(), "--recipe", "int8_dynamic", "--json", (folder / "plan.json").string()});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  REQUIRE(planned.code == 0);
  CHECK(took.count() < 1);
  const Json report = Json::parse(bytes_of(folder / "plan.json"), "plan");
  CHECK(report.find("schema")->as_string() == "qtool.plan/1");
  CHECK(report.find("input_bytes")->as_number() == static_cast<double>(head.size() + weight));
  // A byte per weight, a scale and a zero point per column, and the little that names them.
  const double bytes = report.find("output_bytes")->as_number(), codes = width * width + width * 5;
  CHECK(bytes > codes);
  CHECK(bytes < codes + 2048);
  CHECK(report.find("peak_bytes")->as_number() < static_cast<double>(weight) / 8);  // it is looked at part by part
  CHECK(report.find("seconds")->as_number() > 0);
}

TEST_CASE("a plan needs no data, and says so where the job would") {
  const ScratchFolder folder;
  Setup setup;
  setup.folder = folder.path();
  const Outcome planned = run_qtool({"plan", sample_model("digits_cnn"), "--recipe", "int8_static"}, setup);
  CHECK(planned.code == 0);
  CHECK(planned.out.find("name them with --calib") != std::string::npos);
  CHECK(listing(folder.path()).empty());
  const JobRequest request = request_of({sample_model("digits_cnn"), "int8_static", ""}, folder / "model.onnx");
  Journal journal;
  const double few = plan_job(request, journal, {}, 10).price.seconds;
  CHECK(few > plan_job(request, journal).price.seconds);
  CHECK(plan_job(request, journal, {}, 10000).price.seconds > 10 * few);
}

TEST_CASE("a rehearsal runs everything on the first blocks and publishes nothing") {
  const ScratchFolder folder;
  // A gate that only the whole model could meet is not judged.
  const std::vector<std::string> words{"quantize",
                                       sample_model("digits_cnn"),
                                       "--recipe",
                                       "int8_static",
                                       "--calib",
                                       sample_data("digits_calib"),
                                       "--eval",
                                       sample_data("digits_eval"),
                                       "--set",
                                       "gate.top1_drop=0.0001",
                                       "--rehearse",
                                       "-o",
                                       (folder / "out.onnx").string()};
  auto with_report = words;
  with_report.insert(with_report.end(), {"--json", (folder / "report.json").string()});
  const Outcome done = run_qtool(with_report);
  REQUIRE_MESSAGE(done.code == 0, done.err);
  CHECK(done.out.find("rehearsed on its first") != std::string::npos);
  CHECK(listing(folder.path()) == std::vector<std::string>{"report.json"});
  const Json report = Json::parse(bytes_of(folder / "report.json"), "report");
  CHECK(report.find("schema")->as_string() == "qtool.rehearsal/1");
  CHECK(report.find("layers")->as_number() < report.find("all_layers")->as_number());
  CHECK(report.find("plan")->find("output_bytes")->as_number() > 0);
  // A rule may be for nodes behind the cut.
  write_bytes(
      folder / "mine.yaml",
      "version: 1\ntarget: ort-cpu\nsteps:\n  - assign_formats: {method: weights, weights: int4, grain: groups}\n"
      "  - round_nearest\nrules:\n  - where: {name: \"*head*\"}\n    keep: float\n");
  const Outcome ruled =
      run_qtool({"quantize", sample_model("digits_cnn"), "--recipe", (folder / "mine.yaml").string(), "--rehearse"});
  CHECK_MESSAGE(ruled.code == 0, ruled.err);
  // What the job would refuse, the rehearsal refuses.
  const Outcome refused = run_qtool({"quantize", sample_model("digits_cnn"), "--recipe", "int8_static", "--rehearse"});
  CHECK(refused.code == 7);
}

TEST_CASE("rates are measured once and kept; what is broken counts as not measured") {
  const ScratchFolder folder;
  Setup setup;
  setup.environment = {"XDG_CACHE_HOME=" + (folder / "cache").string()};
  const std::vector<std::string> plan{"plan", sample_model("digits_cnn"), "--recipe", "int8_weights"};
  CHECK(run_qtool(plan, setup).out.find("built-in rates") != std::string::npos);
  const Outcome measured = run_qtool({"doctor", "--calibrate", "--json", "-"}, setup);
  REQUIRE(measured.code == 0);
  const Json rates = *Json::parse(measured.out, "rates").find("ns");
  for (const auto& [name, rate] : rates.as_object()) {
    CAPTURE(name);
    CHECK(rate.as_number() > 0);
  }
  CHECK(run_qtool(plan, setup).out.find("built-in rates") == std::string::npos);
  const std::filesystem::path file = folder / "cache/qtool/rates.json";
  const std::string whole = bytes_of(file);
  for (const std::string& broken : {whole.substr(0, whole.size() / 2), std::string("[]"), std::string("{\"ns\": {}}"),
                                    std::string(whole).replace(whole.find("\"start\""), 7, "\"other\"")}) {
    write_bytes(file, broken);
    const Outcome outcome = run_qtool(plan, setup);
    CHECK(outcome.code == 0);
    CHECK(outcome.out.find("built-in rates") != std::string::npos);
  }
}
