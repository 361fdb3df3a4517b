#pragma once
#include <Eigen/Core>

#include "heed/heed.hpp"
#include "check.hpp"

// The smallest program that uses heed, and one with more around it: sizes off every grid, masks, another storage order.
inline int main_program(const char* name) {
  Eigen::MatrixXf q(37, 24), k(131, 24), v(131, 17);
  check::fill(q, 1);
  check::fill(k, 2);
  check::fill(v, 3);
  auto [out, lse] = heed::attend(q, k, v);
  int wrong = check::attention(name, q, k, v, out);

  // Keys from 101 on are padding: the same as not passing them.
  const auto padded = heed::attend(q, k, v, {.mask = {.n_real_keys = 101}});
  wrong |= check::attention(name, q, k.topRows(101), v.topRows(101), padded.out);
  return wrong | (lse.size() == q.rows() ? 0 : 1);
}
