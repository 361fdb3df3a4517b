#include <array>
#include <cmath>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/tc_attention.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/multi_head.hpp"
#include "support/allocations.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/strided.hpp"
#include "support/tc_formula.hpp"
#include "support/tc_gradient.hpp"
#include "support/trees.hpp"

namespace heed::test::tc_backward {
namespace {

template <class S>
Vector<Accumulator<S>> logits_of(Index height) {
  Vector<Accumulator<S>> logits(height + 1);
  for (Index t = 0; t <= height; ++t) logits(t) = static_cast<Accumulator<S>>(0.4 - 0.2 * static_cast<double>(t * t));
  return logits;
}

/// A tree whose projections mostly lie within the surrogate's reach.
template <class S>
DecisionTree<S> near_tree(Index height, Index d, const TreeOptions<Accumulator<S>>& options = {}) {
  const auto wide = random_tree<S>(height, d, 3, options);
  return DecisionTree<S>(wide.planes() / static_cast<Accumulator<S>>(std::sqrt(static_cast<double>(d))), wide.biases(),
                         options);
}

struct Case {
  Sizes sizes;
  Index height = 3;
  TcOptions tc{};
  AttentionOptions options{};
  RoutingGradient routing = RoutingGradient::flip;
  Vector<double> logits{};  ///< default: logits_of(height)
  TreeOptions<double> tree{};
};

/// Largest difference over the largest entry.
template <class Got, class Want>
double off_by(const Got& got, const Want& want) {
  EXPECT_EQ(got.rows(), want.rows());
  EXPECT_EQ(got.cols(), want.cols());
  double largest = 1e-3, difference = 0;
  for (Index i = 0; i < want.rows(); ++i) {
    for (Index c = 0; c < want.cols(); ++c) {
      const double x = static_cast<double>(got(i, c)), y = static_cast<double>(want(i, c));
      if (!heed::detail::is_finite(x)) return HUGE_VAL;
      largest = std::max(largest, std::abs(y));
      difference = std::max(difference, std::abs(x - y));
    }
  }
  return difference / largest;
}

template <class Grads>
void expect_gradients(const Grads& got, const TcPoint& want, double tolerance) {
  EXPECT_LT(off_by(got.d_q, want.q), tolerance);
  EXPECT_LT(off_by(got.d_k, want.k), tolerance);
  EXPECT_LT(off_by(got.d_v, want.v), tolerance);
  EXPECT_LT(off_by(got.d_level_logits, want.logits), tolerance);
  EXPECT_LT(off_by(got.d_tree.planes, want.planes), tolerance);
  EXPECT_LT(off_by(got.d_tree.biases, want.biases), tolerance);
}

struct Problem {
  Inputs<double> in;
  Matrix<double> d_out;
  TcAttention<double> tc;
  DecisionTree<double> tree;  // with the biases of the call
};
Problem problem_of(const Case& c) {
  const auto in = random_inputs<double>(c.sizes);
  const auto tree = near_tree<double>(c.height, c.sizes.d, c.tree);
  const Vector<double> logits = c.logits.size() > 0 ? c.logits : logits_of<double>(c.height);
  return {in, random_matrix<double>(in.q.rows(), in.v.cols(), 91), TcAttention<double>(tree, logits, c.tc),
          tree.with_biases_of(in.k)};
}

auto backward_of(const Problem& p, const Case& c, Index threads = 1) {
  BackwardOptions backward;
  backward.routing = c.routing;
  const auto r = attend(p.in.q, p.in.k, p.in.v, c.options, p.tc);
  return attend_backward(p.d_out, p.in.q, p.in.k, p.in.v, r, c.options, p.tc, {.threads = threads}, backward);
}

void check(const Case& c, double tolerance = 1e-12) {
  SCOPED_TRACE(testing::Message() << c.sizes << " height " << c.height << (c.tc.by_query ? " by query" : ""));
  const Problem p = problem_of(c);
  const PlainTcGradient plain(p.tc, p.tree, p.in, p.d_out, c.options, c.routing != RoutingGradient::none);
  expect_gradients(backward_of(p, c), plain.gradient(), tolerance);
}

/// The formula of the check itself, entry by entry.
TEST(TcBackward, PlainGradientIsTheDerivativeOfItsStraightThroughLoss) {
  for (const bool by_query : {false, true}) {
    for (const Causal causal : {Causal::none, Causal::bottom_right}) {
      for (const bool lift : {false, true}) {
        Case c{.sizes = {.n_q = 6, .n_k = 9, .d = 3, .d_v = 2}, .height = 2, .tc = {.by_query = by_query}};
        c.options.mask.causal = causal;
        if (lift) c.tree.lift = random_lift<double>(2, 3);
        const Problem p = problem_of(c);
        const PlainTcGradient plain(p.tc, p.tree, p.in, p.d_out, c.options);
        EXPECT_NEAR(plain.objective(plain.at),
                    attend(p.in.q, p.in.k, p.in.v, c.options, p.tc).out.cwiseProduct(p.d_out).sum(), 1e-13);
        TcPoint want = plain.gradient(), moved = plain.at;
        const auto compare = [&](auto& entries, const auto& gradient) {
          for (Index e = 0; e < entries.size(); ++e) {
            constexpr double step = 1e-5;
            const double before = entries.data()[e];
            entries.data()[e] = before + step;
            const double up = plain.objective(moved);
            entries.data()[e] = before - step;
            const double down = plain.objective(moved);
            entries.data()[e] = before;
            EXPECT_NEAR((up - down) / (2 * step), gradient.data()[e], 2e-8);
          }
        };
        compare(moved.q, want.q), compare(moved.k, want.k), compare(moved.v, want.v);
        compare(moved.planes, want.planes), compare(moved.biases, want.biases), compare(moved.logits, want.logits);
      }
    }
  }
}

/// Where nothing is straight through, the derivative of the method itself.
TEST(TcBackward, WithoutRoutingEqualsCentralDifferencesOfTheMethod) {
  for (const bool by_query : {false, true}) {
    for (const Causal causal : {Causal::none, Causal::top_left}) {
      Case c{.sizes = {.n_q = 9, .n_k = 7, .d = 3, .d_v = 2}, .height = 2, .tc = {.by_query = by_query}};
      c.options.mask.causal = causal;
      c.routing = RoutingGradient::none;
      Problem p = problem_of(c);
      const auto got = backward_of(p, c);
      EXPECT_EQ(got.d_tree.planes.cwiseAbs().maxCoeff(), 0);
      const auto compare = [&](auto& entries, const auto& gradient) {
        for (Index e = 0; e < entries.size(); ++e) {
          constexpr double step = 1e-6;
          const auto loss = [&](double by) {
            const double before = entries.data()[e];
            entries.data()[e] += by;
            const double sum = attend(p.in.q, p.in.k, p.in.v, c.options, p.tc).out.cwiseProduct(p.d_out).sum();
            entries.data()[e] = before;
            return sum;
          };
          EXPECT_NEAR((loss(step) - loss(-step)) / (2 * step), gradient.data()[e], 1e-8);
        }
      };
      compare(p.in.q, got.d_q), compare(p.in.k, got.d_k), compare(p.in.v, got.d_v);
      for (Index t = 0; t <= 2; ++t) {
        const auto loss = [&](double by) {
          Vector<double> logits = p.tc.level_logits();
          logits(t) += by;
          const TcAttention<double> tc(p.tc.tree(), logits, c.tc);
          return attend(p.in.q, p.in.k, p.in.v, c.options, tc).out.cwiseProduct(p.d_out).sum();
        };
        EXPECT_NEAR((loss(1e-6) - loss(-1e-6)) / 2e-6, got.d_level_logits(t), 1e-8);
      }
    }
  }
}

TEST(TcBackward, EqualsThePlainGradientUnderEveryOption) {
  for (const Sizes& sizes : {Sizes{.n_q = 37, .n_k = 53, .d = 9, .d_v = 7}, Sizes{.n_q = 65, .d = 4, .d_v = 17},
                             Sizes{.n_q = 113, .n_k = 203, .d = 5, .d_v = 4}}) {
    const OptionStore store(sizes.n_q, sizes.n_k.value_or(sizes.n_q));
    for (const bool by_query : {false, true}) {
      for (const RoutingGradient routing : {RoutingGradient::none, RoutingGradient::flip}) {
        check({.sizes = sizes, .tc = {.by_query = by_query}, .routing = routing});
        for (const OptionKind& a : option_kinds(store)) {
          for (const OptionKind& b : option_kinds(store)) {
            if (!tc_supports(a.name) || !tc_supports(b.name) || !fit_together(a, b) || sizes.n_q > 100) continue;
            SCOPED_TRACE(std::string(a.name) + " and " + std::string(b.name));
            check(
                {.sizes = sizes, .tc = {.by_query = by_query}, .options = options_of(store, a, b), .routing = routing});
          }
        }
      }
    }
  }
}

TEST(TcBackward, NodesWithoutKeysAndLevelsThatAreOffGiveNothing) {
  for (const bool by_query : {false, true}) {
    for (const Causal causal : {Causal::none, Causal::bottom_right, Causal::top_left}) {
      const double off = minus_infinity_of<double>();
      for (const Vector<double>& logits :
           {Vector<double>{{0.0, 0.5, off, 0.2, 1.0, 0.1}}, Vector<double>{{off, -1e30, 0.0, 0.0, 0.0, 0.0}},
            Vector<double>{{-900.0, 0.5, 900.0, 0.2, off, 300.0}}, Vector<double>{{off, off, off, off, off, off}}}) {
        for (const Index n_k : {1, 5, 60}) {
          Case c{.sizes = {.n_q = 40, .n_k = n_k, .d = 4, .d_v = 3}, .height = 5, .tc = {.by_query = by_query}};
          c.options.mask.causal = causal;
          c.logits = logits;
          check(c);
        }
      }
    }
  }
}

TEST(TcBackward, FollowsTheBiasesOfMediansAndTheLiftOfKeys) {
  for (const bool by_query : {false, true}) {
    for (const bool lift : {false, true}) {
      for (const bool medians : {false, true}) {
        Case c{.sizes = {.n_q = 65, .n_k = 113, .d = 5}, .tc = {.by_query = by_query}};
        if (medians) c.tree.biases = TreeBiases::key_medians;
        if (lift) c.tree.lift = random_lift<double>(3, 5);
        check(c);
        if (!medians) c.options.mask.causal = Causal::bottom_right;
        check(c);
      }
    }
  }
}

TEST(TcBackward, SmallCallsAndTreesHaveGradientsToo) {
  for (const bool by_query : {false, true}) {
    for (const Causal causal : {Causal::none, Causal::bottom_right}) {
      for (const Index height : {0, 1, 4}) {
        for (const auto& [n_q, n_k] : {std::array<Index, 2>{1, 1}, {0, 3}, {3, 0}, {1, 70}, {70, 1}, {0, 0}}) {
          for (const Index d_v : {1, 3}) {
            Case c{
                .sizes = {.n_q = n_q, .n_k = n_k, .d = 2, .d_v = d_v}, .height = height, .tc = {.by_query = by_query}};
            c.options.mask.causal = causal;
            check(c);
          }
        }
      }
    }
  }
}

/// Long enough for several pieces, and for running sums that are kept at several places.
TEST(TcBackward, LongCallsGiveTheSameBitsForAnyThreads) {
  for (const bool by_query : {false, true}) {
    for (const Causal causal : {Causal::none, Causal::bottom_right, Causal::top_left}) {
      Case c{.sizes = {.n_q = 1300, .n_k = 1700, .d = 4, .d_v = 3}, .height = 2, .tc = {.by_query = by_query}};
      c.options.mask.causal = causal;
      const Problem p = problem_of(c);
      const auto one = backward_of(p, c, 1);
      const PlainTcGradient plain(p.tc, p.tree, p.in, p.d_out, c.options);
      expect_gradients(one, plain.gradient(), 1e-11);
      for (const Index threads : {2, 5}) {
        const auto got = backward_of(p, c, threads);
        EXPECT_SAME_BITS(got.d_q, one.d_q);
        EXPECT_SAME_BITS(got.d_k, one.d_k);
        EXPECT_SAME_BITS(got.d_v, one.d_v);
        EXPECT_SAME_BITS(got.d_level_logits, one.d_level_logits);
        EXPECT_SAME_BITS(got.d_tree.planes, one.d_tree.planes);
        EXPECT_SAME_BITS(got.d_tree.biases, one.d_tree.biases);
      }
    }
  }
}

}  // namespace
}  // namespace heed::test::tc_backward
