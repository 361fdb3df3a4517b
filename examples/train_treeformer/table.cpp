#include "table.hpp"

#include <stdexcept>
#include <vector>

namespace train_treeformer {
namespace {

TableRow row(const std::string& name, const Arguments& given, const std::string& attention, Index heads, Index height) {
  TableRow made{name, given};
  made.arguments.table.clear();
  made.arguments.attention = attention;
  made.arguments.heads = heads;
  made.arguments.height = height;
  made.arguments.bootstrap = true;
  return made;
}

TableRow with(TableRow made, bool tied, const std::string& routing) {
  made.arguments.tied = tied;
  made.arguments.routing = routing;
  return made;
}

TableRow of_trees(TableRow made, Index trees) {
  made.arguments.trees = trees;
  return made;
}

TableRow from_the_start(TableRow made) {
  made.arguments.bootstrap = false;
  return made;
}

TableRow as_long_as_converted(TableRow made) {
  made.arguments.bootstrap = false;
  made.arguments.as_long_as_converted = true;
  return made;
}

// A projected key of Linformer is all keys at once, so that it has no causal form.
std::vector<TableRow> possible(std::vector<TableRow> rows, const Arguments& given) {
  if (given.task == "text-lm")
    std::erase_if(rows, [](const TableRow& row) { return row.arguments.attention == "linformer"; });
  return rows;
}

std::vector<TableRow> trees(const Arguments& given) {
  return {row("exact, 2 heads", given, "exact", 2, 5),
          row("tf, 2 heads, height 5", given, "tf", 2, 5),
          row("exact, 4 heads", given, "exact", 4, 5),
          row("tf, 4 heads, height 5", given, "tf", 4, 5),
          row("tf, 4 heads, height 6", given, "tf", 4, 6),
          row("tf, 4 heads, height 7", given, "tf", 4, 7),
          of_trees(row("tf, 2 heads, two trees of height 6", given, "tf", 2, 6), 2)};
}

std::vector<TableRow> gradients(const Arguments& given) {
  const Index heads = given.heads.value_or(2), height = given.height;
  return {with(row("exact, untied", given, "exact", heads, height), false, "none"),
          with(row("tf, untied, no routing gradient", given, "tf", heads, height), false, "none"),
          with(row("tf, untied, one flip", given, "tf", heads, height), false, "flip"),
          with(row("tf, untied, all leaves", given, "tf", heads, height), false, "all"),
          with(row("tf, tied, no routing gradient", given, "tf", heads, height), true, "none"),
          with(row("tf, tied, one flip", given, "tf", heads, height), true, "flip"),
          with(row("tf, tied, all leaves", given, "tf", heads, height), true, "all")};
}

std::vector<TableRow> recipes(const Arguments& given) {
  const Index heads = given.heads.value_or(2);
  std::vector<TableRow> rows;
  for (const bool tied : {false, true}) {
    const std::string projections = tied ? ", tied" : ", untied";
    rows.push_back(
        with(as_long_as_converted(row("exact" + projections, given, "exact", heads, given.height)), tied, "none"));
    for (const std::string tree : {"tf", "tc"}) {
      for (const std::string routing : {"none", "flip"}) {
        const std::string name = tree + projections + (routing == "none" ? ", no routing gradient" : "");
        const TableRow converted = with(row(name, given, tree, heads, given.height), tied, routing);
        rows.push_back(converted);
        rows.push_back(as_long_as_converted(converted));
        rows.back().name += ", from the start";
      }
    }
  }
  return rows;
}

TableRow without_window(TableRow made) {
  made.arguments.tree_window.reset();
  return made;
}

std::vector<TableRow> windows(const Arguments& given) {
  if (!given.tree_window) throw std::invalid_argument("--table windows needs --tree-window, for leaves half as large");
  const Index heads = given.heads.value_or(2), height = given.height;
  const TableRow both = row("tf, half the leaf and a window", given, "tf", heads, height + 1);
  std::vector<TableRow> rows = {as_long_as_converted(row("exact", given, "exact", heads, height)),
                                as_long_as_converted(without_window(row("tf", given, "tf", heads, height))), both,
                                as_long_as_converted(both)};
  rows.back().name += ", from the start";
  for (const char* name : {"window", "bigbird"})
    rows.push_back(as_long_as_converted(without_window(row(name, given, name, heads, height))));
  rows.push_back(as_long_as_converted(without_window(row("window, half as wide", given, "window", heads, height + 1))));
  return rows;
}

std::vector<TableRow> others(const Arguments& given) {
  return {from_the_start(row("linformer, 2 heads", given, "linformer", 2, 5)),
          from_the_start(row("performer, 2 heads", given, "performer", 2, 5)),
          from_the_start(row("bigbird, 2 heads", given, "bigbird", 2, 5)),
          from_the_start(row("window, 2 heads", given, "window", 2, 5)),
          from_the_start(row("tf from the start, 2 heads", given, "tf", 2, 5))};
}

std::vector<TableRow> methods(const Arguments& given) {
  const Index heads = given.heads.value_or(2), height = given.height;
  std::vector<TableRow> rows;
  for (const char* name : {"exact", "tf", "tc"}) rows.push_back(row(name, given, name, heads, height));
  for (const char* name : {"linformer", "performer", "bigbird", "window", "linear"})
    rows.push_back(from_the_start(row(std::string(name) + ", from the start", given, name, heads, height)));
  return possible(rows, given);
}

std::vector<TableRow> claims(const Arguments& given) {
  const Index heads = given.heads.value_or(2), height = given.height;
  return possible({row("exact", given, "exact", heads, height),
                   as_long_as_converted(row("exact, as many steps as converted", given, "exact", heads, height)),
                   row("tf", given, "tf", heads, height), row("tc", given, "tc", heads, height),
                   as_long_as_converted(row("linformer, from the start", given, "linformer", heads, height))},
                  given);
}

std::vector<TableRow> start(const Arguments& given) {
  std::vector<TableRow> rows;
  for (const char* name : {"exact", "tf", "tc", "linformer"})
    rows.push_back(from_the_start(row(name, given, name, given.heads.value_or(2), given.height)));
  return possible(rows, given);
}

struct Table {
  const char* name;
  const char* about;
  std::vector<TableRow> (*rows)(const Arguments&);
};

const Table tables[] = {
    {"trees", "exact attention, and converted trees of 2 and 4 heads and several heights", trees},
    {"gradients", "with and without the gradient of routing, keys and queries untied and tied", gradients},
    {"recipes", "TF and TC converted and from the start, with and without it, untied and tied, for any task", recipes},
    {"windows", "TF with a window beside the leaf, converted too; from the start: without one, a window alone, blocks",
     windows},
    {"others", "other methods of about equal FLOPs, from the start", others},
    {"methods", "every method at one height, for any task: TF and TC converted, the others from the start", methods},
    {"claims", "exact, TF and TC converted, Linformer from the start, all after as many steps, for any task", claims},
    {"start", "exact, TF, TC and Linformer, each from the start, after as many steps, for any task", start}};

}  // namespace

std::vector<TableRow> table_rows(const std::string& name, const Arguments& given) {
  for (const Table& table : tables) {
    if (name == table.name) return table.rows(given);
  }
  throw std::invalid_argument("--table is " + name + " but must be one of these, or list:\n" + table_names());
}

std::string table_names() {
  std::string text;
  for (const Table& table : tables) text += std::string(table.name) + "  " + table.about + "\n";
  return text;
}

}  // namespace train_treeformer
