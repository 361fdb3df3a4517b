#include "../check.hpp"
#include "units.hpp"

int main() {
  Operand q(200, 80), k(203, 80), v(203, 80);
  check::fill(q, 7);
  check::fill(k, 8);
  check::fill(v, 9);
  const Answers declared = declared_answers(q, k, v), own = own_answers(q, k, v);
  int wrong =
      check::attention("declared", q, k, v, declared.exact.out) | check::attention("own", q, k, v, own.exact.out);
  const auto same = [](const auto& a, const auto& b) { return a.out == b.out && a.lse == b.lse; };
  if (!same(declared.exact, own.exact) || !same(declared.over_leaves, own.over_leaves) ||
      !same(declared.changed, own.changed) || !same(declared.heads, own.heads) ||
      declared.gradients.d_q != own.gradients.d_q || declared.gradients.d_v != own.gradients.d_v) {
    std::cerr << "the two files returned different bits\n";
    wrong = 1;
  }
  return wrong;
}
