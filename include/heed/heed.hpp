#pragma once
// heed: exact and approximate attention over Eigen matrices. This page is the map of the library: every public header,
// floor by floor. Include it, or only the parts you use.
#include "heed/core/compiler.hpp"
#include "heed/version.hpp"

#if defined(__cpp_concepts) && defined(__cpp_exceptions)  // else one error has said enough
#include "heed/core/macros_away.inl"

// core/ (floor 0): vocabulary
#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/heads.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/method.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pair_view.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/random.hpp"
#include "heed/core/result.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/sequence_offsets.hpp"
#include "heed/core/tensor_view.hpp"
#include "heed/core/types.hpp"
#include "heed/core/values.hpp"
#include "heed/core/vector_view.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"

// kernels/ (floor 1): arithmetic on one tile, an instance per instruction set, chosen at run time
#include "heed/kernels/isa.hpp"
#include "heed/kernels/select.hpp"

// engine/ (floor 2) runs kernels over pairs; what is below uses it, users need not name it

// exact/ (floor 3): the doors, the oracle, exact attention, decoding
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/attend_over.hpp"
#include "heed/exact/attention_weights.hpp"
#include "heed/exact/batch.hpp"
#include "heed/exact/batch_backward.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/float_cache.hpp"
#include "heed/exact/importance.hpp"
#include "heed/exact/int8_cache.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/reference.hpp"
#include "heed/exact/reference_backward.hpp"

// trees/ (floor 4): trees of hyperplanes that route tokens to leaves
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/fit_tree.hpp"
#include "heed/trees/leaf_pattern.hpp"
#include "heed/trees/route.hpp"
#include "heed/trees/tree_balance.hpp"

// sampling/ (floor 4): which products stand for a row, how many, and how far off they are
#include "heed/sampling/alias_table.hpp"
#include "heed/sampling/error_bounds.hpp"
#include "heed/sampling/inclusion.hpp"
#include "heed/sampling/monte_carlo_options.hpp"
#include "heed/sampling/sample_counts.hpp"

// approx/ (floor 5): methods with a name, and values made during the call, exactly or by Monte Carlo
#include "heed/approx/attend_within.hpp"
#include "heed/approx/bigbird_attention.hpp"
#include "heed/approx/bigbird_tiles.hpp"
#include "heed/approx/int8_attention.hpp"
#include "heed/approx/linear_attention.hpp"
#include "heed/approx/linformer_attention.hpp"
#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/pattern_attention.hpp"
#include "heed/approx/performer_attention.hpp"
#include "heed/approx/projected_gradients.hpp"
#include "heed/approx/projected_values.hpp"
#include "heed/approx/sample_plan.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/approx/tc_state.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/approx/window_attention.hpp"

// layers/ (floor 6): building blocks of a model, and a transformer of them
#include "heed/layers/attention_choice.hpp"
#include "heed/layers/attention_layer.hpp"
#include "heed/layers/embedding.hpp"
#include "heed/layers/feed_forward.hpp"
#include "heed/layers/linear.hpp"
#include "heed/layers/norms.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/transformer.hpp"

// train/ (floor 7): losses, the optimiser, runs, from exact attention to trees; include by name, so that who trains
// nothing does not parse clocks and function objects
//   #include "heed/train/adamw.hpp"
//   #include "heed/train/balance_loss.hpp"
//   #include "heed/train/batch.hpp"
//   #include "heed/train/bootstrap.hpp"
//   #include "heed/train/choose_attention.hpp"
//   #include "heed/train/cross_entropy.hpp"
//   #include "heed/train/distillation.hpp"
//   #include "heed/train/grow_trees.hpp"
//   #include "heed/train/masked_tokens.hpp"
//   #include "heed/train/model_pass.hpp"
//   #include "heed/train/training_options.hpp"
//   #include "heed/train/training_ranks.hpp"
//   #include "heed/train/training_run.hpp"

// distributed/ (floor 7): over several machines by MPI; include by name, and link heed::mpi
//   #include "heed/distributed/attend_sharded.hpp"
//   #include "heed/distributed/attend_within_sharded.hpp"
//   #include "heed/distributed/rank_chain.hpp"
//   #include "heed/distributed/ring_attend.hpp"
//   #include "heed/distributed/ring_attend_backward.hpp"

// io/ (floor 7): .npy and .safetensors, checkpoints; include by name, so that who reads no files does not parse file
// streams
//   #include "heed/io/cache_file.hpp"
//   #include "heed/io/npy.hpp"
//   #include "heed/io/parameter_file.hpp"
//   #include "heed/io/safetensors.hpp"
//   #include "heed/io/tensor.hpp"
//   #include "heed/io/tensor_dtype.hpp"
//   #include "heed/io/tree_file.hpp"

#include "heed/core/macros_back.inl"
#endif
