// Rules 2 and 12: what a kept pair does and a masked one does not, whatever its weight. Also compiled with -ffast-math.
#include <atomic>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/exact/attend.hpp"
#include "heed/exact/importance.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"

namespace heed::test {
namespace {

bool kept(const AttentionOptions& options, Index i, Index j, Index n_q, Index n_k) {
  return heed::detail::reference_pair(options.mask, i, j, n_q, n_k, 0).kept;
}

/// Keys that nearly every query weighs with 0 hold a NaN in their first value: it reaches the queries that keep such a
/// key, and no other. `leaves` is a functor's word on pairs.
template <class S, class Method, class Leaves>
void expect_nan_reaches_who_keeps_it(const AttentionOptions& options, Index n_q, Index n_k, const Method& method,
                                     const Leaves& leaves) {
  Inputs<S> in = random_inputs<S>({.n_q = n_q, .n_k = n_k, .d = 9, .d_v = 5});
  in.q.col(0).setConstant(S(10));
  const std::vector<Index> spoiled{2, 3, 70, n_k - 1};
  for (const Index j : spoiled) {
    in.k(j, 0) = S(-1e4f);
    fill(in.v.block(j, 0, 1, 1), nan_of<S>());
  }
  for (const int threads : {1, 2}) {
    const auto got = attend(in.q, in.k, in.v, options, method, {.threads = threads});
    for (Index i = 0; i < n_q; ++i) {
      bool keeps = false;
      for (const Index j : spoiled) keeps = keeps || (kept(options, i, j, n_q, n_k) && leaves(i, j));
      EXPECT_EQ(is_nan(got.out(i, 0)), keeps) << "query " << i;
      for (Index c = 1; c < 5; ++c) EXPECT_FALSE(is_nan(got.out(i, c))) << "query " << i;
    }
  }
}

template <class S>
class KeptPairs : public testing::Test {};
using Scalars = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(KeptPairs, Scalars);

TYPED_TEST(KeptPairs, NanOfAKeptKeyReachesItsQueriesWhateverTheKeyWeighs) {
  for (const Index n_q : {Index(130), Index(1)}) {
    const Index n_k = 203;
    const OptionStore store(n_q, n_k);
    const auto check = [&](const AttentionOptions& options) {
      expect_nan_reaches_who_keeps_it<TypeParam>(options, n_q, n_k, ExactAttention<>{},
                                                 [](Index, Index) { return true; });
      const auto odd = [](Index i, Index j) { return (i + j) % 3 != 0; };
      const ExactAttention masking{[odd](auto s, Index i, Index j) {
        return odd(i, j) ? s : static_cast<decltype(s)>(minus_infinity_of<decltype(s)>());
      }};
      expect_nan_reaches_who_keeps_it<TypeParam>(options, n_q, n_k, masking, odd);
    };
    check({});
    for (const OptionKind& kind : option_kinds(store)) {
      SCOPED_TRACE(std::string(kind.name) + ", n_q = " + std::to_string(n_q));
      check(options_of(store, kind));
    }
  }
}

/// Calls of a functor for each pair, over one pass.
template <class S>
struct CountingFunctor {
  std::vector<std::atomic<int>>* calls;
  Index n_k;
  template <class T>
  T operator()(T s, Index i, Index j) const {
    ++(*calls)[static_cast<std::size_t>(i * n_k + j)];
    return s;
  }
};

TYPED_TEST(KeptPairs, AFunctorIsCalledOnceForEachKeptPairAndForNoOther) {
  for (const Index n_q : {Index(128), Index(65), Index(1)}) {
    const Index n_k = n_q == 128 ? 128 : 203;
    const auto in = random_inputs<TypeParam>({.n_q = n_q, .n_k = n_k, .d = 8});
    const OptionStore store(n_q, n_k);
    for (const OptionKind& kind : option_kinds(store)) {
      const AttentionOptions options = options_of(store, kind);
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(n_q * n_k));
      const ExactAttention method{CountingFunctor<TypeParam>{&calls, n_k}};
      const auto expect_calls = [&](int passes, const char* what) {
        Index wrong = 0;
        for (Index i = 0; i < n_q; ++i) {
          for (Index j = 0; j < n_k; ++j)
            wrong += calls[static_cast<std::size_t>(i * n_k + j)] != (kept(options, i, j, n_q, n_k) ? passes : 0);
        }
        EXPECT_EQ(wrong, 0) << what << ", " << kind.name << ", n_q = " << n_q;
        for (auto& count : calls) count = 0;
      };
      attend(in.q, in.k, in.v, options, method, {.threads = 2});
      expect_calls(1, "attend");
      key_importance(in.q, in.k, options, method);
      expect_calls(2, "key_importance");  // a pass for lse, a pass for columns
    }
  }
}

TYPED_TEST(KeptPairs, OneCallOfPackedSequencesGivesTheBitsOfACallEach) {
  const auto in = random_inputs<TypeParam>({.n_q = 300, .n_k = 300, .d = 12});
  const std::vector<Index> offsets{0, 5, 5, 133, 200, 300};
  for (const Causal causal : {Causal::none, Causal::square}) {
    const auto all = attend(in.q, in.k, in.v, {.mask = {.causal = causal, .sequence_offsets = offsets}});
    for (std::size_t b = 1; b < offsets.size(); ++b) {
      const Index first = offsets[b - 1], n = offsets[b] - first;
      const auto one = attend(in.q.middleRows(first, n), in.k.middleRows(first, n), in.v.middleRows(first, n),
                              {.mask = {.causal = causal}});
      EXPECT_SAME_BITS(all.out.middleRows(first, n), one.out);
      if (n > 1) {
        EXPECT_SAME_BITS(all.lse.segment(first, n), one.lse);
      }
    }
  }
}

}  // namespace
}  // namespace heed::test
