#include "heed/distributed/ring_attend_backward.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <mpi.h>
#include <gtest/gtest.h>

#include "heed/distributed/ring_attend.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/reference_backward.hpp"
#include "distributed/rank_case.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/rounding.hpp"

namespace heed::test {
namespace {

template <class M>
auto own_rows(const M& all) {
  return ring_rows(all, rank_of_world(), ranks_of_world());
}

/// Differences between the gradients of a ring and those of the oracle, in double, are sums of a few hundred roundings.
constexpr double rounding = 1e-12;

/// The rows of a d_bias of all queries that this rank should have: `rows` a head, or one that all queries share.
Matrix<double> own_bias_rows(const Matrix<double>& all, Index rows) {
  if (rows == 1 || all.size() == 0) return all;
  const Index n_heads = all.rows() / rows, own = rows / ranks_of_world();
  Matrix<double> stacked(n_heads * own, all.cols());
  for (Index h = 0; h < n_heads; ++h)
    stacked.middleRows(h * own, own) = own_rows(all.middleRows(h * rows, rows).eval());
  return stacked;
}

template <class Got, class Want>
void expect_near(const Got& got, const Want& want, double tolerance) {
  EXPECT_MATRIX_NEAR(got.d_q, own_rows(want.d_q), tolerance);
  EXPECT_MATRIX_NEAR(got.d_k, own_rows(want.d_k), tolerance);
  EXPECT_MATRIX_NEAR(got.d_v, own_rows(want.d_v), tolerance);
  EXPECT_MATRIX_NEAR(got.d_sinks, want.d_sinks, tolerance);
}

void expect_gradients(Index n_q, Index n_k) {
  const Index ranks = ranks_of_world();
  const auto all = random_inputs<double>({.n_q = n_q * ranks, .n_k = n_k * ranks, .d = 6, .d_v = 5});
  const Matrix<double> d_out = random_matrix<double>(n_q * ranks, 5, 99);
  const Matrix<double> q = own_rows(all.q), k = own_rows(all.k), v = own_rows(all.v);
  const OptionStore store(n_q * ranks, n_k * ranks);
  for (const OptionKind& kind : option_kinds(store)) {
    SCOPED_TRACE(kind.name);
    const AttentionOptions options = options_of(store, kind);
    const BackwardOptions backward{.bias = true};
    const auto r = ring_attend(MPI_COMM_WORLD, q, k, v, options);
    const auto got =
        ring_attend_backward(MPI_COMM_WORLD, own_rows(d_out), q, k, v, r, options, ExactAttention<>{}, {}, backward);
    const auto whole = attend(all.q, all.k, all.v, options);
    expect_near(got, attend_backward(d_out, all.q, all.k, all.v, whole, options), rounding);
    const auto want = reference_attention_backward(d_out, all.q, all.k, all.v, options, NoScoreMod{}, backward);
    EXPECT_MATRIX_NEAR(got.d_k, own_rows(want.d_k), rounding);
    EXPECT_MATRIX_NEAR(got.d_bias, own_bias_rows(want.d_bias, options.mask.bias.rows()), rounding);
  }
}

TEST(RingAttendBackward, HasTheGradientsOfOneProcessForEveryOption) {
  expect_gradients(37, 37);
  expect_gradients(9, 50);
}

/// 4 heads over 2 of keys.
struct BiasCase {
  Index n_q = 11 * ranks_of_world(), n_k = 14 * ranks_of_world();
  Matrix<double> q = random_matrix<double>(n_q, 12, 1), k = random_matrix<double>(n_k, 6, 2),
                 v = random_matrix<double>(n_k, 8, 3), d_out = random_matrix<double>(n_q, 16, 4);
  HeadOptions heads{.n_heads = 4, .n_kv_heads = 2};

