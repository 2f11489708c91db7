// SPDX-License-Identifier: Apache-2.0
#include "formats/target.h"

#include "backends/backend.h"
#include "cli/command.h"
#include "cli/job.h"
#include "cli/text.h"
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
  object.set("name", def.name).set("summary", def.summary).set("runtime", t.runtime).set("version", t.version);
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

std::string details_of(const BackendDef& def) {
  const Target t = def.target();
  std::string text = std::string(def.name) + ": " + std::string(def.summary) + "\n";
  text += t.runtime + " " + t.version + (t.instruction_set.empty() ? "" : ", measured on " + t.instruction_set) +
          "; opset up to " + std::to_string(t.max_opset) + ", IR up to " + std::to_string(t.max_ir) + "\n\n";
  Table table({"operator", "role", "activations", "weights", "note"});
  table.left(1).left(2).left(3).left(4);
  for (const Ability& a : t.abilities) {
    const std::string op = (a.domain.empty() ? "" : std::string(a.domain) + ".") + std::string(a.op);
    std::string weights = joined(a.weight_formats);
    if (!a.groups.empty()) {
      weights += " in groups of";
      for (const std::int64_t g : a.groups) weights += " " + std::to_string(g);
    }
    table.row({op, std::string(word_of(a.role)), joined(a.activation_formats), weights, std::string(a.note)});
  }
  return text + table.text();
}

class Targets final : public Command {
  std::string name_;

 public:
  void arguments(Arguments& a) override {
    a.positional("TARGET", name_, "target to tell about: what it runs in low precision (default: all, one line each)")
        .required = false;
  }

  void run(Console& console) override {
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
    console.result(list);
  }
};

}  // namespace

constinit const CommandDef command::targets{"targets",
                                            "list the runtimes to quantize for, or what one of them runs",
                                            "",
                                            "qtool targets\nqtool targets ort-cpu",
                                            false,
                                            false,
                                            make_command<Targets>};

}  // namespace qtool
