#include "heed/distributed/ring_attend.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <mpi.h>
#include <gtest/gtest.h>

#include "heed/exact/multi_head.hpp"
#include "heed/exact/reference.hpp"
#include "distributed/mpi_spy.hpp"
#include "distributed/rank_case.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/rounding.hpp"

namespace heed::test::ring {
namespace {

template <class M>
auto own_rows(const M& all) {
  return ring_rows(all, rank_of_world(), ranks_of_world());
}

/// One head of n_q queries and n_k keys of each rank, d = 10, d_v = 7.
template <class S>
struct RingCase {
  RingCase(Index n_q, Index n_k)
      : all(random_inputs<S>({.n_q = n_q * ranks_of_world(), .n_k = n_k * ranks_of_world(), .d = 10, .d_v = 7})),
        own{own_rows(all.q), own_rows(all.k), own_rows(all.v)} {}
  Inputs<S> all, own;

  void expect(const AttentionOptions& options) const {
    const auto got = ring_attend(MPI_COMM_WORLD, own.q, own.k, own.v, options);
    const auto exact = all.template cast<Exact<S>>();
    const auto want = reference_attention(exact.q, exact.k, exact.v, options);
    const auto rounding = rounding_against<S>(want, all, options);
    EXPECT_MATRIX_NEAR(got.out, own_rows(want.out), rounding.out);
    EXPECT_MATRIX_NEAR(got.lse, own_rows(want.lse), rounding.lse);
  }
};

TEST(RingLayout, HasEveryTokenOnceAndAnEarlyAndALatePartOnEachRank) {
  for (const Index n_ranks : {1, 2, 3, 5}) {
    for (const Index n_own : {0, 1, 2, 7, 16}) {
      std::vector<int> seen(static_cast<std::size_t>(n_own * n_ranks));
      for (Index rank = 0; rank < n_ranks; ++rank) {
        const RingLayout layout(n_own, rank, n_ranks);
        for (Index i = 0; i < n_own; ++i) ++seen[static_cast<std::size_t>(layout.position(i))];
      }
      EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }));
    }
  }
  const RingLayout layout(6, 1, 3);
  EXPECT_EQ(layout.position(0), 3);
  EXPECT_EQ(layout.position(3), 9 + 3);
  const Matrix<float> odd(7, 2);
  EXPECT_THROW(ring_rows(odd, 0, 2), ShapeError);
}

TEST(RingAttend, MeansEveryOptionInPositionsOfAllTokens) {
  for (const auto& [n_q, n_k] : {std::pair<Index, Index>{37, 37}, {11, 75}}) {
    const RingCase<float> in(n_q, n_k);
    const OptionStore store(in.all.q.rows(), in.all.k.rows());
    for (const OptionKind& kind : option_kinds(store)) {
      SCOPED_TRACE(kind.name);
      in.expect(options_of(store, kind));
    }
  }
}

TEST(RingAttend, CombinesOptions) {
  const RingCase<double> in(13, 13);
  const OptionStore store(in.all.q.rows(), in.all.k.rows());
  for (const OptionKind& a : option_kinds(store)) {
    for (const OptionKind& b : option_kinds(store)) {
      if (a.name >= b.name || !fit_together(a, b)) continue;
      SCOPED_TRACE(std::string(a.name) + " and " + std::string(b.name));
      in.expect(options_of(store, a, b));
    }
  }
}

TEST(RingAttend, WorksInEveryStorageAndOnEmptyCalls) {
  const AttentionOptions causal{.mask = {.causal = Causal::square}};
  RingCase<float>(1, 1).expect(causal);
  RingCase<double>(150, 150).expect(causal);
  RingCase<Eigen::half>(70, 70).expect(causal);
  RingCase<Eigen::bfloat16>(70, 70).expect(causal);
  RingCase<float>(0, 3).expect({});
  RingCase<float>(3, 0).expect({});
}

TEST(RingAttend, GroupsHeadsAndTakesFunctorsOfAllPositions) {
  const Index n = 61 * ranks_of_world();
  const Matrix<float> q = random_matrix<float>(n, 40, 1), k = random_matrix<float>(n, 20, 2),
                      v = random_matrix<float>(n, 14, 3);
  const OptionStore store(n, n, 4);
  const HeadOptions heads{.n_heads = 4, .n_kv_heads = 2};
  const AttentionOptions options{.mask = {.causal = Causal::square, .bias = store.bias, .alibi_slope = store.slopes},
                                 .sinks = store.sinks};
  const auto parity = [](float s, Index i, Index j) { return (i + j) % 3 == 0 ? s + 1.0f : s; };
  const ExactAttention method{parity};
  const auto got = multi_head_ring_attend(MPI_COMM_WORLD, own_rows(q), own_rows(k), own_rows(v), heads, options, method,
                                          {.threads = 2});
  const auto want = multi_head_attend(q, k, v, heads, options, method);
  EXPECT_MATRIX_NEAR(got.out, own_rows(want.out), 4e-6);  // four units in the last place of values of 4
  EXPECT_MATRIX_NEAR(got.lse, own_rows(want.lse), 4e-6);
  const auto again = multi_head_ring_attend(MPI_COMM_WORLD, own_rows(q), own_rows(k), own_rows(v), heads, options,
                                            method, {.threads = 1});
  EXPECT_SAME_BITS(got.out, again.out);
  const Eigen::MatrixXf k_columns = own_rows(k), v_columns = own_rows(v);  // whose rows are gathered before they travel
  const auto strided =
      multi_head_ring_attend(MPI_COMM_WORLD, own_rows(q), k_columns, v_columns, heads, options, method);
  EXPECT_SAME_BITS(got.out, strided.out);
}

