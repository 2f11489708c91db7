// SPDX-License-Identifier: Apache-2.0
#include "formats/target.h"

#include <algorithm>

#include "backends/backend.h"
#include "cli/catalogue.h"
#include "cli/command.h"
#include "cli/job.h"
#include "cli/markdown.h"
#include "cli/text.h"
#include "formats/base/error.h"
#include "recipes/reader/bind.h"

namespace qtool {
namespace {

std::string_view word_of(Role role) {
  switch (role) {
    case Role::product: return "product";
    case Role::arithmetic: return "arithmetic";
    case Role::move: return "move";
    case Role::weight_only: return "weight only";
    case Role::dynamic: return "dynamic";
  }
  return "";
}

Json strings(const std::vector<std::string_view>& words) {
  Json list = Json::array();
  for (const std::string_view w : words) list.push(w);
  return list;
}

Json json_of(const BackendDef& def) {
  const Target t = def.target();
  Json object = Json::object();
  object.set("name", def.name).set("summary", def.summary).set("evidence", def.evidence);
  object.set("runtime", t.runtime).set("version", t.version);
  object.set("instruction_set", t.instruction_set).set("max_opset", t.max_opset).set("max_ir", t.max_ir);
  Json rows = Json::array();
  for (const Ability& a : t.abilities) {
    Json row = Json::object();
    row.set("op", a.op).set("domain", a.domain).set("role", word_of(a.role));
    row.set("activations", strings(a.activation_formats)).set("weights", strings(a.weight_formats));
    Json groups = Json::array();
    for (const std::int64_t g : a.groups) groups.push(g);
    rows.push(std::move(row.set("groups", std::move(groups)).set("note", a.note)));
  }
  const std::unique_ptr<Emitter> emitter = def.make();
  object.set("abilities", std::move(rows));
  return object.set("emit", describe_knobs([&](Options& o) { emitter->options(o); }));
}

std::string operator_of(const Ability& a) {
  return (a.domain.empty() ? "" : std::string(a.domain) + ".") + std::string(a.op);
}

std::string groups_of(const Ability& a) {
  std::string text;
  for (const std::int64_t g : a.groups) text += (text.empty() ? "" : " ") + std::to_string(g);
  return text;
}

std::string details_of(const BackendDef& def) {
  const Target t = def.target();
  std::string text = std::string(def.name) + ": " + std::string(def.summary) + "\n";
  text += t.runtime + " " + t.version + (t.instruction_set.empty() ? "" : ", for " + t.instruction_set) +
          "; opset up to " + std::to_string(t.max_opset) + ", IR up to " + std::to_string(t.max_ir) + "\n" +
          wrapped(def.evidence, 0) + "\n\n";
  Table table({"operator", "role", "activations", "weights", "note"});
  table.left(1).left(2).left(3).left(4);
  for (const Ability& a : t.abilities) {
    std::string weights = joined(a.weight_formats);
    if (!a.groups.empty()) weights += " in groups of " + groups_of(a);
    table.row(
        {operator_of(a), std::string(word_of(a.role)), joined(a.activation_formats), weights, std::string(a.note)});
  }
  return text + table.text();
}

std::string_view meaning(Role role) {
  switch (role) {
    case Role::product: return "the integer kernel of a product: codes for the activations and for the weight";
    case Role::arithmetic: return "computes on codes; every float input and the output have scales of their own";
    case Role::move: return "only moves codes; input and output share one scale and zero point";
    case Role::weight_only: return "the weight is stored as codes in groups, activations stay float";
    case Role::dynamic: return "the weight is stored as codes, activations are quantized while the model runs";
  }
  return "";
}

/// What a row asks of a node, beyond the operator.
std::string conditions_of(const Ability& a) {
  std::string text;
  const auto add = [&](const std::string& condition) { text += (text.empty() ? "" : "; ") + condition; };
  if (a.needs_constant_weight) add("constant weight");
  for (const Need& need : a.needs) {
    Json value;
    std::visit([&](const auto& v) { value = Json(v); }, need.value);
    add("`" + std::string(need.attribute) + "` = " + (value.is_string() ? value.as_string() : value.dump()));
  }
  if (a.role == Role::product && a.needs_output_quant) add("a quantized output");
  if (a.whole_groups) add("a reduction of whole groups");
  if (a.unfit) add("extents that pay");
  return text;
}

std::string ability_table(const Target& t) {
  std::vector<markdown::Row> rows;
  for (const Ability& a : t.abilities) {
    rows.push_back({markdown::code(operator_of(a)), std::string(word_of(a.role)), markdown::codes(a.activation_formats),
                    markdown::codes(a.weight_formats), groups_of(a), conditions_of(a), markdown::cell(a.note)});
  }
  return markdown::table({"operator", "role", "activations", "weights", "groups", "needs", "note"}, rows);
}

std::string roles_of(const Target& t) {
  std::string text;
  for (const Role role : {Role::product, Role::arithmetic, Role::move, Role::weight_only, Role::dynamic}) {
    const auto has = [&](const Ability& a) { return a.role == role; };
    if (std::any_of(t.abilities.begin(), t.abilities.end(), has)) {
      text += "- **" + std::string(word_of(role)) + "**: " + std::string(meaning(role)) + "\n";
    }
  }
  return text;
}

/// Why assign_formats does not take `method` for this target; empty: it does.
std::string_view refusal(const Target& t, std::string_view method) {
  for (const auto& [refused, why] : t.refused_methods) {
    if (refused == method) return why;
  }
  return "";
}

std::string method_table(const Target& t) {
  std::vector<markdown::Row> rows;
  for (const std::string_view method : {"static", "dynamic", "weights"}) {
    const std::string why(refusal(t, method));
    rows.push_back({markdown::code(method), why.empty() ? "yes" : "no: " + markdown::cell(why)});
  }
  return markdown::table({"method", "taken"}, rows);
}

class Targets final : public Command {
  std::string name_;
  bool markdown_ = false;

