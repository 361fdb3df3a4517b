#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "heed/core/types.hpp"
#include "heed/io/detail/file.hpp"

namespace heed::detail {

/// A reading position in the text header of a file. Only spaces are skipped. Every complaint names the file, the byte
/// of the header, what stands there and what must stand there.
class HeaderText {
 public:
  HeaderText(std::string path, std::string_view text) : path_(std::move(path)), text_(text) {}

  [[noreturn]] void refuse(const std::string& complaint) const { refuse_file(path_, complaint); }

  /// "header at byte 12 is "}" but must be `wanted`".
  [[noreturn]] void refuse_here(std::string_view wanted) const {
    refuse("header at byte " + std::to_string(at_) + " is " +
           (at_end() ? std::string("its end") : in_quotes(text_.substr(at_, 12))) + " but must be " +
           std::string(wanted));
  }

  [[nodiscard]] bool at_end() const { return at_ >= text_.size(); }

  void skip_spaces() {
    while (!at_end() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) ++at_;
  }

  /// The next byte as it is, spaces included. `wanted` names what is being read, for the complaint where there is none.
  char next(std::string_view wanted) {
    if (at_end()) refuse_here(wanted);
    return text_[at_++];
  }

  /// After spaces: the byte that stands there, 0 at the end.
  char peek() {
    skip_spaces();
    return at_end() ? '\0' : text_[at_];
  }

  /// After spaces: whether `c` stood there. If so, reading goes on behind it.
  bool take(char c) {
    skip_spaces();
    if (at_end() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  bool take(std::string_view word) {
    skip_spaces();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  void expect(char c, std::string_view wanted) {
    if (!take(c)) refuse_here(wanted);
  }

  /// A whole number from 0 to 2^63 - 1 without sign or leading zeros.
  Index whole_number(std::string_view what) {
    skip_spaces();
    const std::string_view rest = text_.substr(at_);
    const std::string_view digits = rest.substr(0, rest.find_first_not_of("0123456789"));
    if (digits.empty() || (digits.size() > 1 && digits.front() == '0')) {
      refuse_here(std::string(what) + ", a whole number >= 0");
    }
    constexpr Index most = std::numeric_limits<Index>::max();
    Index value = 0;
    for (const char c : digits) {
      const Index digit = c - '0';
      if (value > (most - digit) / 10) {
        refuse(std::string(what) + " is " + std::string(digits.substr(0, 40)) + " but must be at most " +
               std::to_string(most));
      }
      value = value * 10 + digit;
    }
    at_ += digits.size();
    return value;
  }

 private:
  std::string path_;
  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace heed::detail
