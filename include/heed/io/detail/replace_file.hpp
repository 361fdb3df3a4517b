#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#if __has_include(<unistd.h>) && __has_include(<fcntl.h>)
#include <fcntl.h>
#include <unistd.h>
#endif

#include "heed/io/detail/file.hpp"

namespace heed::detail {

/// Waits until what was written to a file, or the names in a folder, are on the disk; false where that fails. It does
/// nothing where the system has no fsync.
inline bool flush_to_disk(const std::string& path) {
#ifdef _POSIX_VERSION
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool flushed = ::fsync(file) == 0;
  return ::close(file) == 0 && flushed;
#else
  (void)path;
  return true;
#endif
}

/// Replaces a file as a whole: write("<path>.new") makes a file beside it, which is flushed to the disk and then takes
/// the name. Whoever opens `path` at any moment, also after a crash, finds the old file or the new one, whole.
/// Errors  FormatError for a path that is no regular file, an unwritable folder, and a full disk; what write throws.
///         The old file then stays as it was, and the new one is removed.
/// Threads one caller a path at a time: the name of the new file is always the same, so that a killed program leaves at
///         most one behind, which the next call overwrites.
template <class Write>
void replace_file(const std::string& path, const Write& write) {
  const std::string fresh = path + ".new";
  for (const std::string& name : {path, fresh}) {
    if (const std::string_view kind = other_kind(name); !kind.empty())
      refuse_file(name, "path is " + std::string(kind) + " but must be a regular file, or free");
  }
  std::error_code failure;
  try {
    write(fresh);
    if (!flush_to_disk(fresh)) refuse_file(fresh, "file was not flushed to the disk but must be; is the disk full?");
    std::filesystem::rename(fresh, path, failure);
    if (failure) refuse_file(path, "file cannot be replaced by " + fresh + ": " + failure.message());
  } catch (...) {
    std::filesystem::remove(fresh, failure);
    throw;
  }
  const std::string folder = std::filesystem::path(path).parent_path().string();
  flush_to_disk(folder.empty() ? "." : folder);  // some file systems flush names by themselves and refuse to be asked
}

}  // namespace heed::detail
