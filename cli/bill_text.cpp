// SPDX-License-Identifier: Apache-2.0
// The bill for people.
#include <algorithm>
#include <numeric>

#include "cli/bill.h"
#include "cli/report.h"
#include "cli/text.h"

namespace qtool {
namespace {

std::string size_text(const Bill& bill) {
  std::string text = "size: " + bytes_text(bill.input_bytes) + " -> " + bytes_text(bill.bytes.planned);
  if (bill.bytes.least == bill.bytes.most) return text + ", exactly\n";
  return text + ", between " + grouped(bill.bytes.least) + " and " + grouped(bill.bytes.most) + "\n";
}

std::string duration_text(double seconds) {
  if (seconds < 120) return significant(seconds, 2) + " s";
  if (seconds < 7200) return fixed(seconds / 60, 0) + " min";
  return fixed(seconds / 3600, 1) + " h";
}

std::string multiply_adds_text(const Bill& bill) {
  const double all = std::accumulate(bill.multiply_adds.begin(), bill.multiply_adds.end(), 0.0);
  if (all == 0) return {};
  std::string text = "multiply-adds of one sample: " + significant(all, 3);
  const auto share = [&](Precision precision, const char* how) {
    const double part = bill.multiply_adds[static_cast<std::size_t>(precision)] / all;
    if (part > 0) text += std::string(", ") + percent(part, 0) + " " + how;
  };
  share(Precision::floating, "in float");
  share(Precision::integer, "on codes");
  share(Precision::dynamic, "on codes made at run time");
  share(Precision::weight_only, "on weights as codes");
  return text + "\n";
}

/// The largest weights and what becomes of them.
std::string tensors_text(std::vector<BillTensor> tensors) {
  constexpr std::size_t shown = 20;
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.before > b.before; });
  Table table({"weight", "shape", "becomes", "bytes", "decided by"});
  table.left(1).left(2).left(4);
  for (std::size_t i = 0; i < std::min(shown, tensors.size()); ++i) {
    const BillTensor& t = tensors[i];
    const std::string shape = std::string(name_of(t.type.dtype)) + " " + to_string(t.type.shape);
    table.row({t.name, shape, t.format.empty() ? "float" : t.format, grouped(t.after),
               t.format.empty() ? t.why_float : t.decided_by});
  }
  if (table.empty()) return {};
  const std::size_t more = tensors.size() - std::min(shown, tensors.size());
  return "\n" + table.text() + (more == 0 ? "" : "and " + std::to_string(more) + " smaller ones; --json has all\n");
}

}  // namespace

std::string bill_text(const JobRequest& request, const Bill& bill, const std::vector<Json>& facts) {
  std::string text = request.model.string() + " -> " + bill.output.string() + " (planned; nothing was written)\n";
  text += size_text(bill);
  text += "time: about " + duration_text(bill.price.seconds) + "; memory: about " + bytes_text(peak_bytes(bill)) +
          " at the peak; disk: " + bytes_text(bill.disk_bytes) + "\n";
  text += multiply_adds_text(bill);
  if (!bill.latency.nodes.empty()) {
    text += "time for one sample, estimated on one thread: " + fixed(bill.latency.in_float / 1e6, 3) + " -> " +
            fixed(bill.latency.as_decided / 1e6, 3) + " ms\n";
  }
  text += tensors_text(bill.tensors);
  const std::string decisions = decisions_text(facts);
  if (!decisions.empty()) text += "\n" + decisions;
  for (const std::string& remark : bill.remarks) text += "\nnote: " + remark;
  return text + (bill.remarks.empty() ? "" : "\n");
}

}  // namespace qtool
