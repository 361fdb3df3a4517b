#include "files.hpp"

#include <charconv>
#include <cmath>
#include <filesystem>
#include <system_error>

#include <heed/core/errors.hpp>
#include <heed/io/npy.hpp>
#include <heed/io/safetensors.hpp>

namespace compare {
namespace {

const char* const example_name = "lm_code.safetensors";

bool is_file(const std::string& path) {
  std::error_code failure;
  return std::filesystem::is_regular_file(path, failure);
}

// The build says where the source tree was; a program that moved finds the data from the root of a checkout.
std::string example_path() {
#ifdef HEED_EXAMPLE_DATA
  const std::string built_from = std::string(HEED_EXAMPLE_DATA) + "/" + example_name;
  if (is_file(built_from)) return built_from;
#endif
  const std::string here = std::string("examples/data/") + example_name;
  if (is_file(here)) return here;
  throw heed::FormatError("heed: " + here +
                          ": the example data are not there; run compare from the root of a checkout, "
                          "or give --input, --q --k --v or --generate");
}

double number_in(const std::string& path, const std::string& key, const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
    throw heed::FormatError("heed: " + path + ": metadata " + key + " is " + text + " but must be a finite number");
  }
  return value;
}

StoredInputs open_safetensors(const std::string& path, const std::string& shown) {
  StoredInputs stored;
  stored.source = shown;
  const heed::SafetensorsFile file(path);
  for (const std::string name : {"q", "k"}) stored.tensors.emplace(name, file.load(name));
  for (const std::string name : {"v", "x", "w_v", "b_v", "tree_planes", "tree_biases", "level_logits"}) {
    if (file.has(name)) stored.tensors.emplace(name, file.load(name));
  }
  if (file.has("x") != file.has("w_v")) {
    throw heed::FormatError("heed: " + path + ": has " + (file.has("x") ? "x but no w_v" : "w_v but no x") +
                            " but must have both or neither");
  }
  if (file.has("tree_planes") != file.has("tree_biases") || (file.has("level_logits") && !file.has("tree_planes"))) {
    throw heed::FormatError("heed: " + path +
                            ": tree_planes and tree_biases must both be there or neither, and with level_logits both");
  }
  if (!file.has("v") && !file.has("x")) {
    throw heed::FormatError("heed: " + path +
                            ": tensor \"v\" is missing but must be there, or x and w_v to make it from");
  }
  for (const auto& [name, tensor] : stored.tensors) stored.origin[name] = path + ": " + name;
  if (const auto found = file.metadata().find("causal"); found != file.metadata().end()) {
    if (found->second != "true" && found->second != "false") {
      throw heed::FormatError("heed: " + path + ": metadata causal is " + found->second + " but must be true or false");
    }
    stored.causal = found->second;
  }
  if (const auto found = file.metadata().find("scale"); found != file.metadata().end()) {
    stored.scale = number_in(path, "scale", found->second);
  }
  return stored;
}

}  // namespace

StoredInputs open_files(const Arguments& arguments) {
  if (!arguments.input.empty()) return open_safetensors(arguments.input, arguments.input);
  if (arguments.q.empty()) return open_safetensors(example_path(), std::string("examples/data/") + example_name);
  StoredInputs stored;
  const std::pair<const char*, const std::string*> files[] = {{"q", &arguments.q},     {"k", &arguments.k},
                                                              {"v", &arguments.v},     {"x", &arguments.x},
                                                              {"w_v", &arguments.w_v}, {"b_v", &arguments.b_v}};
  for (const auto& [name, path] : files) {
    if (path->empty()) continue;
    stored.tensors.emplace(name, heed::read_npy(*path));
    stored.origin[name] = *path;
    const std::string file = path->substr(path->find_last_of('/') + 1);
    stored.source += (stored.source.empty() ? "" : ", ") + file;
  }
  return stored;
}

}  // namespace compare
