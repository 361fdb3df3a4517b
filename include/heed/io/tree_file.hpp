#pragma once
#include "heed/core/macros_away.inl"

#include <span>
#include <string>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"
#include "heed/io/safetensors.hpp"
#include "heed/io/tensor.hpp"
#include "heed/trees/decision_tree.hpp"

namespace heed {

/// Writes a tree as a .safetensors file: the tensors planes, (2^h - 1) x d, and biases, 2^h - 1, in float or double;
/// lift_weights and lift_radius where the tree has a lift; and the metadata bias_rule = stored | key_medians.
/// Errors  FormatError where the file cannot be written.
template <class S>
void save_tree(const std::string& path, const DecisionTree<S>& tree) {
  using T = Accumulator<S>;
  const auto column = [](const Vector<T>& numbers) {
    return Tensor::of<T>({numbers.size()},
                         std::span<const T>(numbers.data(), static_cast<std::size_t>(numbers.size())));
  };
  TensorMap tensors;
  tensors.emplace("planes", Tensor::of(tree.planes()));
  tensors.emplace("biases", column(tree.biases()));
  if (tree.lift()) {
    tensors.emplace("lift_weights", column(tree.lift()->weights));
    tensors.emplace("lift_radius", Tensor::of<T>({}, std::span<const T>(&tree.lift()->radius, 1)));
  }
  const bool medians = tree.bias_rule() == TreeBiases::key_medians;
  write_safetensors(path, tensors, {{"bias_rule", medians ? "key_medians" : "stored"}});
}

/// Reads a tree from a file of that layout, whoever wrote it. Numbers become those of the scalar S keeps sums in.
/// Errors  FormatError for a file of another layout; ShapeError or OptionError for numbers that make no tree.
template <class S>
DecisionTree<S> load_tree(const std::string& path) {
  using T = Accumulator<S>;
  const SafetensorsFile file(path);
  const auto refuse_axes = [&](const std::string& name, Index has, const char* must) {
    throw FormatError("heed: " + path + ": tensor " + name + " has " + std::to_string(has) + " axes but must have " +
                      must);
  };
  const auto column = [&](const std::string& name) {
    const Tensor tensor = file.load(name);
    if (tensor.rank() != 1) refuse_axes(name, tensor.rank(), "1");
    const std::vector<T> numbers = tensor.template as<T>();
    return Vector<T>(Eigen::Map<const Vector<T>>(numbers.data(), static_cast<Index>(numbers.size())));
  };
  TreeOptions<T> options;
  if (const auto rule = file.metadata().find("bias_rule"); rule != file.metadata().end()) {
    if (rule->second != "stored" && rule->second != "key_medians") {
      throw FormatError("heed: " + path + ": metadata bias_rule is \"" + rule->second +
                        "\" but must be stored or key_medians");
    }
    if (rule->second == "key_medians") options.biases = TreeBiases::key_medians;
  }
  if (file.has("lift_weights") || file.has("lift_radius")) {  // both, or load says which is missing
    const std::vector<T> radius = file.load("lift_radius").template as<T>();
    if (radius.size() != 1) {
      throw FormatError("heed: " + path + ": tensor lift_radius has " + std::to_string(radius.size()) +
                        " numbers but must have 1");
    }
    options.lift = TreeLift<T>{radius[0], column("lift_weights")};
  }
  const Tensor planes = file.load("planes");
  if (planes.rank() != 2) refuse_axes("planes", planes.rank(), "2");
  return DecisionTree<S>(planes.template nth_matrix<T>(0), column("biases"), options);
}

}  // namespace heed

#include "heed/core/macros_back.inl"
