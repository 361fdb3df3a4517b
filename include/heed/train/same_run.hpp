#pragma once
#include <cstddef>
#include <cstdint>

#include "heed/core/digest.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"
#include "heed/layers/attention_choice.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/transformer.hpp"
#include "heed/train/training_ranks.hpp"

namespace heed::detail {

inline void add_choice(const AttentionChoice& choice, Digest& digest) {
  digest.add_all(choice.kind, choice.height, choice.n_trees, choice.biases, choice.routing, choice.bounded,
                 choice.by_query, choice.window, choice.rank);
  const BigBirdOptions& blocks = choice.bigbird;
  digest.add_all(blocks.block, blocks.n_near, blocks.n_global, blocks.n_random, blocks.seed);
  digest.add_all(choice.performer.n_features, choice.performer.seed, choice.performer.orthogonal);
  if (choice.tree_window) digest.add(*choice.tree_window);  // files written before it was an option stay good
}

/// What a model computes, its parameters aside.
template <class T>
std::uint64_t digest_of(const Transformer<T>& model) {
  const TransformerOptions& options = model.options();
  const AttentionLayerOptions& attention = options.attention;
  Digest digest;
  for (const Index vocabulary : options.vocabularies) digest.add(vocabulary);
  digest.add_all(options.n_out, options.d_model, options.d_hidden, options.n_layers, options.length, options.activation,
                 options.positions, options.pooling);
  digest.add_all(attention.n_heads, attention.causal, attention.rotary, attention.tied, attention.cosine);
  for (Index l = 0; l < options.n_layers; ++l) add_choice(model.attention(l).method().choice(), digest);
  return digest.sum();
}

/// Parameters and how they are to be changed.
template <class T>
std::uint64_t digest_of(const ParameterStore<T>& store) {
  Digest digest;
  for (const T value : store.all_values()) digest.add(static_cast<double>(value));
  for (Index s = 0; s < store.n_slices(); ++s) digest.add_all(store.options(s).decays, store.options(s).rate);
  return digest.sum();
}

/// What ranks must have alike for their steps to be those of one.
struct RunNumber {
  const char* name;
  std::int64_t value;
};

/// Throws OptionError on every rank where ranks would train apart: names what differs first. All bring `n` numbers with
/// the same names.
template <std::size_t n>
void check_same_run(const TrainingRanks& ranks, const RunNumber (&own)[n]) {
  if (ranks.n_ranks == 1) return;
  std::int64_t mine[n], other[n] = {}, first_apart = 0;  // 1 + the place of a number
  for (std::size_t i = 0; i < n; ++i) mine[i] = own[i].value;
  if (ranks.rank + 1 < ranks.n_ranks) {
    ranks.receive(other, sizeof other);
    for (std::size_t i = n; i-- > 0;)
      first_apart = other[i] != mine[i] ? static_cast<std::int64_t>(i) + 1 : first_apart;
  }
  if (ranks.rank > 0) ranks.send(mine, sizeof mine);
  if (const std::int64_t apart = largest_of(ranks, first_apart); apart > 0)
    throw OptionError(message(own[apart - 1].name, " differs between ranks but must be the same on all"));
}

}  // namespace heed::detail
