#pragma once
#include "heed/core/macros_away.inl"

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "heed/core/check_option.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/random.hpp"
#include "heed/core/types.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/transformer.hpp"
#include "heed/train/batch.hpp"
#include "heed/train/cross_entropy.hpp"

namespace heed {

/// Pretraining of an encoder on the inputs of its own task: some tokens are hidden, and told from the others. Such a
/// model (masked_model) is trained on batches of the task whose tokens were hidden (hide_tokens); the model of the task
/// then begins with its encoder (take_encoder).
///
/// Source  Devlin et al. 2019 (BERT), section 3.1, where a fifth of the hidden tokens are shown after all, changed or
///         unchanged: here none is. Amos, Berant, Gupta 2024 (Never Train from Scratch): on the task's own inputs.
struct MaskedTokens {
  Index n_told = 1;     ///< tokens 0 .. n_told - 1 of the first table may be hidden and are told, no others; >= 1
  double share = 0.15;  ///< of these that are hidden, each by chance; 0 .. 1, the published default
};

namespace detail {

inline void check_masked(const MaskedTokens& masked) {
  check_size(masked.n_told, 1, "MaskedTokens::n_told");
  check_within(masked.share, 0, 1, "MaskedTokens::share");
}

}  // namespace detail

/// The model that tells hidden tokens: the encoder of `model` with one token more in its first table, the last, which
/// stands where tokens are hidden, and with a head at every token.
/// Errors  OptionError for options of `masked` out of range, and for a model without tables.
inline TransformerOptions masked_model(TransformerOptions model, const MaskedTokens& masked) {
  detail::check_masked(masked);
  if (model.vocabularies.empty())
    throw OptionError("heed: TransformerOptions::vocabularies has no entries but must have one or more");
  ++model.vocabularies.front();
  model.n_out = masked.n_told;
  model.pooling = Pooling::none;
  return model;
}

/// Puts `stand_in`, the last token of masked_model's first table, in the place of some tokens of a batch, which become
/// the batch's only targets.
/// Errors  OptionError for options of `masked` out of range; ShapeError for a batch without tokens.
inline void hide_tokens(Batch& batch, std::int32_t stand_in, const MaskedTokens& masked, CounterRng& numbers) {
  detail::check_masked(masked);
  if (batch.tokens.empty()) throw ShapeError("heed: Batch::tokens has no lists but must have one or more");
  std::vector<std::int32_t>& tokens = batch.tokens.front();
  batch.targets.assign(tokens.size(), no_target);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= masked.n_told || numbers.uniform() >= masked.share) continue;
    batch.targets[i] = tokens[i];
    tokens[i] = stand_in;
  }
}

/// Copies every parameter of `from` but those of its head to the parameter of the same name in `to`. `to` is a model,
/// and `from` what masked_model made of it; the row of the token that stood in is left out.
/// Errors  ShapeError for a parameter that `from` has not, or in another shape; `to` is untouched then.
template <class T>
void take_encoder(const ParameterStore<T>& from, ParameterStore<T>& to) {
  const auto is_head = [&](Index s) { return std::string_view(to.name(s)).starts_with(Transformer<T>::head_name); };
  for (Index s = 0; s < to.n_slices(); ++s) {
    const Slice own = to.slice(s), other = from.find(to.name(s));
    const Index n_more = to.name(s) == Transformer<T>::first_table_name ? 1 : 0;
    if (is_head(s) || (other.given() && other.rows == own.rows + n_more && other.cols == own.cols)) continue;
    throw ShapeError(detail::message("'", to.name(s), "' is ", other.rows, " x ", other.cols,
                                     " in the model to take from but must be ", own.rows + n_more, " x ", own.cols));
  }
  for (Index s = 0; s < to.n_slices(); ++s) {
    if (!is_head(s))
      std::copy_n(from.values(from.find(to.name(s))).data, to.slice(s).size(), to.values(to.slice(s)).data);
  }
}

}  // namespace heed

#include "heed/core/macros_back.inl"
