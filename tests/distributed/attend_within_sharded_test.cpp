#include "heed/distributed/attend_within_sharded.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <mpi.h>
#include <gtest/gtest.h>

#include "heed/exact/multi_head.hpp"
#include "heed/io/safetensors.hpp"
#include "distributed/mpi_spy.hpp"
#include "distributed/rank_case.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test::within_sharded {
namespace {

constexpr Index n_heads = 4, d = 64;

/// Keys and values of the four heads of a layer of a trained model, repeated with a twentieth of noise until there are
/// n of them, and the last queries.
struct TrainedCase {
  TrainedCase(Index layer, Index n, Index n_q)
      : k(n, n_heads * d), v(n, n_heads * d), q(n_q, n_heads * d), share(share_of(n, sharded_key_block)) {
    const SafetensorsFile file(HEED_EXAMPLE_DATA "/lm_code.safetensors");
    const Tensor keys = file.load("k"), queries = file.load("q");
    const Matrix<float> x = file.load("x").matrix<float>(layer), w_v = file.load("w_v").matrix<float>(layer);
    const Matrix<float> values = x * w_v;
    const Index given = x.rows();
    for (Index h = 0; h < n_heads; ++h) {
      const Matrix<float> own_k = keys.matrix<float>(layer, h), own_q = queries.matrix<float>(layer, h);
      const Matrix<float> noise = random_matrix<float>(n, 2 * d, static_cast<std::uint64_t>(layer * n_heads + h));
      for (Index j = 0; j < n; ++j) {
        const Index at = given - 1 - (n - 1 - j) % given;  // the newest last
        k.block(j, h * d, 1, d) = own_k.row(at) + 0.05f * noise.block(j, 0, 1, d);
        v.block(j, h * d, 1, d) = values.block(at, h * d, 1, d) + 0.05f * noise.block(j, d, 1, d);
      }
      q.middleCols(h * d, d) = own_q.bottomRows(n_q);
    }
    own.append(k.middleRows(share.first, share.size), v.middleRows(share.first, share.size));
    whole.append(k, v);
  }

