#pragma once
#include "heed/core/macros_away.inl"

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "heed/core/types.hpp"
#include "heed/io/detail/file.hpp"
#include "heed/io/detail/json_subset.hpp"
#include "heed/io/detail/safetensors_header.hpp"
#include "heed/io/tensor.hpp"

namespace heed {

/// Tensors by name.
using TensorMap = std::map<std::string, Tensor>;

/// Texts by key: what a .safetensors file keeps under __metadata__.
using TextMap = std::map<std::string, std::string>;

/// What a file's header says of one tensor: dtype, shape, and the place [begin, end) of its bytes behind the header.
using TensorInfo = detail::TensorInfo;

/// The header of one .safetensors file, checked as a whole; tensors are loaded one by one, by name.
///
/// Shapes  as the file says, C order. dtypes F64, F32, F16, BF16, I64, I32, U8, BOOL; a tensor of another dtype is
///         listed like its neighbours and refused when it is loaded.
/// Errors  FormatError naming the file, the tensor, the field, its value and what it must be: not a regular file, too
///         small, header length, header syntax (a strict reading of the JSON the format uses: duplicate, unknown and
///         missing keys are refused), shape product, data_offsets, truncated, overlap, hole, trailing bytes. Checked in
///         this order; nothing of a tensor's size is allocated before `load`. Of a dtype that is not read the bytes
///         cannot be held against the shape; everything else is checked.
/// Cost    the constructor reads the header alone; load reads one tensor.
/// Threads const and re-entrant: load opens the file anew.
/// Source  huggingface/safetensors, README "Format".
class SafetensorsFile {
 public:
  explicit SafetensorsFile(std::string path) : path_(std::move(path)) {
    constexpr std::uint64_t most_header = 100'000'000;  // as the reference implementation
    detail::InputFile file(path_);
    file_bytes_ = file.size();
    if (file_bytes_ < 8) file.refuse("file size is " + std::to_string(file_bytes_) + " bytes but must be at least 8");
    const std::uint64_t length = detail::from_little_endian(file.read_text(0, 8));
    const std::uint64_t room = std::min(file_bytes_ - 8, most_header);
    if (length > room) {
      file.refuse("header length is " + std::to_string(length) + " but must be at most " + std::to_string(room));
    }
    data_at_ = 8 + length;
    const std::string text = file.read_text(8, length);
    parse(text);
    detail::check_layout(path_, tensors_, file_bytes_ - data_at_);
  }

  SafetensorsFile(const SafetensorsFile&) = default;
  SafetensorsFile(SafetensorsFile&&) = default;
  /// By value: where copying throws, it stays what it was.
  SafetensorsFile& operator=(SafetensorsFile other) {
    path_.swap(other.path_);
    std::swap(file_bytes_, other.file_bytes_);
    std::swap(data_at_, other.data_at_);
    tensors_.swap(other.tensors_);
    metadata_.swap(other.metadata_);
    return *this;
  }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] bool has(const std::string& name) const { return tensors_.contains(name); }
  /// Every tensor by name, in alphabetical order.
  [[nodiscard]] const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  /// The __metadata__ map; empty where the file has none.
  [[nodiscard]] const TextMap& metadata() const { return metadata_; }

