// Conformance of gradients: every method that has them. Routing is taken as it is (RoutingGradient::none), so that what
// a method returns is smooth; what its routing adds is tested with the method.
#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "support/allocations.hpp"
#include "support/conformance.hpp"
#include "support/strided.hpp"

namespace heed::test {
namespace {

constexpr BackwardOptions along_pairs{.routing = RoutingGradient::none};

template <class S>
struct OwnedGradients {
  Matrix<S> d_q, d_k, d_v;
};

/// Gradients of one call after its forward pass. Entries that are left out stay NaN.
template <class S>
OwnedGradients<S> gradients(const AnyMethod<S>& method, const Inputs<S>& in, const AttentionResult<S>& r,
                            const Matrix<S>& d_out, const AttentionOptions& options = {}, const Context& context = {},
                            const BackwardOptions& backward = along_pairs) {
  OwnedGradients<S> grads{Matrix<S>::Constant(in.q.rows(), in.q.cols(), nan_of<S>()),
                          Matrix<S>::Constant(in.k.rows(), in.k.cols(), nan_of<S>()),
                          Matrix<S>::Constant(in.v.rows(), in.v.cols(), nan_of<S>())};
  method.backward_into({out_map(grads.d_q), out_map(grads.d_k), out_map(grads.d_v)}, in_map(d_out), in_map(in.q),
                       in_map(in.k), in_map(in.v), in_map(r.out), r.lse, options, context, backward);
  return grads;
}

template <class S>
void expect_same(const OwnedGradients<S>& got, const OwnedGradients<S>& want) {
  EXPECT_SAME_BITS(got.d_q, want.d_q);
  EXPECT_SAME_BITS(got.d_k, want.d_k);
  EXPECT_SAME_BITS(got.d_v, want.d_v);
}

/// What rounding of sums in the scalar, and of operands of bfloat16 products, may make of gradients this large.
template <class S>
double rounding_of(const Matrix<double>& gradient) {
  const double unit = std::is_same_v<S, Eigen::bfloat16> ? 0x1p-8 : static_cast<double>(Eigen::NumTraits<S>::epsilon());
  return 64.0 * unit * std::max(1.0, gradient.size() == 0 ? 0.0 : gradient.cwiseAbs().maxCoeff());
}

template <class S>
void expect_near(const Matrix<S>& got, const Matrix<double>& want) {
  EXPECT_MATRIX_NEAR(got, want, rounding_of<S>(want));
}

TEST_P(MethodConformance, GradientsAreCentralDifferences) {
  if (GetParam().dtype != Dtype::f64) GTEST_SKIP() << "differences are taken in double";
  for (const Sizes& sizes : {Sizes{.n_q = 37, .n_k = 53, .d = 5, .d_v = 3}, Sizes{.n_q = 65, .d = 9, .d_v = 17},
                             Sizes{.n_q = 1, .n_k = 1, .d = 2}, Sizes{.n_q = 3, .n_k = 0}, Sizes{.n_q = 0, .n_k = 3}}) {
    Inputs<double> in = random_inputs<double>(sizes);
    const AnyMethod<double> method = method_case().make(in);
    if (!method.backward_into) GTEST_SKIP() << "the method has no gradient";
    const Index n_q = in.q.rows(), n_k = in.k.rows();
    const Matrix<double> d_out = random_matrix<double>(n_q, in.v.cols(), 31), d_lse = random_matrix<double>(n_q, 1, 32);
    BackwardOptions backward = along_pairs;
    if (method_case().has_softmax) backward.d_lse = d_lse;
    const OptionStore store(n_q, n_k);
    std::vector<OptionKind> kinds{{"no option", "", [](AttentionOptions&, const OptionStore&) {}}};
    for (const OptionKind& kind : option_kinds(store)) {
      if (method_case().supports(kind.name)) kinds.push_back(kind);
    }
    for (const OptionKind& kind : kinds) {
      SCOPED_TRACE(std::string(kind.name) + ", last inputs: " + last_inputs());
      const AttentionOptions options = options_of(store, kind);
      const OwnedGradients<double> got = gradients(method, in, call(method, in, options), d_out, options, {}, backward);
      const auto loss = [&] {
        const AttentionResult<double> r = call(method, in, options);
        double sum = (r.out.array() * d_out.array()).sum();
        for (Index i = 0; method_case().has_softmax && i < n_q; ++i) {
          if (!heed::detail::is_minus_infinity(r.lse(i))) sum += r.lse(i) * d_lse(i, 0);
        }
        return sum;
      };
      const auto check = [&](Matrix<double>& operand, const Matrix<double>& gradient, const char* name) {
        ASSERT_TRUE(gradient.rows() == operand.rows() && gradient.cols() == operand.cols());
        NumberStream numbers(33);
        for (int t = 0; t < 12 && operand.size() > 0; ++t) {
          const Index i = numbers.below(operand.rows()), c = numbers.below(operand.cols());
          const double at = operand(i, c), step = 1e-5;
          operand(i, c) = at + step;
          const double above = loss();
          operand(i, c) = at - step;
          const double below = loss();
          operand(i, c) = at;
          EXPECT_NEAR(gradient(i, c), (above - below) / (2.0 * step), 1e-7 * std::max(1.0, std::abs(gradient(i, c))))
              << name << "(" << i << ", " << c << ")";
        }
      };
      check(in.q, got.d_q, "d_q");
      check(in.k, got.d_k, "d_k");
      check(in.v, got.d_v, "d_v");
    }
  }
}

TEST_P(MethodConformance, GradientsAreTheSameBitsForAnyThreadsAndWorkspace) {
  with_scalar([&]<class S>(S) {
    const Inputs<S> in = random_inputs<S>({.n_q = 613, .n_k = 570, .d = 24, .d_v = 17});  // several cells of a head
    const AnyMethod<S> method = method_case().make(in);
    if (!method.backward_into) GTEST_SKIP() << "the method has no gradient";
    const Matrix<S> d_out = random_matrix<S>(613, 17, 31);
    const OptionStore store(613, 570);
    std::vector<AttentionOptions> all_options(1);
    for (const OptionKind& kind : option_kinds(store)) {
      if ((kind.name == "bottom_right" || kind.name == "allowed") && method_case().supports(kind.name))
        all_options.push_back(options_of(store, kind));
    }
    Workspace workspace;  // dirty from the second call on
    for (const AttentionOptions& options : all_options) {
      const AttentionResult<S> r = call(method, in, options);
      const OwnedGradients<S> want = gradients(method, in, r, d_out, options, {.threads = 1});
      for (const Index threads : {1, 2, 7}) {
        SCOPED_TRACE("threads = " + std::to_string(threads));
        expect_same(gradients(method, in, r, d_out, options, {.workspace = &workspace, .threads = threads}), want);
      }
    }
  });
}

TEST_P(MethodConformance, GradientsOfAnyLayoutAreTheSame) {
  with_scalar([&]<class S>(S) {
    const Inputs<S> in = random_inputs<S>({.n_q = 65, .n_k = 113, .d = 9, .d_v = 7});
    const AnyMethod<S> method = method_case().make(in);
    if (!method.backward_into) GTEST_SKIP() << "the method has no gradient";
    const Matrix<S> d_out = random_matrix<S>(65, 7, 31);
    const AttentionResult<S> r = call(method, in);
    const OwnedGradients<S> want = gradients(method, in, r, d_out);
    for (const Layout layout : {Layout::rows, Layout::columns, Layout::both, Layout::spread}) {
      SCOPED_TRACE(static_cast<int>(layout));
      const Strided<S> q(in.q, layout), k(in.k, layout), v(in.v, layout), out(r.out, layout), given(d_out, layout);
      Strided<S> d_q(65, 9, layout), d_k(113, 9, layout), d_v(113, 7, layout);
      method.backward_into({d_q.map(), d_k.map(), d_v.map()}, given.map(), q.map(), k.map(), v.map(), out.map(), r.lse,
                           {}, {}, along_pairs);
      expect_same({d_q.map(), d_k.map(), d_v.map()}, want);
      EXPECT_TRUE(d_q.surroundings_untouched() && d_k.surroundings_untouched() && d_v.surroundings_untouched());
    }
  });
}

TEST_P(MethodConformance, GradientsAreLinearInThoseOfOut) {
  with_scalar([&]<class S>(S) {
    const Inputs<S> in = random_inputs<S>({.n_q = 65, .n_k = 113, .d = 9, .d_v = 7});
    const AnyMethod<S> method = method_case().make(in);
    if (!method.backward_into) GTEST_SKIP() << "the method has no gradient";
    Matrix<S> a(65, 7), b(65, 7), sum(65, 7);  // small integers, so that 2 a + b is exact in every scalar
    for (Index i = 0; i < 65; ++i) {
      for (Index c = 0; c < 7; ++c) {
        const int x = static_cast<int>((i * 7 + c * 3) % 9) - 4, y = static_cast<int>((i * 5 + c) % 7) - 3;
        a(i, c) = static_cast<S>(static_cast<float>(x));
        b(i, c) = static_cast<S>(static_cast<float>(y));
        sum(i, c) = static_cast<S>(static_cast<float>(2 * x + y));
      }
    }
    const AttentionResult<S> r = call(method, in);
    const OwnedGradients<S> of_a = gradients(method, in, r, a), of_b = gradients(method, in, r, b),
                            of_sum = gradients(method, in, r, sum);
    const auto check = [](const Matrix<S>& of_both, const Matrix<S>& x, const Matrix<S>& y) {
      expect_near<S>(of_both, 2.0 * x.template cast<double>() + y.template cast<double>());
    };
    check(of_sum.d_q, of_a.d_q, of_b.d_q);
    check(of_sum.d_k, of_a.d_k, of_b.d_k);
    check(of_sum.d_v, of_a.d_v, of_b.d_v);
  });
}

TEST_P(MethodConformance, GradientsOfMergedPartsAreThoseOfTheWhole) {
  with_scalar([&]<class S>(S) {
    using A = Accumulator<S>;
    const MethodCase& method_of = method_case();
    if (!method_of.has_softmax || method_of.positional || method_of.falls_back) GTEST_SKIP() << "parts do not merge";
    const Inputs<S> in = random_inputs<S>({.n_q = 65, .n_k = 203, .d = 8, .d_v = 9});
    const AnyMethod<S> method = method_of.make(in);
    if (!method.backward_into) GTEST_SKIP() << "the method has no gradient";
    const Matrix<S> d_out = random_matrix<S>(65, 9, 31);
    const AttentionResult<S> whole = call(method, in);
    const OwnedGradients<S> want = gradients(method, in, whole, d_out);
    Matrix<double> d_q = Matrix<double>::Zero(65, 8);
    for (const auto& [first, n] : {std::pair<Index, Index>{0, 100}, {100, 103}}) {
      const Inputs<S> part{in.q, in.k.middleRows(first, n), in.v.middleRows(first, n), in.made_from};
      const AttentionResult<S> r = call(method, part);
      // out = sum of e^(lse_p - lse) out_p, so each part hears of its share of the change, by out and by lse.
      Matrix<S> d_part(65, 9);
      Matrix<A> d_lse(65, 1);
      for (Index i = 0; i < 65; ++i) {
        const double share = std::exp(static_cast<double>(r.lse(i)) - static_cast<double>(whole.lse(i)));
        double change = 0;
        for (Index c = 0; c < 9; ++c) {
          const double given = static_cast<double>(d_out(i, c));
          d_part(i, c) = static_cast<S>(share * given);
          change += share * given * (static_cast<double>(r.out(i, c)) - static_cast<double>(whole.out(i, c)));
        }
        d_lse(i, 0) = static_cast<A>(change);
      }
      BackwardOptions backward = along_pairs;
      backward.d_lse = d_lse;
      const OwnedGradients<S> got = gradients(method, part, r, d_part, {}, {}, backward);
      d_q += got.d_q.template cast<double>();
      expect_near<S>(got.d_k, want.d_k.middleRows(first, n).template cast<double>());
      expect_near<S>(got.d_v, want.d_v.middleRows(first, n).template cast<double>());
    }
    expect_near<S>(want.d_q, d_q);
  });
}

TEST_P(MethodConformance, KeysThatAreNotThereHaveGradientsOfZero) {
  with_scalar([&]<class S>(S) {
    if (!method_case().supports("padding")) GTEST_SKIP() << "no padding mask";
    const Inputs<S> in = random_inputs<S>({.n_q = 70, .n_k = 113, .d = 8, .d_v = 9});
    const AnyMethod<S> method = method_case().make(in);
    if (!method.backward_into) GTEST_SKIP() << "the method has no gradient";
    const Matrix<S> d_out = random_matrix<S>(70, 9, 31);
    for (const Index n_real : {0, 1, 64, 100}) {
      AttentionOptions options;
      options.mask.n_real_keys = n_real;
      Inputs<S> spoiled = in;
      fill(spoiled.k.bottomRows(113 - n_real), nan_of<S>());
      fill(spoiled.v.bottomRows(113 - n_real), infinity_of<S>());
      const AttentionResult<S> r = call(method, in, options);
      const OwnedGradients<S> got = gradients(method, spoiled, r, d_out, options);
      expect_same(got, gradients(method, in, r, d_out, options));
      EXPECT_TRUE((got.d_k.bottomRows(113 - n_real).array() == S(0)).all());
      EXPECT_TRUE((got.d_v.bottomRows(113 - n_real).array() == S(0)).all());
      if (n_real == 0) {
        EXPECT_TRUE((got.d_q.array() == S(0)).all());
      }
    }
  });
}

TEST_P(MethodConformance, GradientsOfSharedKeysAreSumsOverHeads) {
  with_scalar([&]<class S>(S) {
    constexpr Index heads = 4, n_q = 70, n_k = 90, d = 6, d_v = 5;
    for (const Index n_kv : {1, 2, 4}) {
      const Inputs<S> in{random_matrix<S>(n_q, heads * d, 21), random_matrix<S>(n_k, n_kv * d, 22),
                         random_matrix<S>(n_k, n_kv * d_v, 23)};
      const auto head = [&](Index h) {
        const Index kv = h / (heads / n_kv);
        return Inputs<S>{in.q.middleCols(h * d, d), in.k.middleCols(kv * d, d), in.v.middleCols(kv * d_v, d_v)};
      };
      const AnyMethod<S> method = method_case().make(head(0));
      if (!method.multi_head_backward_into) GTEST_SKIP() << "the method has no gradient";
      const Matrix<S> d_out = random_matrix<S>(n_q, heads * d_v, 31);
      Matrix<S> out(n_q, heads * d_v);
      Matrix<Accumulator<S>> lse(n_q, heads);
      OwnedGradients<S> got{in.q, in.k, in.v};
      const HeadOptions packed{.n_heads = heads, .n_kv_heads = n_kv};
      method.multi_head_attend_into(out_map(out), out_map(lse), in_map(in.q), in_map(in.k), in_map(in.v), packed, {},
                                    {});
      method.multi_head_backward_into({out_map(got.d_q), out_map(got.d_k), out_map(got.d_v)}, in_map(d_out),
                                      in_map(in.q), in_map(in.k), in_map(in.v), in_map(out), lse, packed, {},
                                      {.threads = 2}, along_pairs);
      Matrix<double> d_k = Matrix<double>::Zero(n_k, n_kv * d), d_v_sum = Matrix<double>::Zero(n_k, n_kv * d_v);
      for (Index h = 0; h < heads; ++h) {
        const Index kv = h / (heads / n_kv);
        const Inputs<S> one = head(h);
        const OwnedGradients<S> own = gradients<S>(method, one, call(method, one), d_out.middleCols(h * d_v, d_v));
        EXPECT_SAME_BITS(got.d_q.middleCols(h * d, d).eval(), own.d_q);
        d_k.middleCols(kv * d, d) += own.d_k.template cast<double>();
        d_v_sum.middleCols(kv * d_v, d_v) += own.d_v.template cast<double>();
      }
      expect_near<S>(got.d_k, d_k);
      expect_near<S>(got.d_v, d_v_sum);
    }
  });
}

TEST_P(MethodConformance, CountedWorkOfGradientsEqualsTheFormula) {
  if (GetParam().dtype != Dtype::f64 && GetParam().dtype != Dtype::f32) GTEST_SKIP() << "counts know no scalars";
  if (!method_case().backward_flops) GTEST_SKIP() << "the method's own tests have its formula";
  with_scalar([&]<class S>(S) {
    const Inputs<S> in = random_inputs<S>({.n_q = 65, .n_k = 113, .d = 9, .d_v = 7});
    const AnyMethod<S> method = method_case().make(in);
    if (!method.backward_into) GTEST_SKIP() << "the method has no gradient";
    const Matrix<S> d_out = random_matrix<S>(65, 7, 31);
    const OptionStore store(65, 113);
    std::vector<AttentionOptions> all_options(1);
    for (const OptionKind& kind : option_kinds(store)) {
      if (method_case().supports(kind.name)) all_options.push_back(options_of(store, kind));
    }
    for (const AttentionOptions& options : all_options) {
      if (!options.mask.query_lengths.empty()) continue;  // work of fewer queries: see batch_test.cpp
      const PairMatrix kept = kept_pairs(method_case(), in, options);
      const FlopCounter want =
          method_case().backward_flops({.n_q = 65,
                                        .n_k = 113,
                                        .d = 9,
                                        .d_v = 7,
                                        .kept_pairs = static_cast<double>(kept.count()),
                                        .real_keys = static_cast<double>(real_keys_of(options.mask, 113)),
                                        .options = options,
                                        .in = in.template cast<double>()});
      FlopCounter got;
      gradients(method, in, call(method, in, options), d_out, options, {.flops = &got});
      for (const Phase phase : {Phase::scores, Phase::values, Phase::backward_scores, Phase::backward_values})
        EXPECT_EQ(got.products(phase), want.products(phase)) << "phase " << static_cast<int>(phase);
      EXPECT_EQ(got.exponentials(), want.exponentials());
    }
  });
}

TEST_P(MethodConformance, TheSecondBackwardPassWithAWorkspaceAllocatesNothing) {
  if (!counts_allocations() || !method_case().reuses_workspace) GTEST_SKIP() << "allocations are not counted here";
  with_scalar([&]<class S>(S) {
    const Inputs<S> in = random_inputs<S>({.n_q = 213, .n_k = 333, .d = 40, .d_v = 24});
    const AnyMethod<S> method = method_case().make(in);
    if (!method.backward_into) GTEST_SKIP() << "the method has no gradient";
    const Matrix<S> d_out = random_matrix<S>(213, 24, 31);
    OwnedGradients<S> grads{in.q, in.k, in.v};
    const GradientMaps<S> to{out_map(grads.d_q), out_map(grads.d_k), out_map(grads.d_v)};
    const AttentionResult<S> r = call(method, in);
    for (const Index threads : {1, 2}) {
      Workspace workspace;
      FlopCounter flops;
      std::uint64_t before = 0;
      for (int turn = 0; turn < 2; ++turn) {
        before = allocations();
        method.backward_into(to, in_map(d_out), in_map(in.q), in_map(in.k), in_map(in.v), in_map(r.out), r.lse, {},
                             {.flops = &flops, .workspace = &workspace, .threads = threads}, along_pairs);
      }
      EXPECT_EQ(allocations() - before, 0u) << "threads = " << threads;
    }
  });
}

}  // namespace
}  // namespace heed::test
