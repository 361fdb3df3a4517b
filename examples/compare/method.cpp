#include "method.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

#include <heed/core/errors.hpp>

namespace compare {
namespace {

// A function's static: ready whichever file registers first.
std::vector<Method>& methods() {
  static std::vector<Method> list;
  return list;
}

std::string names_of(const std::vector<Method>& list) {
  std::string names;
  for (const Method& method : list) names += (names.empty() ? "" : ", ") + method.name;
  return names;
}

}  // namespace

Registration::Registration(Method method) {
  auto& list = methods();
  const auto key = [](const Method& m) { return std::tuple(m.name != "exact", m.family, m.name); };
  const auto place = std::upper_bound(list.begin(), list.end(), method,
                                      [&](const Method& a, const Method& b) { return key(a) < key(b); });
  list.insert(place, std::move(method));
}

const std::vector<Method>& all_methods() { return methods(); }

std::string name_of(Family family) {
  switch (family) {
    case Family::exact: return "exact";
    case Family::near: return "near";
    case Family::trees: return "trees";
    case Family::values: return "values";
    case Family::all: return "no pairs";
    case Family::within: return "within";
  }
  return "";
}

std::string name_of(Needs needs) {
  switch (needs) {
    case Needs::nothing: return "";
    case Needs::projection: return "x and w_v";
    case Needs::tf_tree: return "tree_planes and tree_biases, without level_logits";
    case Needs::tc_tree: return "tree_planes, tree_biases and level_logits";
  }
  return "";
}

bool has(const Inputs& inputs, Needs needs) {
  const Head& head = inputs.heads.front();
  switch (needs) {
    case Needs::nothing: return true;
    case Needs::projection: return inputs.has_x();
    case Needs::tf_tree: return head.tree_planes != nullptr && head.level_logits == nullptr;
    case Needs::tc_tree: return head.level_logits != nullptr;
  }
  return false;
}

bool runs_in(const Method& method, bool decodes) {
  return method.runs == Runs::both || (method.runs == Runs::decoding) == decodes;
}

std::vector<Method> chosen_methods(const std::vector<std::string>& names, const Inputs& inputs, bool decodes) {
  const bool all = names == std::vector<std::string>{"all"};
  for (const std::string& name : names) {
    if (all) break;
    const auto found =
        std::find_if(methods().begin(), methods().end(), [&](const Method& m) { return m.name == name; });
    if (found == methods().end()) {
      throw heed::OptionError("heed: --methods has " + name + " but must have all, or names among " +
                              names_of(methods()));
    }
    if (!runs_in(*found, decodes)) {
      throw heed::OptionError("heed: --methods has " + name + ", which runs " + (decodes ? "without" : "with") +
                              " --decode only");
    }
    if (!has(inputs, found->needs)) {
      throw heed::OptionError("heed: --methods has " + name + ", which needs " + name_of(found->needs) +
                              ", but the data have none");
    }
  }
  std::vector<Method> chosen;
  for (const Method& method : methods()) {
    const bool named = std::find(names.begin(), names.end(), method.name) != names.end() || method.name == "exact";
    const bool possible = has(inputs, method.needs) && runs_in(method, decodes);
    const bool wanted = all || (names.empty() && (method.by_default || decodes));
    if (named || (wanted && possible)) chosen.push_back(method);
  }
  return chosen;
}

}  // namespace compare
