// The oracle's gradient against central differences, in long double: every input, every option.
#include <cmath>
#include <functional>
#include <string>

#include <gtest/gtest.h>

#include "heed/exact/reference.hpp"
#include "heed/exact/reference_backward.hpp"
#include "support/inputs.hpp"
#include "support/option_kinds.hpp"

namespace heed::test {
namespace {

/// s + sin(s) / 2 with its derivative; masks some pairs.
struct BendingFunctor {
  template <class T>
  T operator()(T s, Index i, Index j) const {
    if ((i + 2 * j) % 7 == 3) return -std::numeric_limits<T>::infinity();
    return s + std::sin(s) / 2;
  }
  template <class T>
  T derivative(T s, Index, Index) const {
    return 1 + std::cos(s) / 2;
  }
};

/// What the gradients are those of: sum of d_out * out and d_lse * lse.
template <class Mod>
double loss(const Inputs<double>& in, const AttentionOptions& options, const Mod& mod, const Matrix<double>& d_out,
            const Matrix<double>& d_lse) {
  const auto r = reference_attention(in.q, in.k, in.v, options, mod);
  double sum = (r.out.array() * d_out.array()).sum();
  for (Index i = 0; i < r.lse.size(); ++i) sum += std::isfinite(r.lse(i)) ? r.lse(i) * d_lse(i, 0) : 0.0;
  return sum;
}

template <class Mod>
void expect_central_differences(AttentionOptions options, Index n_q, Index n_k, const Mod& mod) {
  Inputs<double> in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = 3, .d_v = 2});
  const Matrix<double> d_out = random_matrix<double>(n_q, 2, 91), d_lse = random_matrix<double>(n_q, 1, 92);
  Matrix<double> bias;
  if (options.mask.bias.given()) {
    bias.resize(options.mask.bias.rows() == 1 ? 1 : n_q, n_k);
    for (Index i = 0; i < bias.rows(); ++i) {
      for (Index j = 0; j < n_k; ++j) bias(i, j) = options.mask.bias.at(i, j);
    }
    options.mask.bias = bias;
  }
  std::vector<double> sinks{options.sinks.given() ? options.sinks.of(0) : 0.0};
  if (options.sinks.given()) options.sinks = sinks;
  BackwardOptions backward;
  backward.d_lse = d_lse;
  backward.bias = true;
  const auto got = reference_attention_backward(d_out, in.q, in.k, in.v, options, mod, backward);
  const auto differ = [&](double& x, double want, const std::string& what) {
    const double before = x, step = 1e-5;
    x = before + step;
    const double up = loss(in, options, mod, d_out, d_lse);
    x = before - step;
    const double down = loss(in, options, mod, d_out, d_lse);
    x = before;
    EXPECT_NEAR((up - down) / (2 * step), want, 2e-8) << what;
  };
  for (Index c = 0; c < 3; ++c) {
    for (Index i = 0; i < n_q; ++i) differ(in.q(i, c), got.d_q(i, c), "d_q");
    for (Index j = 0; j < n_k; ++j) differ(in.k(j, c), got.d_k(j, c), "d_k");
  }
  for (Index c = 0; c < 2; ++c) {
    for (Index j = 0; j < n_k; ++j) differ(in.v(j, c), got.d_v(j, c), "d_v");
  }
  if (options.sinks.given()) differ(sinks[0], got.d_sinks(0), "d_sinks");
  for (Index i = 0; i < bias.rows(); ++i) {
    for (Index j = 0; j < bias.cols(); ++j) {
      if (std::isfinite(bias(i, j))) differ(bias(i, j), got.d_bias(i, j), "d_bias");
    }
  }
}

TEST(ReferenceBackward, AgreesWithCentralDifferencesUnderEveryOption) {
  for (const auto& [n_q, n_k] : {std::pair<Index, Index>{9, 9}, {5, 11}, {1, 6}}) {
    const OptionStore store(n_q, n_k);
    expect_central_differences({}, n_q, n_k, NoScoreMod{});
    expect_central_differences({}, n_q, n_k, BendingFunctor{});
    for (const OptionKind& kind : option_kinds(store)) {
      SCOPED_TRACE(std::string(kind.name));
      expect_central_differences(options_of(store, kind), n_q, n_k, NoScoreMod{});
      for (const OptionKind& other : option_kinds(store)) {
        if (kind.name < other.name && fit_together(kind, other))
          expect_central_differences(options_of(store, kind, other), n_q, n_k, BendingFunctor{});
      }
    }
  }
}

TEST(ReferenceBackward, MaskedKeysAndEmptyRowsHaveGradientZero) {
  Inputs<double> in = random_inputs<double>({.n_q = 6, .n_k = 8, .d = 4, .d_v = 3});
  in.k.bottomRows(3).setConstant(std::numeric_limits<double>::quiet_NaN());
  in.v.bottomRows(3).setConstant(std::numeric_limits<double>::quiet_NaN());
  const Matrix<double> d_out = random_matrix<double>(6, 3, 9);
  const auto got = reference_attention_backward(d_out, in.q, in.k, in.v, {.mask = {.n_real_keys = 5}});
  EXPECT_TRUE(got.d_k.bottomRows(3).isZero(0) && got.d_v.bottomRows(3).isZero(0) && got.d_q.allFinite());
  const auto none = reference_attention_backward(d_out, in.q, in.k, in.v, {.mask = {.n_real_keys = 0}});
  EXPECT_TRUE(none.d_q.isZero(0) && none.d_k.isZero(0) && none.d_v.isZero(0));
}

}  // namespace
}  // namespace heed::test