  /// One tensor's bytes. FormatError where the file has no such tensor, its dtype is none of those read, or the file is
  /// no longer the size it was.
  [[nodiscard]] Tensor load(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      detail::refuse_file(path_,
                          "tensor " + detail::in_quotes(name) + " is missing but must be there; found " + some_names());
    }
    if (!found->second.dtype) {
      detail::refuse_file(path_, "tensor " + detail::in_quotes(name) + " dtype is " +
                                     detail::in_quotes(found->second.dtype_name) + " but must be one of " +
                                     detail::dtype_list(&detail::DtypeRow::safetensors));
    }
    detail::InputFile file(path_);
    if (file.size() != file_bytes_) {
      file.refuse("file size is now " + std::to_string(file.size()) + " but must be " + std::to_string(file_bytes_));
    }
    Tensor tensor(found->second.shape, *found->second.dtype);
    file.read(data_at_ + found->second.begin, tensor.bytes());
    return tensor;
  }

  /// All of them. FormatError where one cannot be loaded: nothing is left out in silence.
  [[nodiscard]] TensorMap load_all() const {
    TensorMap all;
    for (const auto& [name, info] : tensors_) all.emplace(name, load(name));
    return all;
  }

 private:
  void parse(const std::string& text) {
    detail::HeaderText header(path_, text);
    if (text.empty() || text.front() != '{') header.refuse_here("'{'");
    if (!detail::is_utf8(text)) header.refuse("header has bytes that are no UTF-8 but must be UTF-8");
    bool has_metadata = false;
    detail::json_object(header, "the header", [&](const std::string& name) {
      const bool is_metadata = name == "__metadata__";
      if (is_metadata ? has_metadata : tensors_.contains(name)) {
        header.refuse("header key " + detail::in_quotes(name) + " is there twice but must be once");
      }
      has_metadata = has_metadata || is_metadata;
      if (is_metadata) {
        detail::json_object(header, name, [&](const std::string& key) {
          if (!metadata_.emplace(key, detail::json_string(header, "a value of __metadata__")).second) {
            header.refuse("__metadata__ key " + detail::in_quotes(key) + " is there twice but must be once");
          }
        });
      } else {
        tensors_.emplace(name, detail::parse_tensor_info(header, name));
      }
    });
    header.skip_spaces();
    if (!header.at_end()) header.refuse_here("its end after '}'");
  }

  [[nodiscard]] std::string some_names() const {
    std::string names;
    int shown = 0;
    for (const auto& [name, info] : tensors_) {
      if (shown++ == 8) return names + ", ...";
      names += (names.empty() ? "" : ", ") + detail::in_quotes(name);
    }
    return names.empty() ? "none" : names;
  }

  std::string path_;
  std::uint64_t file_bytes_ = 0;
  std::uint64_t data_at_ = 0;
  std::map<std::string, TensorInfo> tensors_;
  TextMap metadata_;
};

/// Writes a .safetensors file: a header padded with spaces to 8 bytes, then wide dtypes first, so that every tensor is
/// aligned.
/// Errors  FormatError where a name is reserved or not UTF-8, or the file cannot be written. Everything but a full disk
///         is known before the file is touched.
inline void write_safetensors(const std::string& path, const TensorMap& tensors, const TextMap& metadata = {}) {
  std::vector<TensorMap::const_pointer> order;
  for (const auto& entry : tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    const auto width = [](const auto* entry) { return bytes_of(entry->second.dtype()); };
    return width(a) != width(b) ? width(a) > width(b) : a->first < b->first;
  });
  std::string text = "{";
  const auto comma = [&] { text += text.size() > 1 ? "," : ""; };
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      text += (text.back() == '{' ? "" : ",") + detail::to_json(key) + ":" + detail::to_json(value);
    }
    text += "}";
  }
  std::uint64_t end = 0;
  for (const auto* entry : order) {
    const auto& [name, tensor] = *entry;
    if (name == "__metadata__")
      detail::refuse_file(path, "tensor name is \"__metadata__\" but must be another: it is reserved");
    std::string sizes;
    for (const Index size : tensor.shape()) sizes += (sizes.empty() ? "" : ",") + std::to_string(size);
    comma();
    text += detail::to_json(name) + ":{\"dtype\":\"" + std::string(name_of(tensor.dtype())) + "\",\"shape\":[" + sizes +
            "],\"data_offsets\":[" + std::to_string(end);
    end += tensor.bytes().size();
    text += "," + std::to_string(end) + "]}";
  }
  text += "}";
  if (!detail::is_utf8(text)) detail::refuse_file(path, "a name or metadata to write is no UTF-8 but must be UTF-8");
  text.append((8 - text.size() % 8) % 8, ' ');
  detail::OutputFile file(path);
  file.write(detail::little_endian(text.size(), 8));
  file.write(text);
  for (const auto* entry : order) file.write(entry->second.bytes());
  file.close();
}

}  // namespace heed

#include "heed/core/macros_back.inl"
