// Conformance: right answers at every shape, in every storage, under every option and every pair of options.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/conformance.hpp"
#include "support/strided.hpp"

namespace heed::test {
namespace {

// Off the tile grid on purpose; the last ones pass several panels of queries, and several chunks of keys.
const Sizes shapes[] = {
    {.n_q = 1, .n_k = 1},
    {.n_q = 1, .n_k = 203, .d = 64},
    {.n_q = 2, .n_k = 1, .d = 3},
    {.n_q = 2, .n_k = 2, .d = 1},
    {.n_q = 63, .n_k = 64},
    {.n_q = 64, .n_k = 63, .d = 8, .d_v = 5},
    {.n_q = 65, .n_k = 65, .d = 17, .d_v = 33},
    {.n_q = 113, .n_k = 203, .d = 16, .d_v = 24},
    {.n_q = 203, .n_k = 113, .d = 1, .d_v = 7},
    {.n_q = 7, .n_k = 40, .d = 5, .d_v = 1},
    {.n_q = 31, .n_k = 97, .d = 64, .d_v = 64},
    {.n_q = 33, .n_k = 100, .d = 80, .d_v = 128},
    {.n_q = 16, .n_k = 48, .d = 129, .d_v = 257},
    {.n_q = 5, .n_k = 1031, .d = 20, .d_v = 12},
    {.n_q = 301, .n_k = 10, .d = 4, .d_v = 3},
    {.n_q = 1, .n_k = 5003, .d = 4, .d_v = 3},
    {.n_q = 3, .n_k = 9001, .d = 3, .d_v = 2},
};

TEST_P(MethodConformance, EveryShapeGivesTheExpectedAnswer) {
  with_scalar([&]<class S>(S) {
    for (Sizes sizes : shapes) {
      for (sizes.seed = 1; sizes.seed <= 3; ++sizes.seed) {
        const Inputs<S> in = random_inputs<S>(sizes);
        SCOPED_TRACE(in);
        expect_as_expected(method_case(), method_case().make(in), in);
      }
    }
  });
}

TEST_P(MethodConformance, WhereItMustBeExactItIs) {
  with_scalar([&]<class S>(S) {
    if (!method_case().exact_when.has<S>()) GTEST_SKIP() << "the method has no exact limit";
    MethodCase exact = method_case();
    exact.keeps = {};
    exact.expected = {};
    for (const Sizes& sizes : shapes) {
      const Inputs<S> in = random_inputs<S>(sizes);
      SCOPED_TRACE(in);
      expect_as_expected(exact, method_case().exact_when(in), in);
    }
  });
}

TEST_P(MethodConformance, NoKeysGiveZerosAndNoQueriesGiveNothing) {
  with_scalar([&]<class S>(S) {
    const AnyMethod<S> method = method_case().make(random_inputs<S>({.n_q = 40, .n_k = 50, .d = 6, .d_v = 4}));
    const AttentionResult<S> no_keys = call(method, random_inputs<S>({.n_q = 37, .n_k = 0, .d = 6, .d_v = 4}));
    for (Index i = 0; i < 37; ++i) {
      for (Index c = 0; c < 4; ++c) EXPECT_EQ(static_cast<double>(no_keys.out(i, c)), 0.0);
      if (method_case().has_softmax) {
        EXPECT_TRUE(same_bits(no_keys.lse(i), minus_infinity_of<Accumulator<S>>()));
      }
    }
    EXPECT_NO_THROW(call(method, random_inputs<S>({.n_q = 0, .n_k = 50, .d = 6, .d_v = 4})));
    EXPECT_NO_THROW(call(method, random_inputs<S>({.n_q = 0, .n_k = 0, .d = 6, .d_v = 4})));
  });
}

TEST_P(MethodConformance, StorageOrderAndStridesChangeNoBit) {
  with_scalar([&]<class S>(S) {
    using A = Accumulator<S>;
    const Inputs<S> in = random_inputs<S>({.n_q = 65, .n_k = 113, .d = 19, .d_v = 21});
    const AnyMethod<S> method = method_case().make(in);
    const AttentionResult<S> want = call(method, in);
    const Layout layouts[] = {Layout::rows, Layout::columns, Layout::both, Layout::spread};
    for (const Layout layout : layouts) {
      for (const Layout other : layouts) {
        SCOPED_TRACE("layouts " + std::to_string(static_cast<int>(layout)) + " and " +
                     std::to_string(static_cast<int>(other)));
        const Strided<S> q(in.q, layout), k(in.k, other), v(in.v, layout);
        Strided<S> out(in.q.rows(), in.v.cols(), other);
        Strided<A> lse(in.q.rows(), 1, layout);
        method.attend_into(out.map(), lse.map().col(0), q.map(), k.map(), v.map(), {}, {});
        EXPECT_SAME_BITS(out.map().eval(), want.out);
        if (method_case().has_softmax) {
          EXPECT_SAME_BITS(lse.map().eval(), want.lse);
        }
        EXPECT_TRUE(out.surroundings_untouched());
        EXPECT_TRUE(lse.surroundings_untouched());
      }
    }
  });
}

TEST_P(MethodConformance, LseMayBeLeftOut) {
  with_scalar([&]<class S>(S) {
    const Inputs<S> in = random_inputs<S>({.n_q = 9, .n_k = 70, .d = 8, .d_v = 6});
    const AnyMethod<S> method = method_case().make(in);
    Matrix<S> out(9, 6);
    method.attend_into(out_map(out), {}, in_map(in.q), in_map(in.k), in_map(in.v), {}, {});
    EXPECT_SAME_BITS(out, call(method, in).out);
  });
}

TEST_P(MethodConformance, EveryOptionAndEveryPairOfOptionsGivesTheExpectedAnswer) {
  with_scalar([&]<class S>(S) {
    for (const Sizes& sizes :
         {Sizes{.n_q = 65, .n_k = 113, .d = 9, .d_v = 7}, Sizes{.n_q = 80, .n_k = 80, .d = 8, .d_v = 10},
          Sizes{.n_q = 70, .n_k = 33, .d = 8, .d_v = 8}, Sizes{.n_q = 1, .n_k = 70, .d = 8, .d_v = 8},
          Sizes{.n_q = 3, .n_k = 3, .d = 8, .d_v = 8}}) {
      const Inputs<S> in = random_inputs<S>(sizes);
      const AnyMethod<S> method = method_case().make(in);
      const OptionStore store(in.q.rows(), in.k.rows());
      std::vector<OptionKind> kinds;
      for (const OptionKind& kind : option_kinds(store)) {
        if (method_case().supports(kind.name)) kinds.push_back(kind);
      }
      for (std::size_t a = 0; a < kinds.size(); ++a) {
        SCOPED_TRACE(kinds[a].name);
        expect_as_expected(method_case(), method, in, options_of(store, kinds[a]));
        for (std::size_t b = a + 1; b < kinds.size(); ++b) {
          if (!fit_together(kinds[a], kinds[b])) continue;
          SCOPED_TRACE(kinds[b].name);
          expect_as_expected(method_case(), method, in, options_of(store, kinds[a], kinds[b]));
        }
      }
    }
  });
}

// Every kind over several panels of queries and tiles of keys, where whole tiles are masked and most rows meet masked
// and unmasked ones.
TEST_P(MethodConformance, EveryOptionGivesTheExpectedAnswerOverManyBlocksOfKeys) {
  with_scalar([&]<class S>(S) {
    const Inputs<S> in = random_inputs<S>({.n_q = 197, .n_k = 643, .d = 6, .d_v = 5});
    const AnyMethod<S> method = method_case().make(in);
    const OptionStore store(in.q.rows(), in.k.rows());
    for (const OptionKind& kind : option_kinds(store)) {
      if (!method_case().supports(kind.name)) continue;
      SCOPED_TRACE(kind.name);
      expect_as_expected(method_case(), method, in, options_of(store, kind));
    }
  });
}

}  // namespace
}  // namespace heed::test
