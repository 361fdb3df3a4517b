#pragma once
#include "heed/core/macros_away.inl"

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"
#include "heed/layers/attention_choice.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/transformer.hpp"

namespace heed {

/// What happens to the state of a run when layers of its model get other methods.
struct ConversionOptions {
  /// The loss is another one, of which old moments say little. Off: parameters that stay keep theirs, and
  /// TrainingOptions::earlier_steps says how old they are.
  bool reset_moments = true;
  std::uint64_t seed = 1;  ///< of planes and projections that are new
};

/// The method of each layer.
template <class T>
std::vector<AttentionChoice> attention_choices(const Transformer<T>& model) {
  std::vector<AttentionChoice> choices;
  for (Index l = 0; l < model.n_layers(); ++l) choices.push_back(model.attention(l).method().choice());
  return choices;
}

/// Medians of each sequence, or stored biases (for inference: the running medians that train leaves), in all layers
/// with trees.
/// Errors  OptionError for medians in a causal model with trees; nothing is changed then.
template <class T>
void use_biases(Transformer<T>& model, TreeBiases biases) {
  for (Index l = 0; l < model.n_layers(); ++l) {
    if (model.attention(l).method().has_trees()) model.attention(l).set_biases(biases);
  }
}

/// Gives layer l of a model the method choices[l]. Parameters that were there under the same name and in the same shape
/// keep their values; new ones start as in a fresh model: planes N(0, 1 / d). A method's parameters stand behind those
/// of the model, layer after layer, so that a model built anew and given the same choices has the same store, and loads
/// its checkpoints, whichever way it came to them.
///
/// TF with a tree of height 0 is exact attention, bit for bit; TC with one gives each query the mean of the values it
/// sees. Other trees are no approximation of softmax attention: train them.
///
/// Errors  ShapeError for another number of choices; OptionError for one that its layer cannot use, as the constructor
///         of Transformer would say. Model and store are untouched then.
/// Source  Madaan et al. 2023, the bootstrap's first level: attention of a trained model replaced by trees.
template <class T>
void choose_attention(Transformer<T>& model, ParameterStore<T>& store, const std::vector<AttentionChoice>& choices,
                      const ConversionOptions& options = {}) {
  if (static_cast<Index>(choices.size()) != model.n_layers()) {
    throw ShapeError(detail::message("choices has ", static_cast<Index>(choices.size()),
                                     " entries but must have one per layer: ", model.n_layers()));
  }
  TransformerOptions plain = model.options();
  plain.attention.choice = {};  // exact: no parameters
  ParameterStore<T> next;
  Transformer<T> made(next, plain);
  for (Index l = 0; l < made.n_layers(); ++l) {
    made.attention(l).choose(next, made.attention_name(l), choices[static_cast<std::size_t>(l)], plain.length,
                             options.seed + static_cast<std::uint64_t>(l));
  }
  for (Index s = 0; s < next.n_slices(); ++s) {
    const Slice to = next.slice(s), from = store.find(next.name(s));
    if (!from.given()) continue;
    next.set_options(to, store.options(from.number));
    if (from.rows != to.rows || from.cols != to.cols) continue;
    const auto copy = [&](std::span<const T> all, std::span<T> into) {
      std::copy_n(all.begin() + from.first, from.size(), into.begin() + to.first);
    };
    copy(store.all_values(), next.all_values());
    if (options.reset_moments) continue;
    copy(store.first_moments(), next.first_moments());
    copy(store.second_moments(), next.second_moments());
  }
  store = std::move(next);
  model = std::move(made);
}

}  // namespace heed

#include "heed/core/macros_back.inl"
