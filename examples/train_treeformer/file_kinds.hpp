#pragma once
#include <string>
#include <vector>

#include <heed/core/types.hpp>

namespace train_treeformer {

/// Files of one kind, in groups by the package they came with, so that training and evaluation share no package.
struct FileKind {
  std::string name;
  std::vector<std::vector<std::string>> training, evaluation;  ///< paths by package
};

/// Files under /usr of at least `n_bytes` bytes, by kind, from the lists of packages of a Debian machine. Packages of a
/// kind, in the order of a hash of their names, are kept for evaluation until a quarter of its files is, but at most
/// half of its packages, and none with which more than half of the files would be. Kinds of fewer than 8 packages are
/// left out. A function of the machine alone.
/// Errors  std::runtime_error where there are no lists, or fewer than two kinds.
std::vector<FileKind> file_kinds(heed::Index n_bytes);

}  // namespace train_treeformer
