#include "units.hpp"

heed::AttentionResult<float> attend_plain(const Operand& q, const Operand& k, const Operand& v) {
  return heed::attend(q, k, v);
}
