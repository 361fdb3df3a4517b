#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include <mpi.h>
#include <gtest/gtest.h>

#include "heed/distributed/attend_sharded.hpp"
#include "heed/distributed/attend_within_sharded.hpp"
#include "heed/distributed/ring_attend.hpp"
#include "heed/distributed/ring_attend_backward.hpp"
#include "distributed/mpi_spy.hpp"
#include "distributed/rank_case.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

struct FaultCase {
  Matrix<float> q = random_matrix<float>(2, 12, 1), k = random_matrix<float>(sharded_key_block, 6, 2),
                v = random_matrix<float>(sharded_key_block, 8, 3);
  KeyValueCache<float> cache{6, 8};
  FaultCase() { cache.append(k, v); }
  auto operator()(const AttentionOptions& options = {}, const Context& context = {}) const {
    return attend_sharded(MPI_COMM_WORLD, q, cache, options, context);
  }
};
bool is_last() { return rank_of_world() + 1 == ranks_of_world(); }
bool several() { return ranks_of_world() > 1; }
std::string last() { return std::to_string(ranks_of_world() - 1); }

TEST(Faults, WhatOneRankGivesWrongIsEverybodysError) {
  FaultCase in;
  if (is_last()) in.q = random_matrix<float>(2, 13, 1);
  expect_same_error<ShapeError>([&] { in(); }, "cols(q) = 13 must be n_heads * d with d = 6");
  FaultCase threads;
  expect_same_error<OptionError>([&] { threads({}, {.threads = is_last() ? -1 : 1}); }, "Context::threads = -1");
}

TEST(Faults, WhatAllGiveWrongIsOneError) {
  const FaultCase in;
  expect_same_error<OptionError>([&] { in({.mask = {.window_left = -3}}); }, "Mask::window_left = -3 must be >= 0");
  expect_same_error<OptionError>([&] { in({.mask = {.causal = Causal::square}}); }, "Causal::square");
  const Eigen::Matrix<bool, 1, Eigen::Dynamic> keys(1, 9);
  expect_same_error<ShapeError>([&] { in({.mask = {.keys = keys}}); }, "cols(mask.keys) = 9 must be rows(k)");
}

TEST(Faults, WhatDiffersBetweenRanksIsNamed) {
  if (!several()) GTEST_SKIP() << "one rank differs from nobody";
  const FaultCase in;
  const bool other = is_last();
  expect_same_error<OptionError>([&] { in({.scale = other ? 0.5 : 0.25}); },
                                 "AttentionOptions::scale = 0.5 on rank " + last() + " but 0.25 on rank 0");
  expect_same_error<OptionError>([&] { in(other ? AttentionOptions{.softcap = 2.0} : AttentionOptions{}); },
                                 "AttentionOptions::softcap is given on rank " + last() + " but not on rank 0");
  expect_same_error<OptionError>([&] { in({.mask = {.window_left = other ? 7 : Mask::unlimited}}); },
                                 "Mask::window_left = 7 on rank " + last() + " but unlimited on rank 0");
  expect_same_error<OptionError>([&] { in({.mask = {.causal = other ? Causal::top_left : Causal::none}}); },
                                 "Mask::causal");
  const std::vector<double> sinks{1.0, other ? 2.0 : 3.0};
  expect_same_error<OptionError>([&] { in({.sinks = sinks}); }, "AttentionOptions::sinks on rank " + last());
  FaultCase rows;
  if (other) rows.q = random_matrix<float>(3, 12, 1);
  expect_same_error<ShapeError>([&] { rows(); }, "rows(q) = 3 on rank " + last() + " but 2 on rank 0");
  FaultCase numbers;
  if (other) numbers.q(1, 4) += 1.0f;
  expect_same_error<OptionError>([&] { numbers(); }, "q on rank " + last());
  expect_same_error<OptionError>(
      [&] {
        if (!other) in();
        attend_sharded(MPI_COMM_WORLD, in.q, in.cache, {}, ExactAttention{[](float s, Index, Index) { return s; }});
      },
      "a score functor is given on rank " + last() + " but not on rank 0");
  const Matrix<double> wide = in.q.cast<double>();
  KeyValueCache<double> wide_cache(6, 8);
  wide_cache.append(in.k, in.v);
  expect_same_error<OptionError>(
      [&] {
        if (!other) in();
        attend_sharded(MPI_COMM_WORLD, wide, wide_cache);
      },
      "the scalar of q = double on rank " + last() + " but float on rank 0");
}

