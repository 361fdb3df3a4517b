#pragma once
#include "heed/core/macros_away.inl"

#include <array>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/io/detail/file.hpp"
#include "heed/io/detail/replace_file.hpp"
#include "heed/io/detail/shape.hpp"
#include "heed/io/safetensors.hpp"
#include "heed/io/tensor.hpp"
#include "heed/layers/parameter_store.hpp"

namespace heed {

/// How much of a ParameterStore a file holds.
enum class ParameterParts {
  values,    ///< a trained model: what forward reads
  training,  ///< a checkpoint: also both moments and the SliceOptions, with which a run goes on bit for bit
};

namespace detail {

inline constexpr std::string_view parameter_version = "1";
inline constexpr const char* version_key = "heed.parameters";
inline constexpr const char* first_moment_prefix = "first_moment/";
inline constexpr const char* second_moment_prefix = "second_moment/";
inline constexpr const char* options_prefix = "options/";  // F64: decays (0 or 1), rate

/// A file of this format and version, opened.
inline SafetensorsFile open_parameters(const std::string& path) {
  SafetensorsFile file(path);
  const auto version = file.metadata().find(version_key);
  if (version == file.metadata().end()) {
    refuse_file(path, std::string("metadata ") + version_key + " is missing but must be " +
                          std::string(parameter_version) + ": the file was not written by save_parameters");
  }
  if (version->second != parameter_version) {
    refuse_file(path, std::string("metadata ") + version_key + " is " + in_quotes(version->second) + " but must be " +
                          std::string(parameter_version));
  }
  return file;
}

inline TextMap description_of(const SafetensorsFile& file) {
  TextMap description = file.metadata();
  description.erase(version_key);
  return description;
}

/// Loads a tensor that must have this shape and dtype. `reason` ends the message of one that is missing.
inline Tensor load_as(const SafetensorsFile& file, const std::string& name, const std::vector<Index>& shape,
                      TensorDtype dtype, const char* reason) {
  const std::string who = "tensor " + in_quotes(name);
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end()) {
    refuse_file(file.path(),
                who + " is missing but must be " + shape_text(shape) + " of " + std::string(name_of(dtype)) + reason);
  }
  const TensorInfo& info = found->second;
  if (info.dtype != dtype)
    refuse_file(file.path(),
                who + " is of " + in_quotes(info.dtype_name) + " but must be of " + std::string(name_of(dtype)));
  if (info.shape != shape)
    refuse_file(file.path(), who + " is " + shape_text(info.shape) + " but must be " + shape_text(shape));
  return file.load(name);
}

/// Refuses a tensor with a number that no run leaves behind. Values may be -inf: so is the logit of a level of a tree
/// that counts for nothing.
template <class T>
void check_numbers(const std::string& path, const std::string& name, const std::vector<T>& numbers, bool may_be_off) {
  for (const T number : numbers) {
    if (is_finite(number) || (may_be_off && is_minus_infinity(number))) continue;
    refuse_file(path, "tensor " + in_quotes(name) + " has the number " + std::to_string(number) +
                          " but must have finite ones" + (may_be_off ? ", or -inf" : ""));
  }
}

/// Refuses tensors that belong to no parameter of the store.
template <class T>
void check_no_strangers(const SafetensorsFile& file, const ParameterStore<T>& store) {
  for (const auto& [name, info] : file.tensors()) {
    if (store.find(name).given()) continue;
    bool known = false;
    for (const std::string_view prefix : {first_moment_prefix, second_moment_prefix, options_prefix})
      known = known || (name.starts_with(prefix) && store.find(std::string_view(name).substr(prefix.size())).given());
    if (!known)
      refuse_file(file.path(), "tensor " + in_quotes(name) + " is there but must not be: the model has no parameter " +
                                   "of this name");
  }
}

}  // namespace detail

