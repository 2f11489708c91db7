// SPDX-License-Identifier: Apache-2.0
#include "passes/pass.h"

#include "cli/catalogue.h"
#include "cli/command.h"
#include "cli/text.h"
#include "formats/base/error.h"
#include "recipes/reader/bind.h"

namespace qtool {
namespace {

Json knobs_of(const PassDef& def) {
  const std::unique_ptr<Pass> pass = def.make();
  return describe_knobs([&](Options& o) { pass->options(o); });
}

std::string member(const Json& object, std::string_view name) {
  const Json* value = object.find(name);
  if (!value || value->is_null()) return "";
  return value->is_string() ? value->as_string() : value->dump();
}

std::string values_of(const Json& knob) {
  if (const Json* choices = knob.find("choices")) {
    std::string text;
    for (const Json& choice : choices->as_array()) text += (text.empty() ? "" : " | ") + choice.as_string();
    return text;
  }
  const std::string low = member(knob, "lowest"), high = member(knob, "highest");
  return low.empty() && high.empty() ? member(knob, "type") : low + " .. " + high;
}

std::string details_of(const PassDef& def) {
  std::string text = std::string(def.name) + ": " + std::string(def.summary) + "\n";
  text += "effect: " + std::string(name_of(def.effect)) + (def.needs_data ? ", needs calibration data" : "") + "\n";
  if (!def.paper.empty()) text += "paper: " + std::string(def.paper) + "\n";
  const Json knobs = knobs_of(def);
  if (knobs.as_array().empty()) return text + "no knobs\n";
  Table table({"knob", "default", "values", "meaning"});
  table.left(1).left(2).left(3);
  for (const Json& knob : knobs.as_array()) {
    table.row({member(knob, "name"), member(knob, "default"), values_of(knob), member(knob, "help")});
  }
  return text + "\n" + table.text();
}

Json json_of(const PassDef& def) {
  Json object = Json::object();
  object.set("name", def.name).set("summary", def.summary).set("paper", def.paper);
  object.set("effect", name_of(def.effect)).set("revision", def.revision).set("needs_data", def.needs_data);
  return object.set("knobs", knobs_of(def));
}

class Passes final : public Command {
  std::string name_;
  bool markdown_ = false;

 public:
  void arguments(Arguments& a) override {
    Argument& name = a.positional("PASS", name_, "pass to tell about, with its knobs (default: all, one line each)");
    name.required = false;
    a.flag("--markdown", markdown_, "all passes and knobs as the page of the documentation");
  }

  void run(Console& console) override {
    if (markdown_) return console.print(passes_markdown());
    if (!name_.empty()) {
      const PassDef& def = named();
      console.print(details_of(def));
      return console.result(json_of(def));
    }
    Table table({"pass", "effect", "what it does"});
    table.left(1).left(2);
    Json list = Json::array();
    for (const PassDef* def : passes()) {
      table.row({std::string(def->name), std::string(name_of(def->effect)), std::string(def->summary)});
      list.push(json_of(*def));
    }
    console.print(table.text());
    Json report = Json::object();
    console.result(report.set("schema", "qtool.pass_list/1").set("passes", std::move(list)));
  }

 private:
  const PassDef& named() const {
    if (const PassDef* def = find_pass(name_)) return *def;
    std::vector<std::string> names;
    for (const PassDef* def : passes()) names.emplace_back(def->name);
    const std::string near = nearest(name_, names);
    throw Error(Code::usage,
                "there is no pass \"" + name_ + "\"" + (near.empty() ? "" : "; did you mean \"" + near + "\"?"),
                "`qtool passes` lists all");
  }
};

}  // namespace

constinit const CommandDef command::passes{"passes",
                                           "list the passes that a recipe can name, or tell about one and its knobs",
                                           "",
                                           "qtool passes\nqtool passes calibrate_ranges\nqtool passes --json -",
                                           false,
                                           false,
                                           make_command<Passes>};

}  // namespace qtool
