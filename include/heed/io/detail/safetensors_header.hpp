#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "heed/core/types.hpp"
#include "heed/io/detail/json_subset.hpp"
#include "heed/io/detail/shape.hpp"
#include "heed/io/tensor_dtype.hpp"

namespace heed::detail {

/// What a .safetensors header says of one tensor; its bytes lie at [begin, end) behind the header.
struct TensorInfo {
  std::optional<TensorDtype> dtype;  ///< nullopt for a type heed does not read: such a tensor is listed, not loaded
  std::vector<Index> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::string dtype_name;  ///< as the file has it, "F32" or "F8_E4M3"
};

inline TensorInfo parse_tensor_info(HeaderText& header, const std::string& name) {
  const std::string who = "tensor " + in_quotes(name);
  std::optional<std::string> dtype_name;
  std::optional<std::vector<Index>> shape;
  std::optional<std::vector<Index>> offsets;
  json_object(header, who, [&](const std::string& key) {
    if (key == "dtype" && !dtype_name) {
      dtype_name = json_string(header, "dtype");
    } else if (key == "shape" && !shape) {
      shape = json_numbers(header, "shape");
    } else if (key == "data_offsets" && !offsets) {
      offsets = json_numbers(header, "data_offsets");
    } else {
      header.refuse(who + " key is " + in_quotes(key) + " but must be dtype, shape or data_offsets, once each");
    }
  });
  if (!dtype_name || !shape || !offsets) {
    header.refuse(who + " key " +
                  (!dtype_name ? "dtype"
                   : !shape    ? "shape"
                               : "data_offsets") +
                  " is missing but must be there");
  }
  const bool two = offsets->size() == 2 && (*offsets)[0] <= (*offsets)[1];
  const auto refuse_offsets = [&](const std::string& must) {
    header.refuse(who + " data_offsets is " + shape_text(*offsets) + " but must be two numbers" + must);
  };
  const auto dtype = dtype_named(*dtype_name, &DtypeRow::safetensors);
  if (!dtype) {  // the bytes of its shape are unknown, and it is never allocated
    if (!two) refuse_offsets(", the second not below the first");
  } else {
    const auto bytes = tensor_bytes(*shape, *dtype);
    if (!bytes) header.refuse(who + " shape is " + shape_text(*shape) + " but must have a product of bytes under 2^63");
    if (!two || static_cast<std::uint64_t>((*offsets)[1] - (*offsets)[0]) != *bytes) {
      refuse_offsets(" " + std::to_string(*bytes) + " apart, the bytes of shape " + shape_text(*shape) + " of " +
                     *dtype_name);
    }
  }
  return {dtype, std::move(*shape), static_cast<std::uint64_t>((*offsets)[0]),
          static_cast<std::uint64_t>((*offsets)[1]), std::move(*dtype_name)};
}

/// Refuses tensors that leave `data_bytes`, overlap, or leave bytes between or behind them that belong to none.
inline void check_layout(const std::string& path, const std::map<std::string, TensorInfo>& tensors,
                         std::uint64_t data_bytes) {
  std::vector<std::pair<std::string_view, const TensorInfo*>> order;
  order.reserve(tensors.size());
  for (const auto& [name, info] : tensors) order.emplace_back(name, &info);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  std::uint64_t end = 0;
  for (const auto& [name, info] : order) {
    const std::string who = "tensor " + in_quotes(name) + " data_offsets is (" + std::to_string(info->begin) + ", " +
                            std::to_string(info->end) + ") but must ";
    if (info->end > data_bytes) {
      refuse_file(path, who + "end within the " + std::to_string(data_bytes) + " bytes of data (truncated)");
    }
    if (info->begin != end) {
      refuse_file(path, who + "begin at " + std::to_string(end) + (info->begin < end ? " (overlap)" : " (hole)"));
    }
    end = info->end;
  }
  if (end != data_bytes) {
    refuse_file(path, "data are " + std::to_string(data_bytes) + " bytes but must be " + std::to_string(end) +
                          ", the end of the last tensor (trailing bytes)");
  }
}

}  // namespace heed::detail