/// Writes the parameters of a model as one .safetensors file: a tensor rows x cols of T for each, under its name. With
/// ParameterParts::training also "first_moment/<name>", "second_moment/<name>", and "options/<name>", F64: (decays,
/// rate). `description` goes to __metadata__, beside the format's version: what a reader must know to build the model,
/// and the step of the run.
///
/// Errors  FormatError where the file cannot be written: the folder is unwritable, the disk full. It is written beside
///         `path` as "<path>.new", flushed, and renamed, so that a file that was there stays whole until the new one
///         is. OptionError for a description whose key begins with "heed.", or names that would fall together.
/// Cost    a copy of what is written.
/// Threads one caller a path at a time.
template <class T>
void save_parameters(const std::string& path, const ParameterStore<T>& store, const TextMap& description = {},
                     ParameterParts parts = ParameterParts::values) {
  TensorMap tensors;
  const auto put = [&](const std::string& name, Tensor tensor) {
    if (!tensors.emplace(name, std::move(tensor)).second)
      throw OptionError("heed: ParameterStore: two parameters are saved as '" + name + "' but names must differ");
  };
  for (Index s = 0; s < store.n_slices(); ++s) {
    const Slice& slice = store.slice(s);
    const auto part = [&](std::span<const T> all) {
      return Tensor::of<T>({slice.rows, slice.cols},
                           all.subspan(static_cast<std::size_t>(slice.first), static_cast<std::size_t>(slice.size())));
    };
    put(store.name(s), part(store.all_values()));
    if (parts == ParameterParts::values) continue;
    put(detail::first_moment_prefix + store.name(s), part(store.first_moments()));
    put(detail::second_moment_prefix + store.name(s), part(store.second_moments()));
    const SliceOptions& options = store.options(s);
    const std::array<double, 2> numbers{options.decays ? 1.0 : 0.0, options.rate};
    put(detail::options_prefix + store.name(s), Tensor::of<double>({2}, numbers));
  }
  TextMap metadata = description;
  for (const auto& [key, value] : description) {
    if (key.starts_with("heed."))
      throw OptionError("heed: description has the key '" + key + "' but keys must not begin with 'heed.'");
  }
  metadata.emplace(detail::version_key, detail::parameter_version);
  detail::replace_file(path, [&](const std::string& fresh) { write_safetensors(fresh, tensors, metadata); });
}

/// The description that save_parameters was given: read it first to build the model that load_parameters fills.
/// Errors  FormatError for a file that is unreadable, truncated, or of another format or version.
inline TextMap read_description(const std::string& path) {
  return detail::description_of(detail::open_parameters(path));
}

/// Reads what save_parameters wrote into a store that has the same parameters, in any order; gradients become 0.
/// Returns the description. The values alone may be read from a checkpoint too: moments and options then stay as they
/// are.
///
/// Errors  FormatError naming the file and the tensor, what it is and what it must be: as SafetensorsFile, and for
///         another format or version, a missing or foreign tensor, another shape or dtype, a number that is NaN or
///         infinite (a value may be -inf), options that are none. The store is then untouched.
/// Cost    a copy of what is read.
template <class T>
TextMap load_parameters(const std::string& path, ParameterStore<T>& store,
                        ParameterParts parts = ParameterParts::values) {
  struct Part {
    Tensor tensor;
    T* to;
  };
  const SafetensorsFile file = detail::open_parameters(path);
  detail::check_no_strangers(file, store);
  std::vector<Part> loaded;
  std::vector<SliceOptions> options;
  for (Index s = 0; s < store.n_slices(); ++s) {
    const Slice& slice = store.slice(s);
    const std::string& name = store.name(s);
    const auto load = [&](const std::string& as, std::span<T> all, const char* reason) {
      loaded.push_back({detail::load_as(file, as, {slice.rows, slice.cols}, tensor_dtype_of<T>(), reason),
                        all.data() + slice.first});
      detail::check_numbers(path, as, loaded.back().tensor.template as<T>(), as == name);
    };
    load(name, store.all_values(), "");
    if (parts == ParameterParts::values) continue;
    constexpr const char* reason = ": a checkpoint is saved with ParameterParts::training";
    load(detail::first_moment_prefix + name, store.first_moments(), reason);
    load(detail::second_moment_prefix + name, store.second_moments(), reason);
    const std::vector<double> numbers =
        detail::load_as(file, detail::options_prefix + name, {2}, TensorDtype::f64, reason).template as<double>();
    if ((numbers[0] != 0 && numbers[0] != 1) || !detail::is_finite(numbers[1]) || numbers[1] < 0) {
      detail::refuse_file(path, "tensor " + detail::in_quotes(detail::options_prefix + name) + " is (" +
                                    std::to_string(numbers[0]) + ", " + std::to_string(numbers[1]) +
                                    ") but must be 0 or 1, and a finite rate >= 0");
    }
    options.push_back({.decays = numbers[0] != 0, .rate = numbers[1]});
  }
  TextMap description = detail::description_of(file);
  for (const Part& part : loaded) {
    const auto bytes = part.tensor.bytes();
    if (!bytes.empty()) std::memcpy(part.to, bytes.data(), bytes.size());
  }
  for (std::size_t s = 0; s < options.size(); ++s) store.set_options(store.slice(static_cast<Index>(s)), options[s]);
  store.clear_gradients();
  return description;
}

}  // namespace heed

#include "heed/core/macros_back.inl"
