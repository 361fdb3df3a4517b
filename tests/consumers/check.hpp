#pragma once
#include <cmath>
#include <cstdint>
#include <iostream>
#include <vector>

// What the consumers compare heed with: softmax(q k^T / sqrt(d)) v in plain loops and double, without heed or Eigen.
namespace check {

// Fills a matrix with numbers in [-1, 1) that look random and are the same everywhere.
template <class M>
void fill(M& m, std::uint32_t seed) {
  for (decltype(m.rows()) i = 0; i < m.rows(); ++i) {
    for (decltype(m.cols()) c = 0; c < m.cols(); ++c) {
      seed = seed * 1664525u + 1013904223u;
      m(i, c) = static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
    }
  }
}

// 0 if `out` is right to 1e-5 everywhere, 1 otherwise: what main returns.
template <class Q, class K, class V, class Out>
int attention(const char* name, const Q& q, const K& k, const V& v, const Out& out) {
  const std::int64_t n_q = q.rows(), n_k = k.rows(), d = q.cols(), d_v = v.cols();
  if (out.rows() != n_q || out.cols() != d_v) {
    std::cerr << name << ": out is " << out.rows() << " x " << out.cols() << '\n';
    return 1;
  }
  double worst = 0;
  std::vector<double> weight(static_cast<std::size_t>(n_k));
  for (std::int64_t i = 0; i < n_q; ++i) {
    double sum = 0;
    for (std::int64_t j = 0; j < n_k; ++j) {
      double score = 0;
      for (std::int64_t c = 0; c < d; ++c) score += static_cast<double>(q(i, c)) * static_cast<double>(k(j, c));
      sum += weight[static_cast<std::size_t>(j)] = std::exp(score / std::sqrt(static_cast<double>(d)));
    }
    for (std::int64_t c = 0; c < d_v; ++c) {
      double want = 0;
      for (std::int64_t j = 0; j < n_k; ++j) {
        want += weight[static_cast<std::size_t>(j)] / sum * static_cast<double>(v(j, c));
      }
      const double error = std::abs(static_cast<double>(out(i, c)) - want);
      if (!(error <= worst)) worst = error;  // NaN counts as wrong
    }
  }
  std::cout << name << ": largest error " << worst << '\n';
  return worst <= 1e-5 ? 0 : 1;
}

}  // namespace check
