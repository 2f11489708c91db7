// SPDX-License-Identifier: Apache-2.0
#include "formats/base/journal.h"

namespace qtool {

void Journal::fact(std::string_view kind, Json object) {
  object.set("kind", std::string(kind));
  const std::lock_guard lock(mutex_);
  if (on_fact_) on_fact_(object);
  facts_.push_back(std::move(object));
}

void Journal::skip(std::string_view pass, std::string_view node, std::string_view why) {
  Json fact = Json::object();
  fact.set("pass", std::string(pass));
  fact.set("node", std::string(node));
  fact.set("why", std::string(why));
  this->fact("skip", std::move(fact));
}

void Journal::warn(std::string_view where, std::string_view text) {
  Json fact = Json::object();
  fact.set("where", std::string(where));
  fact.set("text", std::string(text));
  this->fact("warning", std::move(fact));
}

}  // namespace qtool
