#include "units.hpp"

heed::AttentionResult<float> attend_native(const Operand& q, const Operand& k, const Operand& v) {
  return heed::attend(q, k, v);
}
