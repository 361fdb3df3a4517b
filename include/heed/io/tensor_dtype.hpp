#pragma once
#include "heed/core/macros_away.inl"

#include <array>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <Eigen/Core>

namespace heed {

/// The element types that heed reads and writes. A tensor of any other type is refused, not guessed at.
enum class TensorDtype : std::uint8_t { f64, f32, f16, bf16, i64, i32, u8, boolean };

namespace detail {

struct DtypeRow {
  TensorDtype dtype;
  std::size_t bytes;
  std::string_view safetensors;  // as a .safetensors header names it
  std::string_view npy;          // as a .npy header names it; empty where numpy has no such type
};

inline constexpr std::array<DtypeRow, 8> dtype_rows = {{
    {TensorDtype::f64, 8, "F64", "<f8"},
    {TensorDtype::f32, 4, "F32", "<f4"},
    {TensorDtype::f16, 2, "F16", "<f2"},
    {TensorDtype::bf16, 2, "BF16", ""},
    {TensorDtype::i64, 8, "I64", "<i8"},
    {TensorDtype::i32, 4, "I32", "<i4"},
    {TensorDtype::u8, 1, "U8", "|u1"},
    {TensorDtype::boolean, 1, "BOOL", "|b1"},
}};

constexpr const DtypeRow& row_of(TensorDtype dtype) {
  const auto place = static_cast<std::size_t>(dtype);
  assert(place < dtype_rows.size());
  return dtype_rows[place];
}

/// The dtype whose `column` (safetensors or npy name) is `name`; nullopt where heed reads no such type.
constexpr std::optional<TensorDtype> dtype_named(std::string_view name, std::string_view DtypeRow::*column) {
  for (const DtypeRow& row : dtype_rows) {
    if (!name.empty() && row.*column == name) return row.dtype;
  }
  return std::nullopt;
}

/// "F64, F32, ..." for messages.
inline std::string dtype_list(std::string_view DtypeRow::*column) {
  std::string list;
  for (const DtypeRow& row : dtype_rows) {
    if ((row.*column).empty()) continue;
    if (!list.empty()) list += ", ";
    list += row.*column;
  }
  return list;
}

}  // namespace detail

/// Bytes of one element.
constexpr std::size_t bytes_of(TensorDtype dtype) { return detail::row_of(dtype).bytes; }

/// The name safetensors gives it, which is also the one messages use: "F32", "BF16", "BOOL".
constexpr std::string_view name_of(TensorDtype dtype) { return detail::row_of(dtype).safetensors; }

/// The scalars that have a dtype of their own, bit for bit.
template <class S>
concept StoredScalar = std::same_as<S, double> || std::same_as<S, float> || std::same_as<S, Eigen::half> ||
    std::same_as<S, Eigen::bfloat16> || std::same_as<S, std::int64_t> || std::same_as<S, std::int32_t> ||
    std::same_as<S, std::uint8_t> || std::same_as<S, bool>;

/// The dtype of scalar S.
template <StoredScalar S>
constexpr TensorDtype tensor_dtype_of() {
  if constexpr (std::same_as<S, double>) return TensorDtype::f64;
  if constexpr (std::same_as<S, float>) return TensorDtype::f32;
  if constexpr (std::same_as<S, Eigen::half>) return TensorDtype::f16;
  if constexpr (std::same_as<S, Eigen::bfloat16>) return TensorDtype::bf16;
  if constexpr (std::same_as<S, std::int64_t>) return TensorDtype::i64;
  if constexpr (std::same_as<S, std::int32_t>) return TensorDtype::i32;
  if constexpr (std::same_as<S, std::uint8_t>) return TensorDtype::u8;
  if constexpr (std::same_as<S, bool>) return TensorDtype::boolean;
}

static_assert(tensor_dtype_of<float>() == TensorDtype::f32 && bytes_of(tensor_dtype_of<Eigen::bfloat16>()) == 2);

}  // namespace heed

#include "heed/core/macros_back.inl"
