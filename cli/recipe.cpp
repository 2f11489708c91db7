// SPDX-License-Identifier: Apache-2.0
#include "recipes/reader/recipe.h"

#include "cli/command.h"
#include "cli/job.h"
#include "cli/recipe_diff.h"
#include "cli/text.h"
#include "formats/base/error.h"
#include "formats/base/file.h"

namespace qtool {
namespace {

class RecipeCommand final : public Command {
  std::string action_, name_, other_;
  std::vector<std::string> set_;

 public:
  void arguments(Arguments& a) override {
    a.positional("ACTION", action_,
                 "list: the shipped recipes; show: print one; check: read one and bind every knob; diff: hold two "
                 "against each other");
    a.positional("RECIPE", name_, "shipped recipe by name, or a YAML file (show, check, diff)").required = false;
    a.positional("OTHER", other_, "another one (diff)").required = false;
    a.option("--set", "STEP.KEY=VALUE", set_, "change one knob first (check; diff: of OTHER); may be repeated");
  }

  void run(Console& console) override {
    if (action_ == "list") return list(console);
    if (action_ != "show" && action_ != "check" && action_ != "diff") {
      const std::string near = nearest(action_, {"list", "show", "check", "diff"});
      throw Error(
          Code::usage,
          "`qtool recipe " + action_ + "`: unknown action" + (near.empty() ? "" : "; did you mean " + near + "?"),
          "actions: list, show, check, diff");
    }
    if (name_.empty()) {
      throw Error(Code::usage, "`qtool recipe " + action_ + "` needs the name or the file of a recipe",
                  "`qtool recipe list` lists the shipped ones");
    }
    if (action_ == "diff") return diff(console);
    action_ == "show" ? show(console) : check(console);
  }

 private:
  static void list(Console& console) {
    Table table({"recipe", "target", "what it does"});
    table.left(1).left(2);
    Json all = Json::array();
    for (const auto& [name, text] : shipped_recipes()) {
      const Recipe recipe = load_recipe(name);
      table.row({name, recipe.target, recipe.summary});
      Json row = Json::object();
      row.set("name", name).set("target", recipe.target).set("summary", recipe.summary);
      all.push(std::move(row));
    }
    console.print(table.text());
    Json report = Json::object();
    console.result(report.set("schema", "qtool.recipe_list/1").set("recipes", std::move(all)));
  }

  void show(Console& console) const {
    const Recipe recipe = load_recipe(name_);
    console.print(recipe.source + (recipe.source.ends_with('\n') ? "" : "\n"));
    Json object = Json::object();
    console.result(object.set("name", recipe.name).set("source", recipe.source));
  }

  void check(Console& console) const {
    const Recipe recipe = check_recipe(name_, set_);
    console.print(name_ + ": fine, " + std::to_string(recipe.steps.size()) + " steps for " + recipe.target + "\n");
    Json steps = Json::array();
    for (const Step& step : recipe.steps) {
      Json row = Json::object();
      steps.push(row.set("pass", step.pass).set("id", step.id));
    }
    Json object = Json::object();
    object.set("name", recipe.name).set("target", recipe.target).set("summary", recipe.summary);
    console.result(object.set("steps", std::move(steps)));
  }

  void diff(Console& console) const {
    if (other_.empty()) throw Error(Code::usage, "`qtool recipe diff` needs two recipes");
    const Json difference = recipe_difference(set_up_job(name_, {}, ""), set_up_job(other_, set_, ""));
    const std::string text = recipe_difference_text(difference);
    console.print(text.empty() ? "the recipes say the same\n" : text);
    console.result(difference);
    if (!text.empty()) throw Error(Code::different, name_ + " and " + other_ + " do not say the same");
  }
};

}  // namespace

constinit const CommandDef command::recipe{
    "recipe",
    "list the shipped recipes, print one, check one without a model, or compare two",
    "diff compares step by step and knob by knob, with defaults where nothing is said; it exits with 9 when the "
    "recipes do\n"
    "not say the same.",
    "qtool recipe list\nqtool recipe show int8_static > mine.yaml\nqtool recipe check mine.yaml\n"
    "qtool recipe diff int8_static mine.yaml",
    false,
    false,
    make_command<RecipeCommand>};

}  // namespace qtool