  /// Expects the gradient of one process, and that the loss, d_out . out, changes as it says.
  template <class Bias>
  void expect(Matrix<double>& bias, const Bias& as_given, Index rows_of_head) const {
    const AttentionOptions options{.mask = {.causal = Causal::bottom_right, .window_left = 20, .bias = as_given},
                                   .softcap = 3.0};
    const Matrix<double> own_q = own_rows(q), own_k = own_rows(k), own_v = own_rows(v), own_d_out = own_rows(d_out);
    const BackwardOptions backward{.bias = true};
    const auto r = multi_head_ring_attend(MPI_COMM_WORLD, own_q, own_k, own_v, heads, options);
    const auto got = multi_head_ring_attend_backward(MPI_COMM_WORLD, own_d_out, own_q, own_k, own_v, r, heads, options,
                                                     ExactAttention<>{}, {}, backward);
    const auto whole = multi_head_attend(q, k, v, heads, options);
    const auto want =
        multi_head_attend_backward(d_out, q, k, v, whole, heads, options, ExactAttention<>{}, {}, backward);
    EXPECT_MATRIX_NEAR(got.d_bias, own_bias_rows(want.d_bias, rows_of_head), rounding);
    const auto threaded = multi_head_ring_attend_backward(MPI_COMM_WORLD, own_d_out, own_q, own_k, own_v, r, heads,
                                                          options, ExactAttention<>{}, {.threads = 3}, backward);
    EXPECT_SAME_BITS(threaded.d_bias, got.d_bias);

    const auto loss = [&] { return multi_head_attend(q, k, v, heads, options).out.cwiseProduct(d_out).sum(); };
    const double step = 1e-5;
    Matrix<double> slopes = Matrix<double>::Zero(bias.rows(), bias.cols());
    for (Index e = 0; e < bias.size(); e += 7) {
      double& entry = bias.data()[e];
      const double was = entry;
      entry = was + step;
      const double up = loss();
      entry = was - step;
      slopes.data()[e] = (up - loss()) / (2 * step);
      entry = was;
    }
    const Matrix<double> own = own_bias_rows(slopes, rows_of_head);
    for (Index i = 0; i < own.rows(); ++i) {
      for (Index j = 0; j < own.cols(); ++j) {
        if (own(i, j) != 0) {  // looked at
          EXPECT_NEAR(got.d_bias(i, j), own(i, j), 1e-8);
        }
      }
    }
  }
};

TEST(RingAttendBackward, GivesEachRankTheGradientOfTheBiasRowsOfItsQueries) {
  const BiasCase in;
  Matrix<double> shared = random_matrix<double>(in.n_q, in.n_k, 5),
                 stacked = random_matrix<double>(4 * in.n_q, in.n_k, 6), row = random_matrix<double>(1, in.n_k, 7),
                 rows = random_matrix<double>(4, in.n_k, 8);
  in.expect(shared, shared, in.n_q);
  in.expect(stacked, stacked, in.n_q);
  in.expect(row, row, 1);
  in.expect(rows, TensorView<const double>{rows.data(), {1, 4, 1, in.n_k}, {0, in.n_k, 0, 1}}, 1);
  in.expect(stacked, heads_first(stacked.data(), 1, 4, in.n_q, in.n_k), in.n_q);
}

TEST(RingAttendBackward, GroupsHeadsAndGoesThroughFunctorsAndLse) {
  const Index n = 35 * ranks_of_world();
  const Matrix<double> q = random_matrix<double>(n, 40, 1), k = random_matrix<double>(n, 20, 2),
                       v = random_matrix<double>(n, 14, 3), d_out = random_matrix<double>(n, 28, 4),
                       d_lse = random_matrix<double>(n, 4, 5);
  const OptionStore store(n, n, 4);
  const HeadOptions heads{.n_heads = 4, .n_kv_heads = 2};
  const AttentionOptions options{.mask = {.causal = Causal::square, .window_left = 50, .bias = store.bias},
                                 .sinks = store.sinks};
  struct Bend {
    double operator()(double s, Index i, Index j) const { return (i + j) % 3 == 0 ? 0.5 * s : s; }
    double derivative(double, Index i, Index j) const { return (i + j) % 3 == 0 ? 0.5 : 1.0; }
  };
  const ExactAttention method{Bend{}};
  const auto r = multi_head_ring_attend(MPI_COMM_WORLD, own_rows(q), own_rows(k), own_rows(v), heads, options, method);
  const Matrix<double> own_d_lse = own_rows(d_lse);
  const auto got =
      multi_head_ring_attend_backward(MPI_COMM_WORLD, own_rows(d_out), own_rows(q), own_rows(k), own_rows(v), r, heads,
                                      options, method, {.threads = 2}, {.d_lse = own_d_lse});
  const auto whole = multi_head_attend(q, k, v, heads, options, method);
  expect_near(got, multi_head_attend_backward(d_out, q, k, v, whole, heads, options, method, {}, {.d_lse = d_lse}),
              rounding);
  const auto again =
      multi_head_ring_attend_backward(MPI_COMM_WORLD, own_rows(d_out), own_rows(q), own_rows(k), own_rows(v), r, heads,
                                      options, method, {.threads = 1}, {.d_lse = own_d_lse});
  EXPECT_SAME_BITS(got.d_q, again.d_q);
  EXPECT_SAME_BITS(got.d_k, again.d_k);
  EXPECT_SAME_BITS(got.d_v, again.d_v);
}

template <class S>
void expect_gradients_in(double tolerance) {
  const Index n = 70 * ranks_of_world();
  const auto all = random_inputs<S>({.n_q = n, .d = 12});
  const Matrix<S> d_out = random_matrix<S>(n, 12, 99);
  const AttentionOptions options{.mask = {.causal = Causal::square}};
  const Matrix<S> q = own_rows(all.q), k = own_rows(all.k), v = own_rows(all.v);
  const auto r = ring_attend(MPI_COMM_WORLD, q, k, v, options);
  const auto got = ring_attend_backward(MPI_COMM_WORLD, own_rows(d_out), q, k, v, r, options);
  const auto exact = all.template cast<double>();
  const auto want =
      reference_attention_backward(d_out.template cast<double>().eval(), exact.q, exact.k, exact.v, options);
  const double largest = std::max({largest_finite(want.d_q), largest_finite(want.d_k), largest_finite(want.d_v)});
  EXPECT_MATRIX_NEAR(got.d_q, own_rows(want.d_q), tolerance * largest);
  EXPECT_MATRIX_NEAR(got.d_k, own_rows(want.d_k), tolerance * largest);
  EXPECT_MATRIX_NEAR(got.d_v, own_rows(want.d_v), tolerance * largest);
}

TEST(RingAttendBackward, WorksInEveryStorage) {
  // A few units in the last place: of float, and of out as it was stored.
  expect_gradients_in<float>(1e-6);
  expect_gradients_in<Eigen::half>(2e-3);
  expect_gradients_in<Eigen::bfloat16>(1.6e-2);
}

/// Gradients of one rank in memory of a caller, as columns.
template <class S>
struct OwnGradients {
  Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic> d_q, d_k, d_v;
  Vector<Accumulator<S>> d_sinks;
  Eigen::Matrix<Accumulator<S>, Eigen::Dynamic, Eigen::Dynamic> d_bias;
};

TEST(RingAttendBackward, WritesIntoWhatTheCallerGives) {
  const Matrix<float> q = random_matrix<float>(9, 24, 1), k = random_matrix<float>(9, 12, 2),
                      v = random_matrix<float>(9, 10, 3), d_out = random_matrix<float>(9, 20, 4);
  const std::vector<double> sinks{0.5, -1, 2, 1};
  const HeadOptions heads{.n_heads = 4, .n_kv_heads = 2};
  const AttentionOptions options{.mask = {.causal = Causal::square}, .sinks = sinks};
  const auto r = multi_head_ring_attend(MPI_COMM_WORLD, q, k, v, heads, options);
  const auto want = multi_head_ring_attend_backward(MPI_COMM_WORLD, d_out, q, k, v, r, heads, options);
  OwnGradients<float> got{{9, 24}, {9, 12}, {9, 10}, Vector<float>(4), {}};
  multi_head_ring_attend_backward_into(MPI_COMM_WORLD, got, d_out, q, k, v, r.out, r.lse, heads, options);
  EXPECT_SAME_BITS(got.d_q, want.d_q);
  EXPECT_SAME_BITS(got.d_k, want.d_k);
  EXPECT_SAME_BITS(got.d_v, want.d_v);
  EXPECT_SAME_BITS(got.d_sinks, want.d_sinks);
  got.d_sinks.resize(0);
  multi_head_ring_attend_backward_into(MPI_COMM_WORLD, got, d_out, q, k, v, r.out, r.lse, heads, options);
  EXPECT_SAME_BITS(got.d_q, want.d_q);

  const auto one = ring_attend(MPI_COMM_WORLD, q, q, q);
  const auto want_one = ring_attend_backward(MPI_COMM_WORLD, q, q, q, q, one);
  OwnGradients<float> got_one{{9, 24}, {9, 24}, {9, 24}, {}, {}};
  ring_attend_backward_into(MPI_COMM_WORLD, got_one, q, q, q, q, one.out, one.lse);
  EXPECT_SAME_BITS(got_one.d_k, want_one.d_k);
}

TEST(RingAttendBackward, AddsToADBiasThatTheCallerGives) {
  const Matrix<float> q = random_matrix<float>(9, 24, 1), d_out = random_matrix<float>(9, 24, 4);
  const Index n = 9 * ranks_of_world();
  const OptionStore store(n, n, 4);
  for (const BiasView& bias : {BiasView(store.bias), BiasView(store.bias_row)}) {
    const AttentionOptions options{.mask = {.bias = bias}};
    const HeadOptions heads{.n_heads = 4};
    const auto r = multi_head_ring_attend(MPI_COMM_WORLD, q, q, q, heads, options);
    const auto want = multi_head_ring_attend_backward(MPI_COMM_WORLD, d_out, q, q, q, r, heads, options,
                                                      ExactAttention<>{}, {}, {.bias = true});
    const Index rows = bias.rows() == 1 ? 1 : 4 * 9;
    OwnGradients<float> got{{9, 24}, {9, 24}, {9, 24}, {}, {rows, n}};
    got.d_bias.setConstant(2);
    multi_head_ring_attend_backward_into(MPI_COMM_WORLD, got, d_out, q, q, q, r.out, r.lse, heads, options);
    EXPECT_SAME_BITS(got.d_bias, (want.d_bias.array() + 2).matrix().eval());
    EXPECT_SAME_BITS(got.d_k, want.d_k);
    if (rank_of_world() + 1 == ranks_of_world()) got.d_bias.setConstant(rows, n + 1, 2);
    const auto before = got.d_bias;
    expect_same_error<ShapeError>(
        [&] {
          multi_head_ring_attend_backward_into(MPI_COMM_WORLD, got, d_out, q, q, q, r.out, r.lse, heads, options);
        },
        "d_bias is " + std::to_string(rows) + " x " + std::to_string(n + 1) + " but must be as the rows of mask.bias");
    EXPECT_SAME_BITS(got.d_bias, before);
  }
}

TEST(RingAttendBackward, RefusesWhatItCannotGiveOnEveryRankAlike) {
  const Matrix<float> q = random_matrix<float>(4, 6, 1);
  const auto r = ring_attend(MPI_COMM_WORLD, q, q, q);
  const bool last = rank_of_world() + 1 == ranks_of_world();
  const Matrix<float> bias = random_matrix<float>(4 * ranks_of_world(), 4 * ranks_of_world(), 2);
  const AttentionOptions options{.mask = {.bias = bias}};
  if (ranks_of_world() > 1) {
    expect_same_error<OptionError>(
        [&] { ring_attend_backward(MPI_COMM_WORLD, q, q, q, q, r, options, ExactAttention<>{}, {}, {.bias = last}); },
        "d_bias (BackwardOptions::bias) is given on rank " + std::to_string(ranks_of_world() - 1) +
            " but not on rank 0");
  }
  const Matrix<float> narrow = bias.leftCols(3);
  expect_same_error<ShapeError>(
      [&] {
        ring_attend_backward(MPI_COMM_WORLD, q, q, q, q, r, {.mask = {.bias = narrow}}, ExactAttention<>{}, {},
                             {.bias = true});
      },
      "cols(mask.bias) = 3 must be rows(k)");
  const Matrix<float> d_out = random_matrix<float>(last ? 3 : 4, 6, 1);
  expect_same_error<ShapeError>([&] { ring_attend_backward(MPI_COMM_WORLD, d_out, q, q, q, r); }, "d_out is 3 x 6");
}

}  // namespace
}  // namespace heed::test
