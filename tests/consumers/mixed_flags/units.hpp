#pragma once
#include "heed/heed.hpp"

// Two units built with different instruction sets and levels of optimisation hand each other operands and results.
// heed::Matrix may cross; Eigen::MatrixXf may not, whose memory Eigen aligns (and frees) differently in each unit.
using Operand = heed::Matrix<float>;
heed::AttentionResult<float> attend_plain(const Operand& q, const Operand& k, const Operand& v);
heed::AttentionResult<float> attend_native(const Operand& q, const Operand& k, const Operand& v);
