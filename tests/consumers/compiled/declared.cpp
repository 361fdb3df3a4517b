#include "answers.hpp"

#ifndef HEED_COMPILED
#error "heed::compiled does not say that it is"
#endif

Answers declared_answers(const Operand& q, const Operand& k, const Operand& v) { return answers(q, k, v); }
