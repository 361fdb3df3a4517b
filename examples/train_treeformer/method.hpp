#pragma once
#include <heed/layers/attention_choice.hpp>

#include "arguments.hpp"

namespace train_treeformer {

/// The method that the arguments name. Methods without trees get about as many FLOPs as a balanced TF tree of
/// `height` over sequences of `length` tokens would have: so many pairs, features or projected keys.
heed::AttentionChoice method_of(const Arguments& arguments, Index length, bool causal);

}  // namespace train_treeformer
