#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include <heed/layers/transformer.hpp>

namespace train_treeformer {

/// What stands in for exact attention in every layer of a trained model.
struct Substitute {
  heed::AttentionLayer<float>::Substitute run;
  std::function<std::string()> cost;  ///< what the runs so far took, said in one line
};

/// Values made by Monte Carlo: "mca:ALPHA", "published:ALPHA", "largest:SHARE" or "draws:SHARE", on a path that always
/// samples, so that the line shows the estimator.
/// Errors  std::invalid_argument for any other text.
Substitute sampled_values(const std::string& text, std::uint64_t seed, const heed::TransformerOptions& model);

/// Decoding: token after token is appended to a cache, and its queries are answered from it. "float", "bfloat16",
/// "int8", or "within:TOLERANCE", which is attend_within over a cache of 8 bits.
/// Errors  std::invalid_argument for any other text, or a model that is not causal.
Substitute decoding(const std::string& text, const heed::TransformerOptions& model);

}  // namespace train_treeformer
