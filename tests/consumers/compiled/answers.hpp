#pragma once
#include "units.hpp"

// The same text in both files, in a namespace of each.
namespace {

Answers answers(const Operand& q, const Operand& k, const Operand& v) {
  const heed::AttentionOptions options{.mask = {.causal = heed::Causal::bottom_right, .window_left = 70}};
  const heed::Matrix<double> q2 = q.cast<double>(), k2 = k.cast<double>(), v2 = v.cast<double>();
  const Operand d_out = Operand::Ones(q.rows(), v.cols());
  const auto exact = heed::attend(q, k, v);
  const auto changed = [](float s, heed::Index i, heed::Index j) { return i == j ? s : 0.5f * s; };
  return {exact, heed::attend(q, k, v, options, heed::TfAttention<float>(heed::fit_tree(k, q, {.height = 3}))),
          heed::attend(q, k, v, options, heed::ExactAttention{changed}),
          heed::multi_head_attend(q2, k2, v2, {.n_heads = 4}, options), heed::attend_backward(d_out, q, k, v, exact)};
}

}  // namespace