 public:
  void arguments(Arguments& a) override {
    a.positional("TARGET", name_, "target to tell about: what it runs in low precision (default: all, one line each)")
        .required = false;
    a.flag("--markdown", markdown_, "the page of the documentation about TARGET");
  }

  void run(Console& console) override {
    if (markdown_) {
      if (name_.empty()) throw Error(Code::usage, "--markdown is the page of one target, and none is named");
      return console.print(target_markdown(backend_named(name_)));
    }
    if (!name_.empty()) {
      const BackendDef& def = backend_named(name_);
      console.print(details_of(def));
      return console.result(json_of(def));
    }
    Table table({"target", "runtime", "what it is"});
    table.left(1).left(2);
    Json list = Json::array();
    for (const BackendDef* def : backends()) {
      const Target t = def->target();
      table.row({std::string(def->name), t.runtime + " " + t.version, std::string(def->summary)});
      list.push(json_of(*def));
    }
    console.print(table.text());
    Json report = Json::object();
    console.result(report.set("schema", "qtool.target_list/1").set("targets", std::move(list)));
  }
};

}  // namespace

std::string target_markdown(const BackendDef& def) {
  const Target t = def.target();
  const std::string name(def.name);
  const bool integer = refusal(t, "static").empty();
  std::string text = "# " + name + "\n\nWritten by `qtool targets " + name + " --markdown`: do not edit.\n\n";
  text += markdown::sentence(def.summary) + "\n\n";
  std::vector<markdown::Row> facts{{"runtime", t.runtime + " " + t.version}, {"processor", t.instruction_set}};
  facts.push_back({"operator set", "ai.onnx up to " + std::to_string(t.max_opset)});
  facts.push_back({"IR version", "up to " + std::to_string(t.max_ir)});
  facts.push_back({"other domains", t.domains.empty() ? "none" : joined(t.domains)});
  facts.push_back({"speed", t.costs.empty() ? "not estimated; `only_faster` changes nothing"
                                            : "estimated from rates of the kernels; see `only_faster`"});
  text += markdown::table({"", ""}, facts) + "\n" + std::string(def.evidence) + "\n\n## Use\n\n```sh\n";
  text += "qtool quantize samples/models/digits_" +
          std::string(integer ? "cnn.onnx --recipe int8_static" : "transformer.onnx --recipe int4_weights") +
          " --target " + name + " \\\n    " + (integer ? "--calib samples/data/digits_calib.npz " : "") +
          "--eval samples/data/digits_eval.npz -o " + name + ".onnx\n```\n\n";
  text +=
      "`--target` goes before the `target:` of the recipe. Results are computed by qtool itself, which reproduces "
      "how\nthe runtime computes; the runtime is not needed.\n\n";
  text += "## Methods of assign_formats\n\n" + method_table(t) + "\n";
  text += "## What runs in low precision\n\n" + roles_of(t) + "\n" + ability_table(t) + "\n";
  text += "Every other operator stays float; the report tells each node with the reason.\n\n## Options of `emit:`\n\n";
  const std::unique_ptr<Emitter> emitter = def.make();
  return text + markdown::knob_table(describe_knobs([&](Options& o) { emitter->options(o); }), "option");
}

constinit const CommandDef command::targets{"targets",
                                            "list the runtimes to quantize for, or what one of them runs",
                                            "",
                                            "qtool targets\nqtool targets ort-cpu",
                                            false,
                                            false,
                                            make_command<Targets>};

}  // namespace qtool
