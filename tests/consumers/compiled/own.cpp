#include "answers.hpp"

#ifdef HEED_COMPILED
#error "heed::heed says that it is heed::compiled"
#endif

Answers own_answers(const Operand& q, const Operand& k, const Operand& v) { return answers(q, k, v); }