TEST(RingAttend, HidesMaskedRowsThatAreNaN) {
  RingCase<float> in(20, 20);
  const Index n = in.all.k.rows(), hidden = n - 3;
  fill(in.all.k.row(hidden), nan_of<float>());
  fill(in.all.v.row(hidden), nan_of<float>());
  in.own.k = own_rows(in.all.k);
  in.own.v = own_rows(in.all.v);
  const auto got = ring_attend(MPI_COMM_WORLD, in.own.q, in.own.k, in.own.v, {.mask = {.n_real_keys = hidden}});
  EXPECT_TRUE(got.out.allFinite());
}

/// Bytes that all ranks send in one call.
std::int64_t bytes_of(const RingCase<float>& in, const AttentionOptions& options) {
  mpi_spy().bytes_sent = 0;
  ring_attend(MPI_COMM_WORLD, in.own.q, in.own.k, in.own.v, options);
  std::int64_t sum = 0;
  MPI_Allreduce(&mpi_spy().bytes_sent, &sum, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
  return sum;
}

TEST(RingAttend, KeysThatNobodySeesDoNotTravel) {
  const RingCase<float> in(40, 40);
  const std::int64_t ranks = ranks_of_world(), part = 20 * 17 * 4;  // bytes of an early or a late part
  EXPECT_EQ(bytes_of(in, {}), ranks * (ranks - 1) * 2 * part) << "each rank's two parts go to all others";
  // Causal: part p is needed by every rank with a later part. Only the last part of all, rank 0's, stays at home.
  EXPECT_EQ(bytes_of(in, {.mask = {.causal = Causal::square}}),
            ranks == 1 ? 0 : (ranks * (ranks - 1) * 2 - (ranks * ranks - ranks) / 2) * part);
  // A window of 5 reaches into the part before: 2 ranks - 1 borders, of which the middle one lies on one rank.
  EXPECT_EQ(bytes_of(in, {.mask = {.causal = Causal::square, .window_left = 5}}), (2 * ranks - 2) * part);
  std::vector<Index> offsets{0};  // a sequence a part
  for (std::int64_t p = 1; p <= 2 * ranks; ++p) offsets.push_back(20 * p);
  EXPECT_EQ(bytes_of(in, {.mask = {.sequence_offsets = offsets}}), 0);
  in.expect({.mask = {.sequence_offsets = offsets}});
}

template <class S>
void expect_into_as_returned() {
  const RingCase<S> in(9, 9);
  const AttentionOptions causal{.mask = {.causal = Causal::square}};
  const auto want = ring_attend(MPI_COMM_WORLD, in.own.q, in.own.k, in.own.v, causal);
  Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic> out(12, 7);  // columns side by side
  Matrix<Accumulator<S>> wide(9, 7);
  Vector<Accumulator<S>> lse(9);
  ring_attend_into(MPI_COMM_WORLD, out.middleRows(2, 9), lse, in.own.q, in.own.k, in.own.v, causal);
  EXPECT_SAME_BITS(out.middleRows(2, 9).eval(), want.out);
  EXPECT_SAME_BITS(lse, want.lse);
  ring_attend_into(MPI_COMM_WORLD, wide, nullptr, in.own.q, in.own.k, in.own.v, causal);
  EXPECT_SAME_BITS(wide.template cast<S>().eval(), want.out);
}

TEST(RingAttend, WritesIntoWhatTheCallerGives) {
  expect_into_as_returned<float>();
  expect_into_as_returned<double>();
  expect_into_as_returned<Eigen::bfloat16>();
  const Matrix<float> q = random_matrix<float>(7, 20, 1), k = random_matrix<float>(7, 10, 2);
  const HeadOptions heads{.n_heads = 4, .n_kv_heads = 2};
  const auto want = multi_head_ring_attend(MPI_COMM_WORLD, q, k, k, heads);
  Matrix<float> out(7, 20), lse(7, 4);
  multi_head_ring_attend_into(MPI_COMM_WORLD, out, lse, q, k, k, heads);
  EXPECT_SAME_BITS(out, want.out);
  EXPECT_SAME_BITS(lse, want.lse);
}

TEST(RingAttend, AnUnevenSplitIsEverybodysError) {
  if (ranks_of_world() == 1) GTEST_SKIP() << "one rank has all";
  const Index n = rank_of_world() == 1 ? 6 : 5;
  const Matrix<float> q = random_matrix<float>(5, 4, 1), k = random_matrix<float>(n, 4, 2);
  expect_same_error<ShapeError>([&] { ring_attend(MPI_COMM_WORLD, q, k, k); },
                                "rows(k) = 6 on rank 1 but 5 on rank 0: every rank must give the same");
  const Matrix<float> v = random_matrix<float>(n + (rank_of_world() == 1 ? 1 : 0), 4, 2);
  expect_same_error<ShapeError>([&] { ring_attend(MPI_COMM_WORLD, q, k, v); }, "rows(k) = 6 but rows(v) = 7");
}

}  // namespace
}  // namespace heed::test::ring
