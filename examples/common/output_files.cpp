#include "output_files.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <system_error>

namespace common {
namespace {

// A pipe with a name would have to wait for its reader. Those under /dev (stdout, fd/63) are open already.
bool waits_for_a_reader(const std::string& path) {
  std::error_code failure;
  return std::filesystem::is_fifo(path, failure) && !path.starts_with("/dev/");
}

}  // namespace

void require_writable(const std::string& path, const std::string& option) {
  if (path.empty()) return;
  std::error_code failure;
  const bool disk = std::filesystem::is_block_file(path, failure);
  if (disk || waits_for_a_reader(path) || !std::ofstream(path, std::ios::app)) {
    throw std::runtime_error(option + " is " + path + " but must be a file that can be written");
  }
}

void require_replaceable(const std::string& path, const std::string& option) {
  if (path.empty()) return;
  const std::string beside = path + ".new";
  std::error_code failure;
  const bool was_there = std::filesystem::exists(beside, failure);
  const bool other = std::filesystem::exists(path, failure) && !std::filesystem::is_regular_file(path, failure);
  if (other || !std::ofstream(beside, std::ios::app))
    throw std::runtime_error(option + " is " + path + " but must be a file in a folder that can be written");
  if (!was_there) std::filesystem::remove(beside, failure);
}

void require_apart(const NamedFiles& inputs, const NamedFiles& outputs) {
  std::map<std::filesystem::path, const char*> options;  // by the file
  const auto place = [](const std::string& path) {
    std::error_code failure;
    return std::filesystem::weakly_canonical(std::filesystem::absolute(path), failure);
  };
  for (const auto& [option, path] : inputs) {
    if (!path.empty()) options.emplace(place(path), option);
  }
  for (const auto& [option, path] : outputs) {
    if (path.empty() || path.starts_with("/dev/")) continue;
    const auto [other, is_new] = options.emplace(place(path), option);
    if (!is_new)
      throw std::invalid_argument(std::string(other->second) + " and " + option + " are both " + path +
                                  " but must be two files");
  }
}

void write_file(const std::string& path, const std::string& text) {
  std::ofstream stream(path, std::ios::trunc);
  stream << text;
  stream.close();
  if (!stream) throw std::runtime_error(path + " was not written whole; is the disk full?");
}

std::string one_line(std::string message) {
  if (message.starts_with("heed: ")) message.erase(0, 6);
  std::replace_if(
      message.begin(), message.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  return message;
}

}  // namespace common
