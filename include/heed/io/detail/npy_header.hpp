#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "heed/core/types.hpp"
#include "heed/io/detail/header_text.hpp"
#include "heed/io/tensor_dtype.hpp"

namespace heed::detail {

struct NpyHeader {
  TensorDtype dtype = TensorDtype::f32;
  bool fortran_order = false;
  std::vector<Index> shape;
};

inline std::string npy_string(HeaderText& header, std::string_view what) {
  const char quote = header.take('\'') ? '\'' : header.take('"') ? '"' : '\0';
  if (quote == '\0') header.refuse_here(std::string(what) + " in quotes");
  std::string text;
  for (char c = header.next("a closing quote"); c != quote; c = header.next("a closing quote")) {
    if (c == '\\') header.refuse_here("a string without escapes");
    text += c;
  }
  return text;
}

inline TensorDtype npy_dtype(HeaderText& header) {
  if (header.peek() == '[') header.refuse("descr is a list of fields but must be one of " + dtype_list(&DtypeRow::npy));
  const std::string descr = npy_string(header, "descr");
  const auto dtype = dtype_named(descr, &DtypeRow::npy);
  if (dtype) return *dtype;
  std::string why;
  if (descr.starts_with('>')) why = " (it is big-endian: write it little-endian)";
  if (descr.ends_with("V2")) why = " (npy has no bfloat16: write float32, or a .safetensors file)";
  header.refuse("descr is " + in_quotes(descr) + " but must be one of " + dtype_list(&DtypeRow::npy) + why);
}

/// Reads {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }: the three keys in any order, once each, and
/// spaces.
inline NpyHeader parse_npy_header(const std::string& path, std::string_view text) {
  HeaderText header(path, text);
  std::optional<TensorDtype> dtype;
  std::optional<bool> fortran_order;
  std::optional<std::vector<Index>> shape;
  header.expect('{', "'{', the start of a Python dict");
  while (!header.take('}')) {
    const std::string key = npy_string(header, "a key");
    header.expect(':', "':' after a key");
    if (key == "descr" && !dtype) {
      dtype = npy_dtype(header);
    } else if (key == "fortran_order" && !fortran_order) {
      const bool yes = header.take("True");
      if (!yes && !header.take("False")) header.refuse_here("fortran_order, True or False");
      fortran_order = yes;
    } else if (key == "shape" && !shape) {
      shape.emplace();
      header.expect('(', "'(', the start of shape");
      while (!header.take(')')) {
        shape->push_back(header.whole_number("a size in shape"));
        if (!header.take(',') && (header.peek() != ')' || shape->size() == 1)) header.refuse_here("',' in shape");
      }
    } else {
      header.refuse("header key is " + in_quotes(key) + " but must be descr, fortran_order or shape, once each");
    }
    if (!header.take(',') && header.peek() != '}') header.refuse_here("',' or '}' after a value");
  }
  header.skip_spaces();
  if (!header.at_end()) header.refuse_here("its end after '}'");
  if (!dtype || !fortran_order || !shape) {
    header.refuse(std::string("header key ") +
                  (!dtype   ? "descr"
                   : !shape ? "shape"
                            : "fortran_order") +
                  " is missing but must be there");
  }
  return {*dtype, *fortran_order, *shape};
}

}  // namespace heed::detail
