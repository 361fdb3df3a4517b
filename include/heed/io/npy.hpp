#pragma once
#include "heed/core/macros_away.inl"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "heed/core/types.hpp"
#include "heed/io/detail/file.hpp"
#include "heed/io/detail/npy_header.hpp"
#include "heed/io/detail/shape.hpp"
#include "heed/io/tensor.hpp"

namespace heed {

/// How write_npy lays out a file.
struct NpyOptions {
  int version = 1;             ///< format version written, 1, 2 or 3 (".0"); 1 is what numpy writes and all can read
  bool fortran_order = false;  ///< write the first index fastest; the array is the same
};

namespace detail {

inline constexpr std::string_view npy_magic = "\x93NUMPY";

/// Turns the bytes of an array from Fortran to C order: `shape` is the array's, `from` has its first index fastest.
/// Given the shape in reverse it turns C order into Fortran order.
inline void reverse_axes(std::span<const Index> shape, std::size_t item, std::span<const std::byte> from,
                         std::span<std::byte> into) {
  std::vector<std::size_t> stride(shape.size(), item);  // bytes between neighbours of an axis in `from`
  for (std::size_t axis = 1; axis < shape.size(); ++axis) {
    stride[axis] = stride[axis - 1] * static_cast<std::size_t>(shape[axis - 1]);
  }
  std::vector<Index> index(shape.size(), 0);
  std::size_t source = 0;
  for (std::size_t at = 0; at < into.size(); at += item) {
    std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(source), item,
                into.begin() + static_cast<std::ptrdiff_t>(at));
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      source += stride[axis];
      if (++index[axis] < shape[axis]) break;
      source -= stride[axis] * static_cast<std::size_t>(shape[axis]);
      index[axis] = 0;
    }
  }
}

}  // namespace detail

/// Reads one numpy array: format 1.0, 2.0 or 3.0, C or Fortran order, little-endian f8, f4, f2, i8, i4, u1 or b1.
///
/// Shapes  as the file says; the tensor is in C order whatever the file is in.
/// Errors  FormatError naming the file, the field, its value and what it must be: not a regular file, too small, magic,
///         version, header length, header syntax, descr (big-endian and bfloat16 are named), a shape whose product
///         overflows, data shorter or longer than shape and descr say. Checked in this order, before the data are
///         allocated.
/// Cost    one read of the file; Fortran order takes a second pass.
/// Threads re-entrant.
/// Source  numpy.lib.format, "NPY format".
[[nodiscard]] inline Tensor read_npy(const std::string& path) {
  detail::InputFile file(path);
  const auto number = [](std::uint64_t n) { return std::to_string(n); };
  constexpr std::uint64_t most_header = 1 << 20;  // numpy itself stops at 10,000
  if (file.size() < 10) file.refuse("file size is " + number(file.size()) + " bytes but must be at least 10");
  const std::string start = file.read_text(0, std::min<std::uint64_t>(file.size(), 12));
  if (!start.starts_with(detail::npy_magic)) {
    file.refuse("magic is " + detail::in_quotes(start.substr(0, 6)) + " but must be " +
                detail::in_quotes(detail::npy_magic));
  }
  const int major = static_cast<unsigned char>(start[6]);
  const int minor = static_cast<unsigned char>(start[7]);
  if (major < 1 || major > 3 || minor != 0) {
    file.refuse("version is " + std::to_string(major) + "." + std::to_string(minor) + " but must be 1.0, 2.0 or 3.0");
  }
  const std::uint64_t text_at = major == 1 ? 10 : 12;
  if (file.size() < text_at) file.refuse("file size is " + number(file.size()) + " bytes but must be at least 12");
  const std::uint64_t text_bytes = detail::from_little_endian(std::string_view(start).substr(8, text_at - 8));
  const std::uint64_t room = std::min(file.size() - text_at, most_header);
  if (text_bytes > room) {
    file.refuse("header length is " + number(text_bytes) + " but must be at most " + number(room));
  }
  const std::string text = file.read_text(text_at, text_bytes);
  const detail::NpyHeader header = detail::parse_npy_header(path, text);
  const auto want = detail::tensor_bytes(header.shape, header.dtype);
  const std::string shape = detail::shape_text(header.shape);
  if (!want) file.refuse("shape is " + shape + " but must have a product of bytes under 2^63");
  const std::uint64_t have = file.size() - text_at - text_bytes;
  if (have != *want) {
    file.refuse("data are " + number(have) + " bytes but must be " + number(*want) + " for shape " + shape + " of " +
                std::string(name_of(header.dtype)) + (have < *want ? " (truncated)" : " (trailing bytes)"));
  }
  Tensor tensor(header.shape, header.dtype);
  file.read(text_at + text_bytes, tensor.bytes());
  if (!header.fortran_order || header.shape.size() < 2) return tensor;
  Tensor turned(header.shape, header.dtype);
  detail::reverse_axes(header.shape, bytes_of(header.dtype), tensor.bytes(), turned.bytes());
  return turned;
}

/// Writes one numpy array. Its data start at a multiple of 64 bytes, as numpy's do.
/// Errors  FormatError for BF16, which npy cannot say, or where the file cannot be written; OptionError for another
///         version. Everything but a full disk is known before the file is touched.
inline void write_npy(const std::string& path, const Tensor& tensor, const NpyOptions& options = {}) {
  if (options.version < 1 || options.version > 3) {
    throw OptionError("heed: NpyOptions::version = " + std::to_string(options.version) + " must be 1, 2 or 3");
  }
  const std::string_view descr = detail::row_of(tensor.dtype()).npy;
  if (descr.empty()) {
    detail::refuse_file(path, "dtype is " + std::string(name_of(tensor.dtype())) + " but must be one of " +
                                  detail::dtype_list(&detail::DtypeRow::npy) +
                                  " (npy has no bfloat16: write float32, or a .safetensors file)");
  }
  std::string text = "{'descr': '" + std::string(descr) +
                     "', 'fortran_order': " + (options.fortran_order ? "True" : "False") +
                     ", 'shape': " + detail::shape_text(tensor.shape(), tensor.shape().size()) + ", }";
  const std::size_t length_bytes = options.version == 1 ? 2 : 4;
  const std::size_t before_text = detail::npy_magic.size() + 2 + length_bytes;
  if (options.version == 1 && text.size() > 65'000) {
    throw OptionError("heed: NpyOptions::version = 1 must be 2 or 3 for a header of " + std::to_string(text.size()) +
                      " bytes");
  }
  text.append(63 - (before_text + text.size()) % 64, ' ');
  text += '\n';
  detail::OutputFile file(path);
  file.write(detail::npy_magic);
  file.write(detail::little_endian(static_cast<std::uint64_t>(options.version), 2));
  file.write(detail::little_endian(text.size(), static_cast<int>(length_bytes)));
  file.write(text);
  if (options.fortran_order && tensor.rank() > 1) {
    const std::vector<Index> reversed(tensor.shape().rbegin(), tensor.shape().rend());
    std::vector<std::byte> turned(tensor.bytes().size());
    detail::reverse_axes(reversed, bytes_of(tensor.dtype()), tensor.bytes(), turned);
    file.write(turned);
  } else {
    file.write(tensor.bytes());
  }
  file.close();
}

}  // namespace heed

#include "heed/core/macros_back.inl"
