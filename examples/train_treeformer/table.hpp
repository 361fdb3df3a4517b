#pragma once
#include <string>
#include <vector>

#include "arguments.hpp"

namespace train_treeformer {

/// One line of a table: a run under several seeds.
struct TableRow {
  std::string name;
  Arguments arguments;
};

/// The rows of a named table; `given` says what they have in common: threads, the first seed, length, steps.
/// Errors  std::invalid_argument for a name that is none; the message lists those there are.
std::vector<TableRow> table_rows(const std::string& name, const Arguments& given);

/// Names and what they hold, a line each.
std::string table_names();

}  // namespace train_treeformer
