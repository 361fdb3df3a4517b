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

}  // namespace

void require_writable(const std::string& path, const std::string& option) {
  if (path.empty()) return;
  std::error_code failure;
  const bool disk = std::filesystem::is_block_file(path, failure);
  if (disk || waits_for_a_reader(path) || !std::ofstream(path, std::ios::app)) {
    throw std::runtime_error(option + " is " + path + " but must be a file that can be written");
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
