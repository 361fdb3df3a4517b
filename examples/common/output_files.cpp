#include "output_files.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <system_error>

namespace common {
namespace {

// A pipe with a name would have to wait for its reader. Those under /dev (stdout, fd/63) are open already.
bool waits_for_a_reader(const std::string& path) {
  std::error_code failure;
  return std::filesystem::is_fifo(path, failure) && !path.starts_with("/dev/");
}

// Leaves no file behind that was not there.
bool can_be_opened(const std::string& path) {
  std::error_code failure;
  const bool was_there = std::filesystem::exists(std::filesystem::symlink_status(path, failure));
  if (!std::ofstream(path, std::ios::app)) return false;
  if (!was_there) std::filesystem::remove(path, failure);
  return true;
}

// Also where one of them is a link to the other, or both are names of one file.
bool is_one_file(const std::string& a, const std::string& b) {
  std::error_code failure;
  if (std::filesystem::equivalent(a, b, failure)) return true;
  const auto place = [&](const std::string& path) {
    return std::filesystem::weakly_canonical(std::filesystem::absolute(path), failure);
  };
  return place(a) == place(b);
}

}  // namespace

void require_writable(const std::string& path, const std::string& option) {
  if (path.empty()) return;
  std::error_code failure;
  const bool disk = std::filesystem::is_block_file(path, failure);
  if (disk || waits_for_a_reader(path) || !can_be_opened(path))
    throw std::runtime_error(option + " is " + path + " but must be a file that can be written");
}

void require_replaceable(const std::string& path, const std::string& option) {
  if (path.empty()) return;
  std::error_code failure;
  const bool other = std::filesystem::exists(path, failure) && !std::filesystem::is_regular_file(path, failure);
  if (other || !can_be_opened(path + ".new"))
    throw std::runtime_error(option + " is " + path + " but must be a file in a folder that can be written");
}

void require_apart(const NamedFiles& inputs, const NamedFiles& outputs, const NamedFiles& replaced) {
  NamedFiles seen;
  for (const auto& file : inputs) {
    if (!file.second.empty()) seen.push_back(file);
  }
  const auto add = [&](const std::string& option, const std::string& path) {
    for (const auto& [other, other_path] : seen) {
      if (is_one_file(path, other_path))
        throw std::invalid_argument(other + " and " + option + " are both " + path + " but must be two files");
    }
    seen.emplace_back(option, path);
  };
  const auto is_file = [](const std::string& path) { return !path.empty() && !path.starts_with("/dev/"); };
  for (const auto& [option, path] : outputs) {
    if (is_file(path)) add(option, path);
  }
  for (const auto& [option, path] : replaced) {
    if (!is_file(path)) continue;
    add(option, path);
    add(option + ", which is written beside its place first,", path + ".new");
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
