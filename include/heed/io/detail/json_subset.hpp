#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "heed/core/types.hpp"
#include "heed/io/detail/header_text.hpp"

namespace heed::detail {

inline void append_utf8(std::string& text, std::uint32_t code) {
  const auto tail = [&](int shift) { text += static_cast<char>(0x80 | (code >> shift & 0x3f)); };
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += static_cast<char>(0xc0 | code >> 6);
    tail(0);
  } else if (code < 0x10000) {
    text += static_cast<char>(0xe0 | code >> 12);
    tail(6), tail(0);
  } else {
    text += static_cast<char>(0xf0 | code >> 18);
    tail(12), tail(6), tail(0);
  }
}

/// Whether `text` is UTF-8: no stray, missing or overlong bytes, no surrogates, nothing past U+10FFFF.
inline bool is_utf8(std::string_view text) {
  constexpr std::uint32_t smallest[] = {0, 0x80, 0x800, 0x10000};  // by number of continuation bytes
  for (std::size_t at = 0; at < text.size();) {
    const auto lead = static_cast<unsigned char>(text[at++]);
    const std::size_t more = lead < 0x80 ? 0 : lead >> 5 == 6 ? 1 : lead >> 4 == 14 ? 2 : lead >> 3 == 30 ? 3 : 4;
    if (more > 3 || text.size() - at < more) return false;
    std::uint32_t code = more == 0 ? lead : lead & (0x3fU >> more);
    for (std::size_t i = 0; i < more; ++i) {
      const auto byte = static_cast<unsigned char>(text[at++]);
      if (byte >> 6 != 2) return false;
      code = code << 6 | (byte & 0x3fU);
    }
    if (code < smallest[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
  }
  return true;
}

inline std::uint32_t json_hex(HeaderText& header) {
  std::uint32_t code = 0;
  for (int i = 0; i < 4; ++i) {
    constexpr std::string_view digits = "0123456789abcdef";
    const char c = header.next("a hexadecimal digit");
    const std::size_t digit = digits.find(c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c);
    if (digit == std::string_view::npos)
      header.refuse_here("the end of a string whose \\u has four hexadecimal digits");
    code = code << 4 | static_cast<std::uint32_t>(digit);
  }
  return code;
}

inline void json_escape(HeaderText& header, std::string& text) {
  constexpr std::string_view names = "\"\\/bfnrt";
  constexpr std::string_view values = "\"\\/\b\f\n\r\t";
  const char c = header.next("an escaped character");
  if (const std::size_t at = names.find(c); at != std::string_view::npos) {
    text += values[at];
    return;
  }
  if (c != 'u') header.refuse("header has escape " + in_quotes(std::string("\\") + c) + " but must be one of JSON's");
  std::uint32_t code = json_hex(header);
  if (code >= 0xd800 && code < 0xdc00) {  // the first half of a pair
    const bool second = header.next("\\u") == '\\' && header.next("u") == 'u';
    const std::uint32_t low = second ? json_hex(header) : 0;
    if (low < 0xdc00 || low >= 0xe000) header.refuse("header has half a surrogate pair but must have both");
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  } else if (code >= 0xdc00 && code < 0xe000) {
    header.refuse("header has half a surrogate pair but must have both");
  }
  append_utf8(text, code);
}

/// A JSON string, escapes resolved.
inline std::string json_string(HeaderText& header, std::string_view what) {
  header.expect('"', std::string(what) + ", a string");
  std::string text;
  for (char c = header.next("a closing quote"); c != '"'; c = header.next("a closing quote")) {
    if (static_cast<unsigned char>(c) < 0x20) header.refuse_here("the end of a string without control characters");
    if (c == '\\') {
      json_escape(header, text);
    } else {
      text += c;
    }
  }
  return text;
}

/// An array of whole numbers.
inline std::vector<Index> json_numbers(HeaderText& header, std::string_view what) {
  std::vector<Index> numbers;
  header.expect('[', std::string(what) + ", an array");
  if (header.take(']')) return numbers;
  do {
    numbers.push_back(header.whole_number(what));
  } while (header.take(','));
  header.expect(']', "',' or ']' in " + std::string(what));
  return numbers;
}

/// Reads { "key": value, ... }: calls `value(key)` with the reading position behind each colon.
template <class ReadValue>
void json_object(HeaderText& header, std::string_view what, ReadValue value) {
  header.expect('{', std::string(what) + ", an object");
  if (header.take('}')) return;
  do {
    const std::string key = json_string(header, "a key of " + std::string(what));
    header.expect(':', "':' after a key");
    value(key);
  } while (header.take(','));
  header.expect('}', "',' or '}' in " + std::string(what));
}

/// `text` as a JSON string.
inline std::string to_json(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string json = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      json += '\\';
      json += c;
    } else if (byte < 0x20) {
      json += "\\u00";
      json += digits[byte >> 4];
      json += digits[byte & 15];
    } else {
      json += c;
    }
  }
  return json + '"';
}

}  // namespace heed::detail
