#pragma once
#include <string>
#include <utility>
#include <vector>

namespace common {

/// Asked before a long run, so that nothing is lost: what stands in the file stays until there is something to write,
/// and a file that is not there is not made.
/// Errors  std::runtime_error where the file cannot be written; `option` names it. An empty path is no file.
void require_writable(const std::string& path, const std::string& option);

/// The same for a file that is written beside its place as `path`.new, and then renamed: no device, no pipe.
void require_replaceable(const std::string& path, const std::string& option);

/// Options and the files they name; an empty path is no file.
using NamedFiles = std::vector<std::pair<std::string, std::string>>;

/// `replaced`: outputs that are written as `path`.new first (require_replaceable), which is then no other file either.
/// Errors  std::invalid_argument where an output is an input too, or two outputs are one file, by another name of it
///         too. Devices may be both.
void require_apart(const NamedFiles& inputs, const NamedFiles& outputs, const NamedFiles& replaced = {});

/// Errors  std::runtime_error where the text was not written whole.
void write_file(const std::string& path, const std::string& text);

/// A message of an error as one line, whatever it holds: text from a file may hold anything.
std::string one_line(std::string message);

}  // namespace common
