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

/// Largest difference over the largest entry, or over 1: entries are sums of terms of about that size, which may
/// cancel.
template <class Got, class Want>
double off_by(const Got& got, const Want& want) {
  EXPECT_EQ(got.rows(), want.rows());
  EXPECT_EQ(got.cols(), want.cols());
  double largest = 1, difference = 0;
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
      Case c{.sizes = {.n_q = 600, .n_k = 700, .d = 4, .d_v = 3}, .height = 2, .tc = {.by_query = by_query}};
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

/// Longer than the blocks of queries that threads share out, and not at the beginning.
TEST(TcBackward, EachOfSeveralLongSequencesHasItsOwnGradient) {
  const std::vector<Index> offsets{0, 150, 700};
  for (const bool by_query : {false, true}) {
    for (const Causal causal : {Causal::none, Causal::square}) {
      Case c{.sizes = {.n_q = 700, .n_k = 700, .d = 4, .d_v = 3}, .height = 2, .tc = {.by_query = by_query}};
      c.options.mask.causal = causal;
      c.options.mask.sequence_offsets = offsets;
      check(c, 1e-11);
    }
  }
}

/// Of a table this large one place is kept: threads begin there wherever their tokens are.
TEST(TcBackward, RunningSumsOfALargeTreeGiveTheSameBitsForAnyThreads) {
  Case c{.sizes = {.n_q = 600, .d = 2, .d_v = 1030}, .height = 8};
  c.options.mask.causal = Causal::square;
  const Problem p = problem_of(c);
  const auto one = backward_of(p, c, 1), two = backward_of(p, c, 2);
  EXPECT_SAME_BITS(two.d_q, one.d_q);
  EXPECT_SAME_BITS(two.d_k, one.d_k);
  EXPECT_SAME_BITS(two.d_tree.planes, one.d_tree.planes);
}

TEST(TcBackward, HeadsThatShareKeysOrAMethodAddUpInEveryLayout) {
  const Index n_q = 37, n_k = 53, d = 4, d_v = 3, n_heads = 4, n_kv = 2;
  const Matrix<double> q = random_matrix<double>(n_q, n_heads * d, 1), k = random_matrix<double>(n_k, n_kv * d, 2),
                       v = random_matrix<double>(n_k, n_kv * d_v, 3),
                       d_out = random_matrix<double>(n_q, n_heads * d_v, 4);
  for (const bool by_query : {false, true}) {
    for (const Causal causal : {Causal::none, Causal::bottom_right}) {
      const AttentionOptions options{.mask = {.causal = causal, .n_real_keys = n_k - 2}};
      std::vector<TcAttention<double>> methods;
      for (Index h = 0; h < n_heads; ++h)
        methods.emplace_back(random_tree<double>(2 + h / 2, d, static_cast<std::uint64_t>(h / 2 + 1)),
                             logits_of<double>(2 + h / 2), TcOptions{by_query});
      std::vector<TcPoint> each;
      Matrix<double> d_q(n_q, n_heads * d), d_k = Matrix<double>::Zero(n_k, n_kv * d),
                                            d_v_sum = Matrix<double>::Zero(n_k, n_kv * d_v);
      for (Index h = 0; h < n_heads; ++h) {
        const TcAttention<double>& tc = methods[static_cast<std::size_t>(h)];
        const Inputs<double> in{q.middleCols(h * d, d), k.middleCols(h / 2 * d, d), v.middleCols(h / 2 * d_v, d_v)};
        each.push_back(PlainTcGradient(tc, tc.tree(), in, d_out.middleCols(h * d_v, d_v), options).gradient());
        d_q.middleCols(h * d, d) = each.back().q;
        d_k.middleCols(h / 2 * d, d) += each.back().k;
        d_v_sum.middleCols(h / 2 * d_v, d_v) += each.back().v;
      }
      const HeadOptions heads{.n_heads = n_heads, .n_kv_heads = n_kv};
      const auto expect_operands = [&](const auto& got) {
        EXPECT_LT(off_by(got.d_q, d_q), 1e-12);
        EXPECT_LT(off_by(got.d_k, d_k), 1e-12);
        EXPECT_LT(off_by(got.d_v, d_v_sum), 1e-12);
      };
      const auto r = multi_head_attend(q, k, v, heads, options, methods);
      const auto got = multi_head_attend_backward(d_out, q, k, v, r, heads, options, methods);
      expect_operands(got);
      ASSERT_EQ(got.d_methods.size(), 4u);
      for (std::size_t h = 0; h < 4; ++h) {
        EXPECT_LT(off_by(got.d_methods[h].d_tree.planes, each[h].planes), 1e-12);
        EXPECT_LT(off_by(got.d_methods[h].d_tree.biases, each[h].biases), 1e-12);
        EXPECT_LT(off_by(got.d_methods[h].d_level_logits, each[h].logits), 1e-12);
      }
      // A method for each pair of heads that share keys: its gradient is the sum of both.
      const std::vector<TcAttention<double>> shared{methods[0], methods[2]};
      for (const Layout layout : {Layout::rows, Layout::columns, Layout::both, Layout::spread}) {
        const Strided<double> far_q(q, layout), far_k(k, layout), far_v(v, layout), far_d_out(d_out, layout);
        const auto many = multi_head_attend_backward(far_d_out.map(), far_q.map(), far_k.map(), far_v.map(), r, heads,
                                                     options, shared, {.threads = 2});
        expect_operands(many);
        for (std::size_t m = 0; m < 2; ++m) {
          EXPECT_LT(off_by(many.d_methods[m].d_tree.planes, (each[2 * m].planes + each[2 * m + 1].planes).eval()),
                    1e-12);
          EXPECT_LT(off_by(many.d_methods[m].d_level_logits, (each[2 * m].logits + each[2 * m + 1].logits).eval()),
                    1e-12);
        }
      }
    }
  }
}

TEST(TcBackward, WritesWhatTheCallerHasRoomForAndAllocatesNothing) {
  for (const bool by_query : {false, true}) {
    for (const Causal causal : {Causal::none, Causal::bottom_right}) {
      Case c{.sizes = {.n_q = 65, .n_k = 113, .d = 5, .d_v = 3}, .tc = {.by_query = by_query}};
      c.options.mask.causal = causal;
      const Problem p = problem_of(c);
      const auto r = attend(p.in.q, p.in.k, p.in.v, c.options, p.tc);
      const auto want = backward_of(p, c);
      for (const Layout layout : {Layout::rows, Layout::columns, Layout::spread}) {
        Strided<double> q(65, 5, layout), k(113, 5, layout), v(113, 3, layout), planes(7, 5, layout);
        const Strided<double> far_q(p.in.q, layout), far_k(p.in.k, layout), far_v(p.in.v, layout),
            d_out(p.d_out, layout);
        struct {
          HeadMap<double> d_q, d_k, d_v;
          struct {
            HeadMap<double> planes;
            Vector<double> biases;
          } d_tree;
        } grads{q.map(), k.map(), v.map(), {planes.map(), {}}};
        Workspace workspace;
        const Context context{.workspace = &workspace, .threads = 1};
        const auto call = [&] {
          attend_backward_into(grads, d_out.map(), far_q.map(), far_k.map(), far_v.map(), r.out, r.lse, c.options, p.tc,
                               context);
        };
        call();
        const auto before = allocations();
        call();
        if (counts_allocations()) {
          EXPECT_EQ(allocations(), before);
        }
        EXPECT_SAME_BITS(q.map(), want.d_q);
        EXPECT_SAME_BITS(k.map(), want.d_k);
        EXPECT_SAME_BITS(v.map(), want.d_v);
        EXPECT_SAME_BITS(planes.map(), want.d_tree.planes);
        for (const auto* one : {&q, &k, &v, &planes}) EXPECT_TRUE(one->surroundings_untouched());
      }
    }
  }
}

/// Masked rows are NaN: keys of padding, keys no query sees, and queries that see no key with what comes in for them.
TEST(TcBackward, WhatIsMaskedHasNoInfluenceAndGradientZero) {
  for (const bool by_query : {false, true}) {
    for (const Causal causal : {Causal::none, Causal::bottom_right, Causal::top_left}) {
      Case c{.sizes = {.n_q = 70, .n_k = 60, .d = 4, .d_v = 3}, .tc = {.by_query = by_query}};
      c.options.mask.causal = causal;
      c.options.mask.n_real_keys = 50;
      if (causal == Causal::top_left) c.sizes.n_q = 45;
      Problem p = problem_of(c);
      const auto want = backward_of(p, c);
      const Index n_seen = causal == Causal::top_left ? 45 : 50, n_blind = causal == Causal::bottom_right ? 10 : 0;
      fill(p.in.k.bottomRows(60 - n_seen), nan_of<double>());
      fill(p.in.v.bottomRows(60 - n_seen), nan_of<double>());
      fill(p.in.q.topRows(n_blind), nan_of<double>());
      fill(p.d_out.topRows(n_blind), nan_of<double>());
      const auto got = backward_of(p, c);
      EXPECT_SAME_BITS(got.d_q, want.d_q);
      EXPECT_SAME_BITS(got.d_k, want.d_k);
      EXPECT_SAME_BITS(got.d_v, want.d_v);
      EXPECT_SAME_BITS(got.d_level_logits, want.d_level_logits);
      EXPECT_SAME_BITS(got.d_tree.planes, want.d_tree.planes);
      EXPECT_EQ(got.d_k.bottomRows(60 - n_seen).cwiseAbs().maxCoeff(), 0);
      EXPECT_EQ(got.d_v.bottomRows(60 - n_seen).cwiseAbs().maxCoeff(), 0);
      for (Index i = 0; i < n_blind; ++i) EXPECT_EQ(got.d_q.row(i).cwiseAbs().maxCoeff(), 0);
    }
  }
}

/// Sums are kept in float: results are those of the rounded operands in double but for rounding of sums and of storage.
template <class S>
void check_storage(double tolerance) {
  for (const bool by_query : {false, true}) {
    for (const Causal causal : {Causal::none, Causal::bottom_right}) {
      Case c{.sizes = {.n_q = 113, .n_k = 203, .d = 9, .d_v = 7}};
      const auto in = random_inputs<S>(c.sizes);
      const Matrix<S> d_out = random_matrix<S>(113, 7, 91);
      const AttentionOptions options{.mask = {.causal = causal}};
      const TcAttention<S> tc(near_tree<S>(4, 9), logits_of<S>(4), {.by_query = by_query});
      const PlainTcGradient plain(tc, tc.tree(), in.template cast<double>(), d_out.template cast<double>(), options);
      const auto r = attend(in.q, in.k, in.v, options, tc);
      expect_gradients(attend_backward(d_out, in.q, in.k, in.v, r, options, tc), plain.gradient(), tolerance);
    }
  }
}
TEST(TcBackward, FloatIsThatOfItsOperandsToRounding) { check_storage<float>(1e-5); }
TEST(TcBackward, HalfIsThatOfItsOperandsToRounding) { check_storage<Eigen::half>(2e-3); }

/// As TcAttention documents it, from what the definition of the method reads.
TEST(TcBackward, CountsWhatItSays) {
  const Index n_q = 37, n_k = 53, d = 5, d_v = 3, height = 3, leaves = 8;
  for (const bool by_query : {false, true}) {
    for (const Causal causal : {Causal::none, Causal::bottom_right}) {
      for (const RoutingGradient routing : {RoutingGradient::none, RoutingGradient::all_leaves}) {
        Case c{.sizes = {.n_q = n_q, .n_k = n_k, .d = d, .d_v = d_v}, .height = height, .tc = {.by_query = by_query}};
        c.options.mask.causal = causal;
        const Problem p = problem_of(c);
        const PlainTc plain(p.tc, p.in, c.options);
        const FlopCounter forward = plain.flops(), backward_flops = plain.backward_flops();
        const bool whole = causal == Causal::none, routes = routing != RoutingGradient::none;
        double read_of_leaves = 0;
        const Vector<Index> key_leaf = p.tree.leaf_of(p.in.k);
        for (Index l = 0; l < leaves; ++l) {
          for (Index t = 0; t <= height; ++t)
            read_of_leaves += (key_leaf.array() / (leaves >> t) == l / (leaves >> t)).any();
        }
        const double keys = n_k, queries = n_q, nodes = leaves - 1, width = by_query ? d : 0;
        double values = backward_flops.products(Phase::backward_values),
               scores = backward_flops.products(Phase::backward_scores), exponentials = backward_flops.exponentials();
        double routed = forward.products(Phase::route);
        if (routes) {
          const double of_query = whole && !by_query ? leaves : 2 * leaves - 1,
                       of_key = whole ? leaves : 2 * leaves - 1;
          values +=
              2 * (queries * of_query + keys * of_key) * d_v + (whole && !by_query ? 2 * read_of_leaves * d_v : 0);
          scores += 2 * (queries * of_query + keys * of_key) * width + 4 * (queries + keys) * nodes * d;
          exponentials += whole && !by_query ? read_of_leaves : queries * of_query;
          routed += 2 * (queries + keys) * nodes * d;
        }
        for (const Index threads : {1, 3}) {
          FlopCounter got;
          BackwardOptions backward;
          backward.routing = routing;
          const auto r = attend(p.in.q, p.in.k, p.in.v, c.options, p.tc);
          attend_backward(p.d_out, p.in.q, p.in.k, p.in.v, r, c.options, p.tc, {.flops = &got, .threads = threads},
                          backward);
          EXPECT_EQ(got.products(Phase::backward_values), values);
          EXPECT_EQ(got.products(Phase::backward_scores), scores);
          EXPECT_EQ(got.products(Phase::route), routed);
          EXPECT_EQ(got.products(), values + scores + routed);
          EXPECT_EQ(got.exponentials(), exponentials);
        }
      }
    }
  }
}

TEST(TcBackward, RefusesGradientsOfAnotherShapeAndTouchesNothing) {
  Case c{.sizes = {.n_q = 9, .n_k = 7, .d = 4, .d_v = 3}};
  const Problem p = problem_of(c);
  const auto r = attend(p.in.q, p.in.k, p.in.v, c.options, p.tc);
  auto grads = backward_of(p, c);
  const auto refused = [&](const std::string& name, const BackwardOptions& backward = {}) {
    grads.d_q.setConstant(3);
    try {
      attend_backward_into(grads, p.d_out, p.in.q, p.in.k, p.in.v, r.out, r.lse, c.options, p.tc, {}, backward);
      ADD_FAILURE() << "not refused: " << name;
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
    EXPECT_EQ(grads.d_q.minCoeff(), 3);
  };
  grads.d_level_logits.resize(5);
  refused("d_level_logits is 5 x 1");
  grads.d_level_logits.resize(4);
  grads.d_tree.planes.resize(7, 3);
  refused("d_tree.planes is 7 x 3");
  grads.d_tree.planes.resize(7, 4);
  grads.d_tree.biases.resize(6);
  refused("d_tree.biases is 6 x 1");
  grads.d_tree.biases.resize(7);
  BackwardOptions with_lse;
  const Matrix<double> d_lse = Matrix<double>::Zero(9, 1);
  with_lse.d_lse = d_lse;
  refused("d_lse", with_lse);
}

}  // namespace
}  // namespace heed::test::tc_backward
