#pragma once
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <iterator>
#include <random>
#include <string>
#include <string_view>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "heed/core/errors.hpp"

namespace heed_test {

/// A folder of its own for one test, gone when the test ends.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    static std::atomic<unsigned> count = 0;
    std::random_device seed;
    folder_ =
        std::filesystem::temp_directory_path() / ("heed_io_" + std::to_string(seed()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(folder_);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  /// Writes `bytes` to a file and returns its path.
  std::string file(const std::string& name, std::string_view bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
    return path(name);
  }

 private:
  std::filesystem::path folder_;
};

inline std::string bytes_of_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// The message of the Error that `action` throws; "" where it throws nothing.
template <class Error>
std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

/// Holds where `message` is one line that names `path` and contains `part`.
inline ::testing::AssertionResult complains(const std::string& message, const std::string& path,
                                            const std::string& part) {
  const bool one_line = message.find('\n') == std::string::npos;
  if (one_line && message.starts_with("heed: " + path + ": ") && message.find(part) != std::string::npos) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "message \"" << message << "\" must be one line, name " << path
                                       << " and say \"" << part << '"';
}

/// Checks that a reader refuses what is no regular file and does not wait for the writer of a pipe. `message_of(path)`
/// is what reading `path` says.
inline void expect_only_regular_files(const std::function<std::string(const std::string&)>& message_of) {
  const TemporaryFolder folder;
  const auto directory = folder.path(".");
  EXPECT_TRUE(complains(message_of(directory), directory, "path is a directory but must be a regular file"));
  EXPECT_TRUE(complains(message_of("/dev/zero"), "/dev/zero", "path is a device but must be a regular file"));
  const auto pipe = folder.path("pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  auto message = std::async(std::launch::async, message_of, pipe);
  if (message.wait_for(std::chrono::seconds(20)) != std::future_status::ready) {
    ADD_FAILURE() << "the reader waits for somebody to write into " << pipe;
    std::ofstream(pipe) << "";  // lets it go
  }
  EXPECT_TRUE(complains(message.get(), pipe, "path is a pipe but must be a regular file"));
}

}  // namespace heed_test