TEST(Faults, AnUnevenSplitAndARankWithoutKeysAreNamed) {
  FaultCase none;
  if (is_last()) none.cache.clear();
  expect_same_error<ShapeError>([&] { none(); }, "rank " + last() + " of " + std::to_string(ranks_of_world()) +
                                                     " holds 0 keys but must hold at least one");
  if (!several()) return;
  FaultCase uneven;
  if (rank_of_world() == 0) uneven.cache.truncate(4000);
  expect_same_error<ShapeError>([&] { uneven(); },
                                "rank 0 of " + std::to_string(ranks_of_world()) +
                                    " holds 4000 keys but must hold a multiple of sharded_key_block = 4096");
}

TEST(Faults, ARankThatFailsWhileItComputesKeepsNobodyWaiting) {
  const FaultCase in;
  const auto fail_on_last = [](float s, Index, Index j) {
    if (is_last() && j % sharded_key_block == 999) throw std::runtime_error("a functor had enough");
    return s;
  };
  std::string said;
  try {
    attend_sharded(MPI_COMM_WORLD, in.q, in.cache, {}, ExactAttention{fail_on_last});
  } catch (const DistributedError& error) {
    EXPECT_FALSE(is_last());
    said = error.what();
  } catch (const std::runtime_error& error) {
    EXPECT_TRUE(is_last());
    said = error.what();
  }
  EXPECT_NE(said.find("a functor had enough"), std::string::npos) << said;
  EXPECT_TRUE(is_last() || said.find("rank " + last()) != std::string::npos) << said;
  EXPECT_EQ(in().out.rows(), 2) << "the next call works";

  const auto fail = [](float s, Index i, Index) {
    if (i == 0) throw std::bad_alloc();  // of rank 0
    return s;
  };
  const auto ring = [&] { ring_attend(MPI_COMM_WORLD, in.q, in.q, in.q, {}, ExactAttention{fail}); };
  if (rank_of_world() == 0) {
    EXPECT_THROW(ring(), std::bad_alloc);
  } else {
    EXPECT_THROW(ring(), DistributedError);
  }
  EXPECT_EQ(ring_attend(MPI_COMM_WORLD, in.q, in.q, in.q).out.rows(), 2);
}

