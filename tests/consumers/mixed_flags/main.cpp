#include "../check.hpp"
#include "units.hpp"

int main() {
  Operand q(200, 80), k(203, 80), v(203, 80);
  check::fill(q, 7);
  check::fill(k, 8);
  check::fill(v, 9);
  heed::AttentionResult<float> plain = attend_plain(q, k, v);
  heed::AttentionResult<float> native = attend_native(q, k, v);
  int wrong = check::attention("plain", q, k, v, plain.out) | check::attention("native", q, k, v, native.out);
  if (plain.out != native.out || plain.lse != native.lse) {
    std::cerr << "the two units returned different bits\n";
    wrong = 1;
  }
  for (int i = 0; i < 100; ++i) {  // results of one unit become operands of the other, and are freed here
    const heed::AttentionResult<float> next =
        i % 2 == 0 ? attend_native(plain.out, k, v) : attend_plain(native.out, k, v);
    wrong |= next.out.allFinite() ? 0 : 1;
    (i % 2 == 0 ? native : plain) = next;
  }
  return wrong;
}
