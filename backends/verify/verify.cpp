// SPDX-License-Identifier: Apache-2.0
#include "backends/verify/verify.h"

#include <algorithm>

#include "backends/verify/against.h"
#include "backends/verify/scene.h"
#include "formats/base/error.h"

namespace qtool {
namespace verify {
namespace {

void check_graph(const GraphView& graph, const FileView& file, const Target& target, Findings& findings,
                 const Scene* outer) {
  const Scene scene(graph, file, target, findings, outer);
  check_structure(scene);
  check_pairs(scene);
  check_parameters(scene);
  check_products(scene);
  check_integer_operators(scene);
  check_blocks(scene);
  check_fusion(scene);
  for (const GraphView& body : graph.bodies) check_graph(body, file, target, findings, &scene);
}

void check_versions(const FileView& file, const Target& target, Findings& findings) {
  const auto beyond = [&](const std::string& what) {
    findings.add("the file", what + ", more than " + target.runtime + " " + target.version + " loads",
                 "write an older version");
  };
  if (target.max_ir > 0 && file.ir > target.max_ir) beyond("it has IR version " + std::to_string(file.ir));
  const auto opset = file.opsets.find("");
  if (target.max_opset > 0 && opset != file.opsets.end() && opset->second > target.max_opset) {
    beyond("it has opset " + std::to_string(opset->second));
  }
}

void count(const GraphView& graph, Verification& verdict) {
  verdict.nodes += static_cast<std::int64_t>(graph.nodes.size());
  for (const auto& [name, t] : graph.constants) {
    if (is_code(t.type)) verdict.codes += t.count();
  }
  for (const GraphView& body : graph.bodies) count(body, verdict);
}

Findings check_file(const FileView& file, const Target& target) {
  Findings findings;
  check_graph(file.graph, file, target, findings, nullptr);
  file.let_go();
  return findings;
}

/// What is wrong with the model's own bytes is not the file's fault.
FileView read_model(const std::filesystem::path& path) {
  try {
    return read_file(path);
  } catch (const Error& e) {
    if (e.code() != Code::verification) throw;
    throw Error(Code::input, path.string() + " cannot be compared with: " + e.what(), e.hint());
  }
}

void keep(std::vector<Defect>& list, const Defect& defect) {
  if (list.size() < Verification::most) list.push_back(defect);
}

}  // namespace
}  // namespace verify

Verification verify_file(const VerifyRequest& request, Threads& threads) {
  const verify::FileView file = verify::read_file(request.file);
  const Target& target = *request.target;
  Verification result;
  verify::count(file.graph, result);
  verify::Findings own = verify::check_file(file, target);
  if (!request.against.empty()) {
    const verify::FileView model = verify::read_model(request.against);
    const std::vector<Defect> before = verify::check_file(model, target).all;
    const auto inherited = std::stable_partition(own.all.begin(), own.all.end(), [&](const Defect& d) {
      return std::find(before.begin(), before.end(), d) == before.end();
    });
    std::for_each(inherited, own.all.end(), [&](const Defect& d) { verify::keep(result.inherited, d); });
    own.all.erase(inherited, own.all.end());
    const std::int64_t most = request.most_codes;
    const std::int64_t every = most > 0 ? std::max<std::int64_t>(1, (result.codes + most - 1) / most) : 1;
    verify::check_against(file, model, request, every, own, result, threads);
  }
  verify::check_versions(file, target, own);  // a model that is too new is no excuse for the file
  result.found = static_cast<std::int64_t>(own.all.size());
  for (const Defect& defect : own.all) verify::keep(result.defects, defect);
  return result;
}

Verification expect_verified(const VerifyRequest& request, Threads& threads, Journal& journal) {
  Verification result = verify_file(request, threads);
  if (result.clean()) return result;
  for (std::size_t i = 1; i < result.defects.size(); ++i) {
    journal.warn("verify", result.defects[i].text() + "; " + result.defects[i].advice);
  }
  const Defect& first = result.defects.front();
  throw Error(Code::verification, "the written file fails its check: " + first.text(), first.advice);
}

}  // namespace qtool
