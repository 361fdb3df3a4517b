#pragma once
#include "heed/core/macros_away.inl"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"
#include "heed/layers/attention_choice.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/transformer.hpp"
#include "heed/train/batch.hpp"
#include "heed/train/choose_attention.hpp"
#include "heed/train/grow_trees.hpp"

namespace heed {

/// How a trained exact model becomes one of trees.
struct BootstrapOptions {
  AttentionChoice choice{.kind = AttentionKind::tf};  ///< what layers end with: tf or tc, of choice.height
  std::vector<Index> layers{};  ///< those that are converted, in this order; none given: all, from the first
  bool one_by_one = false;      ///< level 1: a layer a stage; at once was as good where it was measured, and is shorter
  std::optional<Index> first_height{};  ///< level 2: where trees begin to grow, one a stage; not given: choice.height
  bool grow_before_next = false;        ///< with both levels: a layer grows to the end before the next is converted
};

/// A stage of the bootstrap: the method of each layer.
using BootstrapStage = std::vector<AttentionChoice>;

/// The two-level bootstrap as a list of stages, each to be entered (enter_stage) and then trained: level 1 replaces
/// exact attention by trees, level 2 grows them. The paper's own schedule is not known; all at once and full-grown, one
/// stage, is what did best in our runs (tests of n = 256 and 2048, one seed).
///
/// Shapes  now: the choice of each layer, see attention_choices.
/// Errors  OptionError for a choice without trees or one that no layer can use, heights outside 0 .. 24 or a first one
///         above the last, layers that are not there or there twice. What layers of one model cannot use, such as
///         medians where it is causal, enter_stage says.
/// Source  Madaan et al. 2023, the two-level bootstrap; the order of its stages is a choice here, not taken from there.
inline std::vector<BootstrapStage> bootstrap_stages(const std::vector<AttentionChoice>& now,
                                                    const BootstrapOptions& options = {}) {
  const AttentionChoice& last = options.choice;
  if (!detail::has_trees(last.kind)) throw OptionError("heed: BootstrapOptions::choice.kind must be tf or tc");
  detail::check_choice(last, false);
  const Index first_height = options.first_height.value_or(last.height);
  if (first_height < 0 || first_height > last.height) {
    throw OptionError(detail::message("BootstrapOptions::first_height = ", first_height,
                                      " must be 0 .. BootstrapOptions::choice.height = ", last.height));
  }
  const auto n_layers = static_cast<Index>(now.size());
  std::vector<Index> layers = options.layers;
  for (Index l = 0; options.layers.empty() && l < n_layers; ++l) layers.push_back(l);
  for (const Index l : layers) {
    if (l < 0 || l >= n_layers || std::count(layers.begin(), layers.end(), l) > 1)
      throw OptionError(
          detail::message("BootstrapOptions::layers: ", l, " must be below ", n_layers, " and be there once"));
  }

  std::vector<BootstrapStage> stages;
  BootstrapStage stage = now;
  const auto enter = [&](const std::vector<Index>& which, Index height) {
    for (const Index l : which) {
      stage[static_cast<std::size_t>(l)] = last;
      stage[static_cast<std::size_t>(l)].height = height;
    }
    stages.push_back(stage);
  };
  std::vector<std::vector<Index>> groups;
  if (options.one_by_one) {
    for (const Index l : layers) groups.push_back({l});
  } else {
    groups.push_back(layers);
  }
  for (const auto& group : groups) {
    const Index height = options.grow_before_next ? last.height : first_height;
    for (Index h = first_height; h <= height; ++h) enter(group, h);
  }
  for (Index h = first_height + 1; h <= last.height && !options.grow_before_next; ++h) enter(layers, h);
  return stages;
}

/// How a stage is entered.
struct StageOptions {
  GrowthOptions growth{};             ///< of trees that grow, and what happens to moments
  std::optional<double> below = 4.0;  ///< raise_levels: TC's new levels; off: they stay at -inf and learn nothing
};

/// Gives the layers of a model the methods of a stage: a tree that is there in the same kind and number grows to its
/// height, by the keys of `batch`; another method is replaced.
/// Errors  as choose_attention, grow_trees and raise_levels. Model and store are untouched then.
/// Memory  a second model and store while it runs.
template <class T>
void enter_stage(Transformer<T>& model, ParameterStore<T>& store, const BootstrapStage& stage, const Batch& batch,
                 const StageOptions& options = {}, const Context& context = {}) {
  BootstrapStage first = stage;
  const std::vector<AttentionChoice> now = attention_choices(model);
  for (std::size_t l = 0; l < std::min(now.size(), stage.size()); ++l) {
    detail::check_choice(stage[l], model.options().attention.causal);
    const bool grows =
        detail::has_trees(stage[l].kind) && stage[l].kind == now[l].kind && stage[l].n_trees == now[l].n_trees;
    if (grows) first[l].height = std::min(now[l].height, stage[l].height);
  }
  Transformer<T> entered = model;
  ParameterStore<T> next = store;
  choose_attention(entered, next, first, options.growth.conversion);
  for (;;) {
    std::vector<Index> lower;
    for (std::size_t l = 0; l < stage.size(); ++l) {
      if (entered.attention(static_cast<Index>(l)).method().choice().height < stage[l].height)
        lower.push_back(static_cast<Index>(l));
    }
    if (lower.empty()) break;
    grow_trees(entered, next, batch, lower, options.growth, context);
  }
  if (options.below) raise_levels(entered, next, *options.below);
  store = std::move(next);
  model = std::move(entered);
}

}  // namespace heed

#include "heed/core/macros_back.inl"
