#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "heed/core/errors.hpp"

namespace heed::detail {

/// `text` in double quotes, fit for one line of a message: bytes outside printable ASCII become \xNN, and what is
/// behind byte 60 is cut off.
inline std::string in_quotes(std::string_view text) {
  constexpr std::size_t longest = 60;
  constexpr std::string_view digits = "0123456789abcdef";
  std::string shown = "\"";
  for (const char c : text.substr(0, longest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      shown += c;
    } else {
      shown += "\\x";
      shown += digits[byte >> 4];
      shown += digits[byte & 15];
    }
  }
  return shown + (text.size() > longest ? "...\"" : "\"");
}

[[noreturn]] inline void refuse_file(const std::string& path, const std::string& complaint) {
  throw FormatError("heed: " + path + ": " + complaint);
}

/// What a path leads to, for a message: "a pipe"; empty for a regular file, and for a path that leads nowhere.
inline std::string_view other_kind(const std::string& path) {
  std::error_code failure;  // one that cannot be looked at cannot be opened either, which is said then
  switch (std::filesystem::status(path, failure).type()) {
    case std::filesystem::file_type::directory: return "a directory";
    case std::filesystem::file_type::fifo: return "a pipe";
    case std::filesystem::file_type::socket: return "a socket";
    case std::filesystem::file_type::character:
    case std::filesystem::file_type::block: return "a device";
    default: return "";
  }
}

/// A file opened for reading whose size is known before a byte of it is trusted.
/// Errors  FormatError where it cannot be opened, is no regular file, or a read ends early. A pipe is refused before it
///         is opened: opening it would wait for a writer.
class InputFile {
 public:
  explicit InputFile(std::string path) : path_(std::move(path)) {
    if constexpr (std::endian::native != std::endian::little)
      refuse("this machine is big-endian but must be little-endian");
    if (const std::string_view kind = other_kind(path_); !kind.empty())
      refuse("path is " + std::string(kind) + " but must be a regular file");
    stream_.open(path_, std::ios::binary | std::ios::ate);
    if (!stream_) refuse("file cannot be opened but must be there and readable");
    const std::streamoff end = stream_.tellg();
    if (end < 0) refuse("path has no size but must be a regular file");
    size_ = static_cast<std::uint64_t>(end);
  }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::uint64_t size() const { return size_; }

  /// Fills `into` from byte `offset` on.
  void read(std::uint64_t offset, std::span<std::byte> into) {
    if (into.empty()) return;
    stream_.seekg(static_cast<std::streamoff>(offset));
    stream_.read(reinterpret_cast<char*>(into.data()), static_cast<std::streamsize>(into.size()));
    if (!stream_) {
      refuse("read of " + std::to_string(into.size()) + " bytes at byte " + std::to_string(offset) +
             " ended early but must be whole");
    }
  }

  [[nodiscard]] std::string read_text(std::uint64_t offset, std::size_t bytes) {
    std::string text(bytes, '\0');
    read(offset, std::as_writable_bytes(std::span<char>(text)));
    return text;
  }

  /// Throws FormatError("heed: PATH: complaint").
  [[noreturn]] void refuse(const std::string& complaint) const { refuse_file(path_, complaint); }

 private:
  std::string path_;
  std::ifstream stream_;
  std::uint64_t size_ = 0;
};

/// A file written from its start. `close()` reports the failures that buffering hid, above all a full disk.
class OutputFile {
 public:
  explicit OutputFile(std::string path) : path_(std::move(path)), stream_(path_, std::ios::binary | std::ios::trunc) {
    if (!stream_) refuse_file(path_, "file cannot be opened but must be writable");
  }
  void write(std::span<const std::byte> bytes) {
    stream_.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  void write(std::string_view text) { write(std::as_bytes(std::span<const char>(text))); }
  void close() {
    stream_.close();
    if (!stream_) refuse_file(path_, "file was not written whole but must be; is the disk full?");
  }

 private:
  std::string path_;
  std::ofstream stream_;
};

/// `bytes` lowest bytes of `value`, lowest first: how both formats write a length.
inline std::string little_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i, value >>= 8) text += static_cast<char>(value & 0xff);
  return text;
}

inline std::uint64_t from_little_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

}  // namespace heed::detail