  Matrix<float> k, v, q;
  Share share;
  KeyValueCache<Int8> own{d, d, n_heads}, whole{d, d, n_heads};
};
Index key_count() { return sharded_key_block * std::max<Index>(ranks_of_world(), 2) + 300; }

TEST(AttendWithinSharded, KeepsItsPromiseOnTrainedHeads) {
  const Index n_q = 40;
  for (const Index layer : {0, 1}) {
    const double tolerance = layer == 0 ? 0.02 : 0.05;
    SCOPED_TRACE("layer " + std::to_string(layer) + ", tolerance " + std::to_string(tolerance));
    TrainedCase in(layer, key_count(), n_q);
    const std::vector<float> sinks{1, 3, -2, 0};
    const AttentionOptions options{.sinks = sinks};
    const auto exact = multi_head_attend(in.q.cast<double>().eval(), in.k.cast<double>().eval(),
                                         in.v.cast<double>().eval(), {.n_heads = n_heads}, options);
    Index honest = 0, near = 0;
    double visited = 0, square = 0;
    for (Index i = 0; i < n_q; ++i) {
      const auto got = attend_within_sharded(MPI_COMM_WORLD, tolerance, in.q.row(i), in.own, options);
      visited += got.visited / static_cast<double>(n_q);
      for (Index h = 0; h < n_heads; ++h) {
        const Matrix<double> want = exact.out.block(i, h * d, 1, d);
        const double error = (got.out.middleCols(h * d, d).cast<double>() - want).norm() / want.norm();
        honest += error <= 1.5 * got.reported(0, h);
        near += error <= 1.5 * tolerance;
        square += got.reported(0, h) * got.reported(0, h);
        EXPECT_NEAR(static_cast<double>(got.lse(0, h)), exact.lse(i, h), 3 * tolerance);
      }
    }
    EXPECT_GE(honest, n_q * n_heads * 95 / 100);
    EXPECT_GE(near, n_q * n_heads * 95 / 100);
    EXPECT_LE(std::sqrt(square / (n_q * n_heads)), 2 * tolerance) << "a report of anything is none";
    EXPECT_LT(visited, 0.9);
  }
}

/// Sums of the formula in the documentation, from what every shard answers by itself.
TEST(AttendWithinSharded, MergesOutputsAndReportsByItsFormula) {
  TrainedCase in(0, key_count(), 8);
  const Index n = ranks_of_world(), width = n_heads * d, first = in.share.first, size = in.share.size;
  in.own.clear();  // values of shards differ, so that their outputs do
  in.own.append(in.k.middleRows(first, size),
                (in.v.middleRows(first, size).array() + 0.5f * static_cast<float>(rank_of_world())).matrix().eval());
  for (Index i = 0; i < 8; ++i) {
    const Matrix<float> q = in.q.row(i);
    KeyValueCache<Int8> copy = in.own;
    const auto alone = attend_within(0.05, q, copy);
    const auto got = attend_within_sharded(MPI_COMM_WORLD, 0.05, q, in.own);
    for (Index h = 0; h < n_heads; ++h) EXPECT_EQ(got.path(0, h), alone.path(0, h));
    Matrix<double> own(1, width + 2 * n_heads), all(n, width + 2 * n_heads);
    own << alone.out.cast<double>(), alone.lse.cast<double>(), alone.reported;
    MPI_Allgather(own.data(), static_cast<int>(own.size()), MPI_DOUBLE, all.data(), static_cast<int>(own.size()),
                  MPI_DOUBLE, MPI_COMM_WORLD);
    for (Index h = 0; h < n_heads; ++h) {
      const auto lse = all.col(width + h).array();
      const double whole = std::log((lse - lse.maxCoeff()).exp().sum()) + lse.maxCoeff();
      Matrix<double> out = Matrix<double>::Zero(1, d);
      for (Index s = 0; s < n; ++s) out += std::exp(lse(s) - whole) * all.block(s, h * d, 1, d);
      double of_outputs = 0, of_weights = 0;
      for (Index s = 0; s < n; ++s) {
        const double w = std::exp(lse(s) - whole), r = all(s, width + n_heads + h);
        const auto part = all.block(s, h * d, 1, d);
        of_outputs += w * r * part.norm();
        of_weights += std::pow(w * r, 2) * (part - out).squaredNorm();
      }
      EXPECT_MATRIX_NEAR(got.out.middleCols(h * d, d).eval(), out, 1e-5);
      EXPECT_NEAR(static_cast<double>(got.lse(0, h)), whole, 1e-5);
      EXPECT_NEAR(got.reported(0, h), std::sqrt(of_outputs * of_outputs + of_weights) / out.norm(), 1e-5);
    }
  }
}

TEST(AttendWithinSharded, IsTheSameOnEveryRankAndForAnyThreads) {
  TrainedCase in(1, key_count(), 20), again(1, key_count(), 20);
  const AttentionOptions causal{.mask = {.causal = Causal::bottom_right}};
  const auto got = attend_within_sharded(MPI_COMM_WORLD, 0.05, in.q, in.own, causal);
  Workspace workspace;
  const auto threaded =
      attend_within_sharded(MPI_COMM_WORLD, 0.05, again.q, again.own, causal, {.workspace = &workspace, .threads = 3});
  EXPECT_SAME_BITS(threaded.out, got.out);
  EXPECT_SAME_BITS(threaded.reported, got.reported);
  Matrix<double> first(20, n_heads * d + 2 * n_heads + 1), mine = first;
  mine << got.out.cast<double>(), got.lse.cast<double>(), got.reported, Matrix<double>::Constant(20, 1, got.visited);
  first = mine;
  MPI_Bcast(first.data(), static_cast<int>(first.size()), MPI_DOUBLE, 0, MPI_COMM_WORLD);
  EXPECT_SAME_BITS(mine, first);
  if (ranks_of_world() > 1) return;
  const auto one = attend_within(0.05, in.q, in.whole, causal);
  EXPECT_SAME_BITS(got.out, one.out);
  EXPECT_MATRIX_NEAR(got.lse, one.lse, 4e-6);
  EXPECT_MATRIX_NEAR(got.reported, one.reported, 1e-6);
  EXPECT_EQ(got.visited, one.visited);
}

TEST(AttendWithinSharded, TakesOptionsAndStorageOfEveryKind) {
  TrainedCase in(0, key_count(), 3);
  const Index n = in.k.rows();
  const std::vector<Index> few{n - 4}, one_query{1};
  Matrix<float> bias = random_matrix<float>(1, n, 3);
  const auto expect = [&](const char* what, const AttentionOptions& options) {
    SCOPED_TRACE(what);
    const auto got = attend_within_sharded(MPI_COMM_WORLD, 0.02, in.q, in.own, options);
    const auto want = multi_head_attend(in.q, in.k, in.v, {.n_heads = n_heads}, options);
    EXPECT_MATRIX_NEAR(got.out, want.out, 0.05 * static_cast<double>(want.out.cwiseAbs().maxCoeff()));
    EXPECT_TRUE((got.reported.array() >= 0.0029).all());
    return got;
  };
  expect("softcap", {.softcap = 20.0});
  expect("bias", {.mask = {.bias = bias}});
  expect("window of the last shard", {.mask = {.causal = Causal::bottom_right, .window_left = 100}});
  expect("lengths", {.mask = {.key_lengths = few}});
  const auto padded = expect("padding", {.mask = {.query_lengths = one_query}});
  EXPECT_TRUE(padded.out.bottomRows(2).isZero());
  EXPECT_EQ(padded.reported(2, 1), 0.003);
  EXPECT_EQ(padded.path(2, 1), TolerancePath::few_keys);
  const auto none = expect("no keys", {.mask = {.n_real_keys = 0}});
  EXPECT_TRUE(none.out.isZero());
  EXPECT_EQ(none.visited, 1.0);
  EXPECT_EQ(attend_within_sharded(MPI_COMM_WORLD, 0.02, in.q.topRows(0), in.own).out.rows(), 0);

  const Matrix<Eigen::bfloat16> q = in.q.cast<Eigen::bfloat16>();
  const auto narrow = attend_within_sharded(MPI_COMM_WORLD, 0.0, q, in.own);
  const auto wide = attend_within_sharded(MPI_COMM_WORLD, 0.0, q.cast<float>().eval(), in.own);
  EXPECT_SAME_BITS(narrow.out, wide.out.cast<Eigen::bfloat16>().eval());
}

TEST(AttendWithinSharded, ReportsDoNotDependOnWhatTheStorageOfOutputsHolds) {
  for (const float size : {1e-9f, 1.0f, 3e5f}) {  // as half: 0, a number, infinity
    SCOPED_TRACE(size);
    TrainedCase in(0, key_count(), 1);
    in.own.clear();
    in.own.append(in.k.middleRows(in.share.first, in.share.size),
                  (size * (in.v.middleRows(in.share.first, in.share.size).array() + 1.0f)).matrix().eval());
    const Matrix<Eigen::half> q = in.q.cast<Eigen::half>();
    KeyValueCache<Int8> copy = in.own;
    const auto wide = attend_within_sharded(MPI_COMM_WORLD, 0.05, q.cast<float>().eval(), copy);
    const auto got = attend_within_sharded(MPI_COMM_WORLD, 0.05, q, in.own);
    EXPECT_EQ(got.reported, wide.reported);
    EXPECT_SAME_BITS(got.out, wide.out.cast<Eigen::half>().eval());
  }
}

TEST(AttendWithinSharded, RefusesOnEveryRankAlike) {
  TrainedCase in(0, sharded_key_block * ranks_of_world(), 1);
  const bool last = rank_of_world() + 1 == ranks_of_world();
  const std::string rank = std::to_string(ranks_of_world() - 1);
  const auto call = [&](double tolerance) { attend_within_sharded(MPI_COMM_WORLD, tolerance, in.q, in.own); };
  for (const double bad : {-0.5, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    expect_same_error<OptionError>([&] { call(last ? bad : 0.05); }, "must be >= 0 and finite");
  const std::vector<Index> offsets{0, 1};
  expect_same_error<OptionError>(
      [&] { attend_within_sharded(MPI_COMM_WORLD, 0.05, in.q, in.own, {.mask = {.sequence_offsets = offsets}}); },
      "Mask::");
  if (ranks_of_world() == 1) return;
  expect_same_error<OptionError>([&] { call(last ? 0.05 : 0.02); },
                                 "tolerance = 0.05 on rank " + rank + " but 0.02 on rank 0");
  expect_same_error<OptionError>(
      [&] {
        if (last) attend_sharded(MPI_COMM_WORLD, in.q, in.own);
        call(0.05);
      },
      "makes another call than rank 0");
  const Matrix<float> narrow = in.q.leftCols(63);
  expect_same_error<ShapeError>([&] { attend_within_sharded(MPI_COMM_WORLD, 0.05, last ? narrow : in.q, in.own); },
                                "cols(q) = 63 must be");
}

}  // namespace
}  // namespace heed::test::within_sharded
