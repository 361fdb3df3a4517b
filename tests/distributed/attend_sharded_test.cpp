#include "heed/distributed/attend_sharded.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include <mpi.h>
#include <gtest/gtest.h>

#include "heed/exact/attend.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/reference.hpp"
#include "heed/kernels/select.hpp"
#include "distributed/rank_case.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/rounding.hpp"

namespace heed::test {
namespace {

/// Enough keys for whole blocks on every rank, and a rest.
Index key_count() { return sharded_key_block * std::max<Index>(ranks_of_world(), 2) + 77; }

/// 4 query heads over 2 key heads, d = 10, d_v = 7; the caches hold the same numbers, all and this rank's.
template <class S>
struct ShardedCase {
  explicit ShardedCase(Index n = key_count())
      : k(random_matrix<float>(n, 20, 2)), v(random_matrix<float>(n, 14, 3)), share(share_of(n, sharded_key_block)) {
    whole.append(k, v);
    own.append(k.middleRows(share.first, share.size), v.middleRows(share.first, share.size));
  }
  Matrix<float> k, v;
  Share share;
  KeyValueCache<S> whole{10, 7, 2}, own{10, 7, 2};
};

template <class SQ, class S>
void expect_bits_of_one_process() {
  const ShardedCase<S> in;
  const auto& kernels = detail::tile_kernels<Accumulator<SQ>>(active_isa());
  for (const Index n_q : {Index(0), Index(1), Index(2), std::min<Index>(17, kernels.lanes * kernels.vectors)}) {
    const Matrix<SQ> q = random_matrix<SQ>(n_q, 40, 5);
    const AttentionOptions options{.mask = {.causal = Causal::bottom_right}};
    const auto got = attend_sharded(MPI_COMM_WORLD, q, in.own, options);
    const auto want = attend(q, in.whole, options);
    EXPECT_SAME_BITS(got.out, want.out);
    EXPECT_SAME_BITS(got.lse, want.lse);
  }
}

TEST(AttendSharded, HasTheBitsOfOneProcessWhateverTheStorage) {
  expect_bits_of_one_process<float, float>();
  expect_bits_of_one_process<double, double>();
  expect_bits_of_one_process<float, Eigen::half>();
  expect_bits_of_one_process<float, Eigen::bfloat16>();
  expect_bits_of_one_process<Eigen::bfloat16, Eigen::bfloat16>();
}

TEST(AttendSharded, MeansEveryOptionInPositionsOfAllKeys) {
  const ShardedCase<float> in;
  for (const Index n_q : {1, 6, 53}) {
    if (n_q > 50 && ranks_of_world() != 2) continue;  // the oracle takes its time
    const Matrix<float> q = random_matrix<float>(n_q, 40, 7);
    const OptionStore store(n_q, in.whole.size(), 4);
    for (const OptionKind& kind : option_kinds(store)) {
      const AttentionOptions options = options_of(store, kind);
      SCOPED_TRACE(std::string(kind.name) + " n_q = " + std::to_string(n_q));
      const auto got = attend_sharded(MPI_COMM_WORLD, q, in.own, options);
      if (n_q < 10 && kind.group != "sequences" && kind.group != "keys") {
        const auto want = attend(q, in.whole, options);
        EXPECT_SAME_BITS(got.out, want.out);
        EXPECT_SAME_BITS(got.lse, want.lse);
        continue;
      }
      const Index h = rank_of_world() % 4;  // a head a rank
      const OptionStore own = store.head(h);
      const Inputs<float> one{q.middleCols(10 * h, 10), in.k.middleCols(10 * (h / 2), 10),
                              in.v.middleCols(7 * (h / 2), 7)};
      const auto exact = one.cast<double>();
      const auto want = reference_attention(exact.q, exact.k, exact.v, options_of(own, kind));
      const auto rounding = rounding_against<float>(want, one, options_of(own, kind));
      EXPECT_MATRIX_NEAR(got.out.middleCols(7 * h, 7).eval(), want.out, rounding.out);
      EXPECT_MATRIX_NEAR(got.lse.col(h).eval(), want.lse, rounding.lse);
    }
  }
}

TEST(AttendSharded, CombinesOptions) {
  const ShardedCase<float> in(sharded_key_block * ranks_of_world() + 5);
  const Matrix<float> q = random_matrix<float>(3, 40, 8);
  const OptionStore store(3, in.whole.size(), 4);
  const std::vector<OptionKind> kinds = option_kinds(store);
  std::size_t count = 0;
  for (const OptionKind& a : kinds) {
    for (const OptionKind& b : kinds) {
      if (a.name >= b.name || !fit_together(a, b) || ++count % 5 != 0) continue;
      SCOPED_TRACE(std::string(a.name) + " and " + std::string(b.name));
      const AttentionOptions options = options_of(store, a, b);
      const auto got = attend_sharded(MPI_COMM_WORLD, q, in.own, options);
      const auto want = attend(q, in.whole, options);
      EXPECT_MATRIX_NEAR(got.out, want.out, 1e-5);  // the rounding of a mean over these keys is below 4e-6
      EXPECT_MATRIX_NEAR(got.lse, want.lse, 1e-5 * std::max(1.0, largest_finite(want.lse)));
    }
  }
}

TEST(AttendSharded, TakesRowsAndScoreFunctors) {
  const ShardedCase<float> in;
  const Matrix<float> q = random_matrix<float>(5, 40, 9);
  const Matrix<float> k = in.k.middleRows(in.share.first, in.share.size),
                      v = in.v.middleRows(in.share.first, in.share.size);
  const HeadOptions heads{.n_heads = 4, .n_kv_heads = 2};
  const AttentionOptions options{.mask = {.causal = Causal::bottom_right, .window_left = 5000}};
  const auto near = [](float s, Index i, Index j) { return s + 0.001f * static_cast<float>(j % 7 - i); };
  const auto got = multi_head_attend_sharded(MPI_COMM_WORLD, q, k, v, heads, options, ExactAttention{near});
  const auto want = multi_head_attend(q, in.k, in.v, heads, options, ExactAttention{near});
  EXPECT_SAME_BITS(got.out, want.out);
  EXPECT_SAME_BITS(got.lse, want.lse);
  const Matrix<float> q1 = q.leftCols(20);
  const auto one = attend_sharded(MPI_COMM_WORLD, q1, k, v, options);
  const auto all = attend(q1, in.k, in.v, options);
  EXPECT_SAME_BITS(one.out, all.out);
  EXPECT_SAME_BITS(one.lse, all.lse);
}

TEST(AttendSharded, KeepsTheRulesOfMaskedKeysAndHugeScores) {
  ShardedCase<float> in;
  const Index n = in.whole.size(), hidden = n - 20;  // of the last rank
  Matrix<float> k = 1e15f * in.k, v = in.v;
  fill(k.row(hidden), nan_of<float>());
  fill(v.row(hidden), nan_of<float>());
  KeyValueCache<float> whole(10, 7, 2), own(10, 7, 2);
  whole.append(k, v);
  own.append(k.middleRows(in.share.first, in.share.size), v.middleRows(in.share.first, in.share.size));
  const Matrix<float> q = random_matrix<float>(2, 40, 9);
  OptionStore store(2, n, 1);
  store.allowed.setConstant(true);
  store.allowed.col(hidden).setConstant(false);
  const AttentionOptions options{.mask = {.allowed = store.allowed}};
  const auto got = attend_sharded(MPI_COMM_WORLD, q, own, options);
  const auto want = attend(q, whole, options);
  EXPECT_TRUE(got.out.allFinite());
  EXPECT_SAME_BITS(got.out, want.out);
  EXPECT_SAME_BITS(got.lse, want.lse);
}

/// A cache that only its own attend reads.
struct ClosedCache {
  KeyValueCache<float> inner;
  Index size() const { return inner.size(); }
  Index d() const { return inner.d(); }
  Index d_v() const { return inner.d_v(); }
  Index n_kv_heads() const { return inner.n_kv_heads(); }
};
template <class Q>
auto attend(const Q& q, const ClosedCache& cache, const AttentionOptions& options, const Context& context) {
  return heed::attend(q, cache.inner, options, context);
}

TEST(AttendSharded, MergesWhatAnotherCacheAnswers) {
  const ShardedCase<float> in;
  const ClosedCache own{in.own};
  for (const Index n_q : {1, 60}) {
    const Matrix<float> q = random_matrix<float>(n_q, 40, 9);
    std::vector<double> sinks{0.5, -1, 2, 9};
    const AttentionOptions options{.mask = {.causal = Causal::bottom_right, .window_left = 4200}, .sinks = sinks};
    const auto got = attend_sharded(MPI_COMM_WORLD, q, own, options);
    const auto want = attend(q, in.whole, options);
    EXPECT_MATRIX_NEAR(got.out, want.out, 1e-5);  // the rounding of lse = 9 is 1e-6
    EXPECT_MATRIX_NEAR(got.lse, want.lse, 1e-5);
  }
}

TEST(AttendSharded, IsTheSameForAnyNumberOfThreadsAndWithAWorkspace) {
  const ShardedCase<float> in;
  const Matrix<float> q = random_matrix<float>(60, 40, 9);
  Workspace workspace;
  const auto one = attend_sharded(MPI_COMM_WORLD, q, in.own, {}, {.threads = 1});
  const auto two = attend_sharded(MPI_COMM_WORLD, q, in.own, {}, {.workspace = &workspace, .threads = 3});
  EXPECT_SAME_BITS(one.out, two.out);
  EXPECT_SAME_BITS(one.lse, two.lse);
  FlopCounter flops;
  attend_sharded(MPI_COMM_WORLD, q, in.own, {}, {.flops = &flops});
  EXPECT_EQ(flops.products(), 2.0 * 17 * 4 * 60 * static_cast<double>(in.share.size)) << "a rank counts its own pairs";
}

template <class SQ, class S>
void expect_into_as_returned() {
  const ShardedCase<S> in;
  const std::vector<double> sinks{0.5, -1, 2, 9};
  const AttentionOptions options{.mask = {.causal = Causal::bottom_right}, .sinks = sinks};
  for (const Index n_q : {0, 1, 17}) {
    const Matrix<SQ> q = random_matrix<SQ>(n_q, 40, 5);
    const auto want = attend_sharded(MPI_COMM_WORLD, q, in.own, options);
    Eigen::Matrix<SQ, Eigen::Dynamic, Eigen::Dynamic> out(n_q + 3, 28);  // columns side by side
    Matrix<Accumulator<SQ>> lse(n_q, 4);
    attend_sharded_into(MPI_COMM_WORLD, out.middleRows(2, n_q), lse, q, in.own, options);
    EXPECT_SAME_BITS(out.middleRows(2, n_q).eval(), want.out);
    EXPECT_SAME_BITS(lse, want.lse);
    Matrix<Accumulator<SQ>> wide(n_q, 28);
    if (rank_of_world() == 0) {  // one rank wants no lse, and out as sums are kept
      attend_sharded_into(MPI_COMM_WORLD, wide, nullptr, q, in.own, options, Context{});
    } else {
      attend_sharded_into(MPI_COMM_WORLD, out.middleRows(2, n_q), lse, q, in.own, options, Context{});
    }
    if (rank_of_world() == 0) {
      EXPECT_SAME_BITS(wide.template cast<SQ>().eval(), want.out);
    }
  }
}

TEST(AttendSharded, WritesIntoWhatTheCallerGives) {
  expect_into_as_returned<float, float>();
  expect_into_as_returned<double, double>();
  expect_into_as_returned<Eigen::half, Eigen::half>();
  const ShardedCase<float> in;
  const Matrix<float> q = random_matrix<float>(5, 20, 9);
  const Matrix<float> k = in.k.middleRows(in.share.first, in.share.size),
                      v = in.v.middleRows(in.share.first, in.share.size);
  const auto want = attend_sharded(MPI_COMM_WORLD, q, k, v);
  Matrix<float> out(5, 14);
  std::vector<float> lse(5);
  attend_sharded_into(MPI_COMM_WORLD, out, lse, q, k, v);
  EXPECT_SAME_BITS(out, want.out);
  EXPECT_SAME_BITS(Eigen::Map<Vector<float>>(lse.data(), 5).eval(), want.lse);
  out.setZero();
  attend_sharded_into(MPI_COMM_WORLD, out, nullptr, q, k, v);
  EXPECT_SAME_BITS(out, want.out);
  const HeadOptions heads{.n_heads = 2, .n_kv_heads = 2};
  const auto two = multi_head_attend_sharded(MPI_COMM_WORLD, q, k, v, heads);
  Matrix<float> two_lse(5, 2);
  multi_head_attend_sharded_into(MPI_COMM_WORLD, out, two_lse, q, k, v, heads);
  EXPECT_SAME_BITS(out, two.out);
  EXPECT_SAME_BITS(two_lse, two.lse);
}

}  // namespace
}  // namespace heed::test
