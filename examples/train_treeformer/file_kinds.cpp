#include "file_kinds.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <map>
#include <stdexcept>
#include <string_view>
#include <system_error>

namespace train_treeformer {
namespace {

namespace fs = std::filesystem;

struct Rule {
  const char* name;
  std::initializer_list<const char*> endings;
};

// Kinds by the ending of a file's name. Files without one are looked into: kind_by_first_bytes.
const Rule rules[] = {{"C header", {".h"}},
                      {"C++ header", {".hpp", ".hxx", ".tcc"}},
                      {"Python", {".py"}},
                      {"shell", {".sh"}},
                      {"Perl", {".pm", ".pl"}},
                      {"JavaScript", {".js"}},
                      {"style sheet", {".css"}},
                      {"JSON", {".json"}},
                      {"XML", {".xml", ".pom"}},
                      {"HTML", {".html", ".htm"}},
                      {"CMake", {".cmake"}},
                      {"Markdown", {".md"}},
                      {"reStructuredText", {".rst"}},
                      {"text", {".txt"}},
                      {"PNG", {".png"}},
                      {"SVG", {".svg"}},
                      {"gzip", {".gz"}},
                      {"zip", {".jar", ".whl", ".zip"}},
                      {"message catalogue", {".mo"}},
                      {"font", {".ttf", ".otf", ".pfb", ".pcf"}},
                      {"man page", {".1", ".2", ".3", ".5", ".7", ".8"}},
                      {"archive", {".a"}},
                      {"ELF", {".so", ".o"}}};

std::string kind_by_first_bytes(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string line(64, '\0');
  stream.read(line.data(), static_cast<std::streamsize>(line.size()));
  line.resize(static_cast<std::size_t>(stream.gcount()));
  if (line.starts_with("\x7f"
                       "ELF"))
    return "ELF";
  if (!line.starts_with("#!")) return "";
  line.resize(std::min(line.size(), line.find('\n')));
  for (const auto& [word, kind] : {std::pair("python", "Python"), {"perl", "Perl"}, {"sh", "shell"}}) {
    if (line.find(word) != std::string::npos) return kind;
  }
  return "";
}

std::string kind_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (name.find(".so.") != std::string::npos) return "ELF";
  const std::string ending = path.extension().string();
  if (ending.empty()) return kind_by_first_bytes(path);
  for (const Rule& rule : rules) {
    if (std::find(rule.endings.begin(), rule.endings.end(), ending) != rule.endings.end()) return rule.name;
  }
  return "";
}

std::uint64_t hash_of(std::string_view text) {  // FNV-1a: the same on every machine
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace

std::vector<FileKind> file_kinds(heed::Index n_bytes) {
  const fs::path lists = "/var/lib/dpkg/info";
  std::error_code failure;
  if (!fs::is_directory(lists, failure))
    throw std::runtime_error(lists.string() + " is not there: the task bytes needs a Debian machine and its files");
  // kind, hash of the package, package: paths
  std::map<std::string, std::map<std::pair<std::uint64_t, std::string>, std::vector<std::string>>> found;
  for (const auto& list : fs::directory_iterator(lists)) {
    if (list.path().extension() != ".list") continue;
    const std::string package = list.path().stem().string();
    std::ifstream stream(list.path());
    for (std::string path; std::getline(stream, path);) {
      if (!path.starts_with("/usr/")) continue;
      if (!fs::is_regular_file(fs::symlink_status(path, failure))) continue;
      const auto size = fs::file_size(path, failure);
      if (failure || size < static_cast<std::uintmax_t>(n_bytes)) continue;
      const std::string kind = kind_of(path);
      if (!kind.empty()) found[kind][{hash_of(package), package}].push_back(path);
    }
  }
  std::vector<FileKind> kinds;
  for (auto& [name, packages] : found) {
    if (packages.size() < 8) continue;
    std::size_t n_files = 0;
    for (auto& [package, paths] : packages) {
      std::sort(paths.begin(), paths.end());
      n_files += paths.size();
    }
    FileKind kind{name, {}, {}};
    std::size_t n_kept = 0;
    for (auto& [package, paths] : packages) {
      const bool wanted = 4 * n_kept < n_files && 2 * (n_kept + paths.size()) <= n_files;
      const bool kept = wanted && kind.evaluation.size() < packages.size() / 2;
      if (kept) n_kept += paths.size();
      (kept ? kind.evaluation : kind.training).push_back(std::move(paths));
    }
    if (n_kept > 0) kinds.push_back(std::move(kind));
  }
  if (kinds.size() < 2) throw std::runtime_error("fewer than two kinds of files under /usr have enough packages");
  return kinds;
}

}  // namespace train_treeformer
