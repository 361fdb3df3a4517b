#pragma once
#include "heed/core/macros_away.inl"

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"
#include "heed/exact/int8_cache.hpp"
#include "heed/io/parameter_file.hpp"
#include "heed/io/safetensors.hpp"
#include "heed/io/tensor.hpp"

namespace heed {

namespace detail {
inline constexpr const char* cache_format = "heed int8 cache";
inline constexpr const char* cache_version = "1";

inline std::string part_name(Index head, const char* part) { return "head." + std::to_string(head) + "." + part; }

template <class T>
std::size_t bytes_in(const std::vector<T>& part) {
  return part.size() * sizeof(T);
}
}  // namespace detail

/// Writes an 8-bit cache as a .safetensors file: the bytes of its pages, its float tokens, and sizes with the version
/// of the format under __metadata__. What attend_within has learnt is left out.
/// Errors  FormatError where the file cannot be written; one that was there stays whole until the new one is.
/// Cost    a copy of the cache.
inline void save_cache(const std::string& path, const KeyValueCache<Int8>& cache) {
  TensorMap tensors;
  Index n_pages = 0, head = 0;
  for (const detail::Int8Head& one : cache.heads()) {
    if (cache.size() == 0) break;
    n_pages = one.n_pages();
    detail::Int8Head::visit_parts(one, [&](const char* name, const auto& part) {
      const auto* bytes = reinterpret_cast<const std::uint8_t*>(part.data());
      tensors.emplace(detail::part_name(head, name),
                      Tensor::of<std::uint8_t>({static_cast<Index>(detail::bytes_in(part))},
                                               std::span<const std::uint8_t>(bytes, detail::bytes_in(part))));
    });
    ++head;
  }
  const TextMap metadata{{"format", detail::cache_format},
                         {"version", detail::cache_version},
                         {"d", std::to_string(cache.d())},
                         {"d_v", std::to_string(cache.d_v())},
                         {"n_kv_heads", std::to_string(cache.n_kv_heads())},
                         {"size", std::to_string(cache.size())},
                         {"n_pages", std::to_string(n_pages)}};
  detail::replace_file(path, [&](const std::string& fresh) { write_safetensors(fresh, tensors, metadata); });
}

/// Reads what save_cache wrote: the same bits in every answer.
/// Errors  FormatError naming the file: as SafetensorsFile, and for another format or version, sizes that make no
///         cache, a part of another size, or numbers that are not finite.
inline KeyValueCache<Int8> load_cache(const std::string& path) {
  const SafetensorsFile file(path);
  const auto refuse = [&](const std::string& what) { throw FormatError("heed: " + path + ": " + what); };
  const auto text = [&](const char* key) {
    const auto found = file.metadata().find(key);
    return found == file.metadata().end() ? std::string() : found->second;
  };
  if (text("format") != detail::cache_format || text("version") != detail::cache_version) {
    refuse("metadata format and version are \"" + text("format") + "\" and \"" + text("version") + "\" but must be \"" +
           detail::cache_format + "\" and \"" + detail::cache_version + "\"");
  }
  const auto number = [&](const char* key, Index least, Index most) {
    const std::string digits = text(key);
    Index value = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size() || value < least || value > most) {
      refuse("metadata " + std::string(key) + " is \"" + digits + "\" but must be " + std::to_string(least) + " .. " +
             std::to_string(most));
    }
    return value;
  };
  const Index d = number("d", 1, 32768), d_v = number("d_v", 1, 32768), n_heads = number("n_kv_heads", 1, 1 << 20);
  const Index size = number("size", 0, detail::most_size);
  const Index page = detail::Int8Layout::keys, in_pages = std::max<Index>(0, size - detail::Int8Rows::n_first);
  const Index n_pages =
      number("n_pages", std::max<Index>(0, (in_pages - detail::Int8Head::most_last + page) / page), in_pages / page);
  std::vector<detail::Int8Head> heads;
  for (Index h = 0; size > 0 && h < n_heads; ++h) {
    const detail::Int8Layout layout(d, d_v);
    const Tensor near = file.load(detail::part_name(h, "near"));  // before memory of its size is asked for
    if (near.size() < n_pages * layout.near_bytes) {
      refuse("tensor " + detail::part_name(h, "near") + " has " + std::to_string(near.size()) +
             " bytes but must have " + std::to_string(n_pages * layout.near_bytes));
    }
    detail::Int8Head head(d, d_v, size, n_pages);
    detail::Int8Head::visit_parts(head, [&](const char* name, auto& part) {
      const Tensor tensor = file.load(detail::part_name(h, name));
      const std::span<const std::byte> bytes = tensor.bytes();
      if (bytes.size() != detail::bytes_in(part)) {
        refuse("tensor " + detail::part_name(h, name) + " has " + std::to_string(bytes.size()) +
               " bytes but must have " + std::to_string(detail::bytes_in(part)));
      }
      if (!bytes.empty()) std::memcpy(part.data(), bytes.data(), bytes.size());
    });
    if (!head.is_finite()) refuse("head " + std::to_string(h) + " must have finite numbers only");
    head.remake_moments();
    heads.push_back(std::move(head));
  }
  KeyValueCache<Int8> cache(d, d_v, n_heads);
  if (!heads.empty()) cache.set_heads(std::move(heads), size);
  return cache;
}

}  // namespace heed

#include "heed/core/macros_back.inl"