/// Runs call(communicator), each time with a new one, while the first, the second, ... allocation of the last rank
/// fails, until it makes no more: every rank must throw each time, and none must wait. `throws`: it does so by itself.
template <class Call>
void expect_all_throw_without_memory(const Call& call, bool throws = false) {
  for (std::int64_t n = 0, failed = 1; failed != 0; ++n) {
    MPI_Comm fresh = MPI_COMM_NULL;
    MPI_Comm_dup(MPI_COMM_WORLD, &fresh);
    std::int64_t threw = 0, all_threw = 0;
    mpi_spy().news_left = is_last() ? n : -1;
    try {
      call(fresh);
    } catch (const std::bad_alloc&) {
      threw = 1;
    } catch (const DistributedError&) {
      threw = 1;
    } catch (const ShapeError&) {
      threw = throws;
    }
    failed = is_last() && mpi_spy().news_left < 0 ? 1 : 0;
    mpi_spy().news_left = -1;
    const Matrix<float> one = Matrix<float>::Zero(1, 4);
    ring_attend(fresh, one, one, one);  // the next call finds nothing left of it
    MPI_Comm_free(&fresh);
    MPI_Bcast(&failed, 1, MPI_INT64_T, static_cast<int>(ranks_of_world()) - 1, MPI_COMM_WORLD);
    MPI_Allreduce(&threw, &all_threw, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    EXPECT_EQ(all_threw, failed == 0 && !throws ? 0 : ranks_of_world()) << "allocation " << n;
    ASSERT_LT(n, 100);
  }
}

TEST(Faults, ARankWithoutMemoryKeepsNobodyWaiting) {
  const FaultCase in;
  const Matrix<float> q = random_matrix<float>(6, 8, 1), k = random_matrix<float>(6, 4, 2);
  const HeadOptions heads{.n_heads = 2, .n_kv_heads = 1};
  const std::vector<double> sinks{1.0, 2.0};
  const Matrix<float> bias = random_matrix<float>(1, 6 * ranks_of_world(), 4);
  const AttentionOptions options{.mask = {.bias = bias}, .sinks = sinks};
  const auto ring = [&](MPI_Comm comm) { return multi_head_ring_attend(comm, q, k, k, heads, options); };
  const auto forward = ring(MPI_COMM_WORLD);
  expect_all_throw_without_memory([&](MPI_Comm comm) { attend_sharded(comm, in.q, in.cache); });
  KeyValueCache<Int8> bytes(6, 8);
  bytes.append(in.k, in.v);
  expect_all_throw_without_memory([&](MPI_Comm comm) { attend_within_sharded(comm, 0.05, in.q, bytes); });
  expect_all_throw_without_memory(ring);
  expect_all_throw_without_memory([&](MPI_Comm comm) {
    multi_head_ring_attend_backward(comm, q, q, k, k, forward, heads, options, ExactAttention<>{}, {}, {.bias = true});
  });
  if (!several()) return;
  // Memory may run out while another rank's error is told, too.
  const Matrix<float> wrong = rank_of_world() == 0 ? random_matrix<float>(6, 7, 1) : q;
  expect_all_throw_without_memory([&](MPI_Comm comm) { multi_head_ring_attend(comm, wrong, k, k, heads, options); },
                                  true);
}

/// The outputs of one rank, full of a number that no call gives.
struct Outputs {
  Matrix<float> out, lse, d_q, d_k, d_v, d_bias = Matrix<float>(1, n_k());
  static Index n_k() { return 6 * ranks_of_world(); }
  Vector<float> d_sinks;
  static constexpr float untouched = -777.0f;

  Outputs(Index n, Index n_heads, Index k_cols, Index v_cols)
      : out(n, n_heads * v_cols),
        lse(n, n_heads),
        d_q(n, n_heads * k_cols),
        d_k(n, k_cols),
        d_v(n, v_cols),
        d_sinks(n_heads) {
    for (Matrix<float>* m : all()) m->setConstant(untouched);
    d_sinks.setConstant(untouched);
  }
  std::vector<Matrix<float>*> all() { return {&out, &lse, &d_q, &d_k, &d_v, &d_bias}; }
  void expect_untouched() {
    for (Matrix<float>* m : all()) EXPECT_TRUE((m->array() == untouched).all());
    EXPECT_TRUE((d_sinks.array() == untouched).all());
  }
};

/// What a rank gives to a ring of two heads that share keys.
struct RingCase {
  Matrix<float> q = random_matrix<float>(6, 8, 1), k = random_matrix<float>(6, 4, 2), v = random_matrix<float>(6, 3, 3),
                d_out = random_matrix<float>(6, 6, 4), bias = random_matrix<float>(1, Outputs::n_k(), 5);
  HeadOptions heads{.n_heads = 2, .n_kv_heads = 1};
  std::vector<double> sinks{1.0, 2.0};
};

TEST(Faults, OutputsStayAsTheyAreOnEveryRankWhereOneRankIsWrongOrFails) {
  const FaultCase in;
  const RingCase own;
  const Matrix<float>&q = own.q, &k = own.k, &v = own.v, &d_out = own.d_out, &bias = own.bias;
  const HeadOptions& heads = own.heads;
  const AttentionOptions options{.mask = {.bias = bias}, .sinks = own.sinks};
  const auto forward = multi_head_ring_attend(MPI_COMM_WORLD, q, k, v, heads, options);
  Outputs sharded(2, 2, 6, 8), ring(6, 2, 4, 3);

  // A shape that only the last rank has wrong.
  Matrix<float> out(is_last() ? 3 : 2, 16), lse(is_last() ? 6 : 2, 2), lse6(is_last() ? 2 : 6, 2), out6(6, 6);
  Vector<float> lse1(is_last() ? 7 : 6);
  out.setConstant(1), lse.setConstant(1), lse6.setConstant(1), out6.setConstant(1), lse1.setConstant(1);
  expect_same_error<ShapeError>([&] { attend_sharded_into(MPI_COMM_WORLD, out, sharded.lse, in.q, in.cache); },
                                "out is 3 x 16 but must be rows(q) x cols(v) = 2 x 16");
  expect_same_error<ShapeError>([&] { attend_sharded_into(MPI_COMM_WORLD, sharded.out, lse, in.q, in.cache); },
                                "lse is 6 x 2 but must be rows(q) x n_heads = 2 x 2");
  expect_same_error<ShapeError>([&] { multi_head_ring_attend_into(MPI_COMM_WORLD, out6, lse6, q, k, v, heads); },
                                "lse is 2 x 2 but must be rows(q) x n_heads = 6 x 2");
  expect_same_error<ShapeError>([&] { ring_attend_into(MPI_COMM_WORLD, ring.d_k, lse1, k, k, k); },
                                "lse has 7 entries but must have rows(q) = 6");
  EXPECT_TRUE((out.array() == 1).all() && (lse.array() == 1).all() && (lse6.array() == 1).all());
  EXPECT_TRUE((out6.array() == 1).all() && (lse1.array() == 1).all());
  const auto backward = [&](Outputs& to, const auto& method) {
    multi_head_ring_attend_backward_into(MPI_COMM_WORLD, to, d_out, q, k, v, forward.out, forward.lse, heads, options,
                                         method);
  };
  const auto expect_wrong = [&](auto member, Index rows, Index cols, const std::string& part) {
    Outputs wrong(6, 2, 4, 3);
    if (is_last()) (wrong.*member).setConstant(rows, cols, Outputs::untouched);
    expect_same_error<ShapeError>([&] { backward(wrong, ExactAttention<>{}); }, part);
    wrong.expect_untouched();
  };
  expect_wrong(&Outputs::d_q, 6, 9, "d_q is 6 x 9 but must be as q: 6 x 8");
  expect_wrong(&Outputs::d_k, 5, 4, "d_k is 5 x 4 but must be as k: 6 x 4");
  expect_wrong(&Outputs::d_v, 6, 4, "d_v is 6 x 4 but must be as v: 6 x 3");
  expect_wrong(&Outputs::d_sinks, 3, 1, "d_sinks has 3 entries");
  if (several()) {
    Outputs none(6, 2, 4, 3);
    if (is_last()) none.d_sinks.resize(0);
    expect_same_error<OptionError>([&] { backward(none, ExactAttention<>{}); },
                                   "d_sinks is not given on rank " + last() + " but is on rank 0");
  }

  // A rank that fails while it computes.
  struct Fails {
    float operator()(float s, Index, Index) const {
      if (is_last()) throw std::runtime_error("a functor had enough");
      return s;
    }
    float derivative(float, Index, Index) const { return 1.0f; }
  };
  const ExactAttention failing{Fails{}};
  const auto expect_failure = [&](const auto& call) { EXPECT_THROW(call(), std::runtime_error); };
  expect_failure([&] { attend_sharded_into(MPI_COMM_WORLD, sharded.out, sharded.lse, in.q, in.cache, {}, failing); });
  expect_failure([&] { multi_head_ring_attend_into(MPI_COMM_WORLD, ring.out, ring.lse, q, k, v, heads, {}, failing); });
  expect_failure([&] { backward(ring, failing); });
  sharded.expect_untouched();
  ring.expect_untouched();
}

TEST(Faults, IntoAGrownWorkspaceNothingIsAllocated) {
  const FaultCase in;
  const RingCase own;
  const Matrix<float>&q = own.q, &k = own.k, &v = own.v, &d_out = own.d_out, &bias = own.bias;
  const HeadOptions& heads = own.heads;
  const AttentionOptions options{.mask = {.causal = Causal::top_left}, .sinks = own.sinks};
  AttentionOptions with_bias = options;
  with_bias.mask.bias = bias;
  Workspace workspace;
  const Context context{.workspace = &workspace};
  Outputs sharded(2, 2, 6, 8), ring(6, 2, 4, 3);
  for (int call = 0; call < 3; ++call) {
    const std::int64_t before = mpi_spy().news;
    attend_sharded_into(MPI_COMM_WORLD, sharded.out, sharded.lse, in.q, in.cache, options, context);
    multi_head_ring_attend_into(MPI_COMM_WORLD, ring.out, ring.lse, q, k, v, heads, with_bias, ExactAttention<>{},
                                context);
    multi_head_ring_attend_backward_into(MPI_COMM_WORLD, ring, d_out, q, k, v, ring.out, ring.lse, heads, with_bias,
                                         ExactAttention<>{}, context);
    EXPECT_EQ(mpi_spy().news - before > 0, call == 0) << "call " << call;
  }
}

TEST(Faults, ErrorsOfMpiNameTheCall) {
  const FaultCase in;
  for (const char* call : {"MPI_Allgather", "MPI_Bcast"}) {
    mpi_spy().failing_call = call;
    expect_same_error<DistributedError>(
        [&] {
          try {
            in();
          } catch (...) {
            mpi_spy().failing_call = nullptr;
            throw;
          }
        },
        std::string("heed: ") + call + " failed: ");
  }
  EXPECT_EQ(in().out.rows(), 2);
}

TEST(Faults, ACommunicatorThatIsNoneIsRefused) {
  const FaultCase in;
  EXPECT_THROW(attend_sharded(MPI_COMM_NULL, in.q, in.cache), OptionError);
  EXPECT_EQ(attend_sharded(MPI_COMM_SELF, in.q, in.cache).out.rows(), 2);
}

TEST(Faults, MessagesOfTheProgramAreLeftAlone) {
  if (!several()) GTEST_SKIP() << "one rank has nobody to write to";
  const FaultCase in;
  int got = 0, mine = 41;
  MPI_Request request = MPI_REQUEST_NULL;
  const int ranks = static_cast<int>(ranks_of_world()), rank = static_cast<int>(rank_of_world());
  MPI_Irecv(&got, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &request);
  EXPECT_EQ(in().out.rows(), 2);
  MPI_Send(&mine, 1, MPI_INT, (rank + 1) % ranks, 1, MPI_COMM_WORLD);
  MPI_Wait(&request, MPI_STATUS_IGNORE);
  EXPECT_EQ(got, 41);
}

TEST(Faults, TheProgramsErrorHandlerStays) {
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &comm);
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_ARE_FATAL);
  const FaultCase in;
  attend_sharded(comm, in.q, in.cache);
  MPI_Errhandler handler = MPI_ERRHANDLER_NULL;
  MPI_Comm_get_errhandler(comm, &handler);
  EXPECT_EQ(handler, MPI_ERRORS_ARE_FATAL);
  MPI_Errhandler_free(&handler);
  MPI_Comm_free(&comm);
}

}  // namespace
}  // namespace heed::test
