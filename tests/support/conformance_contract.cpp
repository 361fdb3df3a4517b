// Conformance: same bits for any number of threads, any call and any split of heads; counted work; memory.
#include <cstddef>
#include <vector>

#include <gtest/gtest.h>

#include "support/allocations.hpp"
#include "support/conformance.hpp"

namespace heed::test {
namespace {

// Large enough that a method which keeps small calls on one thread runs these on three or more: attention does, of one
// query too, and routing and projecting the keys of one query. d_v is small where projecting costs its square.
constexpr Sizes many_queries{.n_q = 213, .n_k = 333, .d = 40, .d_v = 24};
constexpr Sizes one_query{.n_q = 1, .n_k = 20011, .d = 57, .d_v = 19};
constexpr Sizes few_queries{.n_q = 4, .n_k = 9001, .d = 37, .d_v = 23};

/// Two calls that share a result bit for bit.
template <class S>
void expect_same(const AttentionResult<S>& got, const AttentionResult<S>& want) {
  EXPECT_SAME_BITS(got.out, want.out);
  EXPECT_SAME_BITS(got.lse, want.lse);
}

TEST_P(MethodConformance, ThreadsCallsAndWorkspacesChangeNoBit) {
  with_scalar([&]<class S>(S) {
    for (const Sizes& sizes : {many_queries, one_query, few_queries}) {
      const Inputs<S> in = random_inputs<S>(sizes);
      const AnyMethod<S> method = method_case().make(in);
      const OptionStore store(in.q.rows(), in.k.rows());
      std::vector<AttentionOptions> all_options(1);
      for (const OptionKind& kind : option_kinds(store)) {
        if (kind.masks_pairs && method_case().supports(kind.name)) all_options.push_back(options_of(store, kind));
      }
      Workspace workspace;  // dirty from the second call on
      for (const AttentionOptions& options : all_options) {
        const AttentionResult<S> want = call(method, in, options, {.threads = 1});
        for (const Index threads : {2, 7}) {
          SCOPED_TRACE("threads = " + std::to_string(threads));
          expect_same(call(method, in, options, {.workspace = &workspace, .threads = threads}), want);
        }
      }
      const AttentionResult<S> want = call(method, in, {}, {.threads = 1});
      for (const Index threads : {1, 3, 0}) {
        SCOPED_TRACE("threads = " + std::to_string(threads));
        expect_same(call(method, in, {}, {.workspace = &workspace, .threads = threads}), want);
      }
      expect_same(call(method, in, {}, {.threads = 0}), want);
    }
  });
}

TEST_P(MethodConformance, CountedWorkEqualsTheFormula) {
  with_scalar([&]<class S>(S) {
    const Inputs<S> in = random_inputs<S>({.n_q = 65, .n_k = 113, .d = 9, .d_v = 7});
    const AnyMethod<S> method = method_case().make(in);
    const OptionStore store(65, 113);
    std::vector<AttentionOptions> all_options(1);
    const std::vector<OptionKind> kinds = option_kinds(store);
    for (std::size_t a = 0; a < kinds.size(); ++a) {
      if (!method_case().supports(kinds[a].name)) continue;
      all_options.push_back(options_of(store, kinds[a]));
      for (std::size_t b = a + 1; b < kinds.size(); ++b) {
        const bool worth_it = kinds[a].masks_pairs && kinds[b].masks_pairs;
        if (worth_it && fit_together(kinds[a], kinds[b]) && method_case().supports(kinds[b].name)) {
          all_options.push_back(options_of(store, kinds[a], kinds[b]));
        }
      }
    }
    for (const AttentionOptions& options : all_options) {
      if (!options.mask.query_lengths.empty()) continue;  // work of fewer queries: see batch_test.cpp
      const PairMatrix kept = kept_pairs(method_case(), in, options);
      const PairMatrix by_masks = kept_pairs(mask_alone(method_case()), in, options);
      const FlopCounter want = method_case().flops({.n_q = 65,
                                                    .n_k = 113,
                                                    .d = 9,
                                                    .d_v = 7,
                                                    .kept_pairs = static_cast<double>(kept.count()),
                                                    .real_keys = static_cast<double>(real_keys_of(options.mask, 113)),
                                                    .seen_keys = static_cast<double>(by_masks.colwise().any().count()),
                                                    .options = options,
                                                    .in = in.template cast<double>()});
      FlopCounter got;
      for (const Index threads : {1, 2}) {
        got.reset();
        call(method, in, options, {.flops = &got, .threads = threads});
        for (const Phase phase :
             {Phase::route, Phase::project, Phase::sample, Phase::scores, Phase::values, Phase::far_field}) {
          EXPECT_EQ(got.products(phase), want.products(phase)) << "phase " << static_cast<int>(phase);
        }
        EXPECT_EQ(got.exponentials(), want.exponentials());
        EXPECT_EQ(got.real_tokens(), want.real_tokens());
        EXPECT_EQ(got.padded_tokens(), want.padded_tokens());
      }
      call(method, in, options, {.flops = &got});
      EXPECT_EQ(got.products(), 2.0 * want.products()) << "counts add up over calls";
    }
  });
}

TEST_P(MethodConformance, CountingAndTheWorkspaceChangeNoBit) {
  with_scalar([&]<class S>(S) {
    const Inputs<S> in = random_inputs<S>({.n_q = 65, .n_k = 113, .d = 9, .d_v = 7});
    const AnyMethod<S> method = method_case().make(in);
    FlopCounter flops;
    Workspace workspace;
    expect_same(call(method, in, {}, {.flops = &flops, .workspace = &workspace}), call(method, in));
  });
}

TEST_P(MethodConformance, TheSecondCallWithAWorkspaceAllocatesNothing) {
  if (!counts_allocations() || !method_case().reuses_workspace) GTEST_SKIP() << "allocations are not counted here";
  with_scalar([&]<class S>(S) {
    using A = Accumulator<S>;
    for (const Sizes& sizes : {many_queries, one_query}) {
      const Inputs<S> in = random_inputs<S>(sizes);
      const AnyMethod<S> method = method_case().make(in);
      const OptionStore store(in.q.rows(), in.k.rows());
      Matrix<S> out(in.q.rows(), in.v.cols());
      Vector<A> lse(in.q.rows());
      std::vector<AttentionOptions> all_options(1);
      for (const OptionKind& kind : option_kinds(store)) {
        if (method_case().supports(kind.name)) all_options.push_back(options_of(store, kind));
      }
      for (const Index threads : {1, 2}) {
        for (const AttentionOptions& options : all_options) {
          Workspace workspace;
          FlopCounter flops;
          const Context context{.flops = &flops, .workspace = &workspace, .threads = threads};
          std::uint64_t before = 0;
          for (int turn = 0; turn < 2; ++turn) {
            before = allocations();
            method.attend_into(out_map(out), LseSpan<A>(lse), in_map(in.q), in_map(in.k), in_map(in.v), options,
                               context);
          }
          EXPECT_EQ(allocations() - before, 0u) << "threads = " << threads;
        }
      }
    }
  });
}

/// Packed rows of 4 query heads over 2 or 1 key/value heads.
template <class S>
struct PackedCase {
  static constexpr Index n_heads = 4, n_q = 137, n_k = 170, d = 10, d_v = 13;
  Index n_kv_heads;
  Inputs<S> packed{random_matrix<S>(n_q, n_heads* d, 21), random_matrix<S>(n_k, n_kv_heads* d, 22),
                   random_matrix<S>(n_k, n_kv_heads* d_v, 23)};
  Inputs<S> head(Index h) const {
    const Index kv = h / (n_heads / n_kv_heads);
    return {packed.q.middleCols(h * d, d), packed.k.middleCols(kv * d, d), packed.v.middleCols(kv * d_v, d_v)};
  }
};

TEST_P(MethodConformance, PackedHeadsEqualOneCallAHeadBitForBit) {
  with_scalar([&]<class S>(S) {
    using A = Accumulator<S>;
    for (const Index n_kv_heads : {1, 2, 4}) {
      const PackedCase<S> heads{n_kv_heads};
      const AnyMethod<S> method = method_case().make(heads.head(0));
      if (!method.multi_head_attend_into) GTEST_SKIP() << "the adapter has no heads";
      const OptionStore store(heads.n_q, heads.n_k, heads.n_heads);
      std::vector<OptionKind> kinds{{"no option", "", [](AttentionOptions&, const OptionStore&) {}}};
      for (const OptionKind& kind : option_kinds(store)) {
        if (method_case().supports(kind.name)) kinds.push_back(kind);
      }
      for (const OptionKind& kind : kinds) {
        SCOPED_TRACE(kind.name);
        FlopCounter flops_by_head;
        Matrix<S> want(heads.n_q, heads.n_heads * heads.d_v);
        Matrix<A> want_lse(heads.n_q, heads.n_heads);
        for (Index h = 0; h < heads.n_heads; ++h) {
          const OptionStore own = store.head(h);
          const AttentionResult<S> one = call(method, heads.head(h), options_of(own, kind), {.flops = &flops_by_head});
          want.middleCols(h * heads.d_v, heads.d_v) = one.out;
          want_lse.col(h) = one.lse;
        }
        for (const Index threads : {1, 2, 3}) {
          Matrix<S> out(heads.n_q, heads.n_heads * heads.d_v);
          Matrix<A> lse(heads.n_q, heads.n_heads);
          FlopCounter flops;
          method.multi_head_attend_into(out_map(out), out_map(lse), in_map(heads.packed.q), in_map(heads.packed.k),
                                        in_map(heads.packed.v), {.n_heads = heads.n_heads, .n_kv_heads = n_kv_heads},
                                        options_of(store, kind), {.flops = &flops, .threads = threads});
          EXPECT_SAME_BITS(out, want);
          if (method_case().has_softmax) {
            EXPECT_SAME_BITS(lse, want_lse);
          }
          if (method_case().same_work_by_head) {
            EXPECT_EQ(flops.products(), flops_by_head.products());
            EXPECT_EQ(flops.exponentials(), flops_by_head.exponentials());
          }
          EXPECT_EQ(flops.padded_tokens(), flops_by_head.padded_tokens());
          EXPECT_EQ(flops.real_tokens(), flops_by_head.real_tokens());
        }
      }
    }
  });
}

TEST_P(MethodConformance, TheSecondCallOverPackedHeadsAllocatesNothing) {
  if (!counts_allocations() || !method_case().reuses_workspace) GTEST_SKIP() << "allocations are not counted here";
  with_scalar([&]<class S>(S) {
    using A = Accumulator<S>;
    const PackedCase<S> heads{2};
    const AnyMethod<S> method = method_case().make(heads.head(0));
    if (!method.multi_head_attend_into) GTEST_SKIP() << "the adapter has no heads";
    Matrix<S> out(heads.n_q, heads.n_heads * heads.d_v);
    Matrix<A> lse(heads.n_q, heads.n_heads);
    for (const Index threads : {1, 2}) {
      Workspace workspace;
      std::uint64_t before = 0;
      for (int turn = 0; turn < 2; ++turn) {
        before = allocations();
        method.multi_head_attend_into(out_map(out), out_map(lse), in_map(heads.packed.q), in_map(heads.packed.k),
                                      in_map(heads.packed.v), {.n_heads = heads.n_heads, .n_kv_heads = 2}, {},
                                      {.workspace = &workspace, .threads = threads});
      }
      EXPECT_EQ(allocations() - before, 0u) << "threads = " << threads;
    }
  });
}

}  // namespace
}  // namespace heed::test
