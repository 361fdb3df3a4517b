#pragma once
#include "heed/heed.hpp"

// What a file that only sees heed declared and one that compiles its own both answer.
struct Answers {
  heed::AttentionResult<float> exact, over_leaves, changed;
  heed::MultiHeadResult<double> heads;
  heed::AttentionGradients<float> gradients;
};
using Operand = heed::Matrix<float>;
Answers declared_answers(const Operand& q, const Operand& k, const Operand& v);
Answers own_answers(const Operand& q, const Operand& k, const Operand& v);
