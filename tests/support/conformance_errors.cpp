// Conformance: every call that cannot be run says which argument is wrong, what it is and what it must be, and leaves
// its outputs alone.
#include <functional>
#include <string>
#include <string_view>
#include <typeinfo>
#include <vector>

#include <gtest/gtest.h>

#include "support/conformance.hpp"

namespace heed::test {
namespace {

/// A call about to be broken: 6 queries, 9 keys, d = 4, d_v = 3.
template <class S>
struct WrongCall {
  Inputs<S> in = random_inputs<S>({.n_q = 6, .n_k = 9, .d = 4, .d_v = 3});
  Matrix<S> out = Matrix<S>::Constant(6, 3, nan_of<S>());
  Vector<Accumulator<S>> lse = Vector<Accumulator<S>>::Constant(6, nan_of<Accumulator<S>>());
  AttentionOptions options;
  PairMatrix allowed;
  Matrix<float> bias;
  std::vector<double> numbers;
  std::vector<Index> offsets;
  std::vector<Index> key_offsets;
};

enum class Thrown { shape, option };

template <class S>
struct ErrorCase {
  Thrown thrown;
  std::vector<std::string> said;  ///< argument, value, requirement
  std::function<void(WrongCall<S>&)> make_wrong;
};

template <class S>
std::vector<ErrorCase<S>> error_cases(const std::string& value_rows) {
  using W = WrongCall<S>;
  using enum Thrown;
  return {
      {shape, {"cols(q) = 4", "cols(k) = 5"}, [](W& w) { w.in.k = random_matrix<S>(9, 5, 1); }},
      {shape, {"rows(k) = 9", "rows(" + value_rows + ") = 8"}, [](W& w) { w.in.v = random_matrix<S>(8, 3, 1); }},
      {shape,
       {"out is 5 x 3", "rows(q) x cols(v) = 6 x 3"},
       [](W& w) { w.out = Matrix<S>::Constant(5, 3, nan_of<S>()); }},
      {shape,
       {"out is 6 x 4", "rows(q) x cols(v) = 6 x 3"},
       [](W& w) { w.out = Matrix<S>::Constant(6, 4, nan_of<S>()); }},
      {shape, {"lse has 7", "rows(q) = 6"}, [](W& w) { w.lse.setConstant(7, nan_of<Accumulator<S>>()); }},
      {option, {"scale", "must be finite"}, [](W& w) { w.options.scale = nan_of<double>(); }},
      {option, {"scale", "must be finite"}, [](W& w) { w.options.scale = minus_infinity_of<double>(); }},
      {option, {"softcap = 0", "must be > 0"}, [](W& w) { w.options.softcap = 0.0; }},
      {option, {"softcap = -2.5", "must be > 0"}, [](W& w) { w.options.softcap = -2.5; }},
      {option, {"softcap", "must be > 0"}, [](W& w) { w.options.softcap = infinity_of<double>(); }},
      {option,
       {"Causal::square", "6", "9", "top_left", "bottom_right"},
       [](W& w) { w.options.mask.causal = Causal::square; }},
      {option, {"window_left = -1", "must be >= 0"}, [](W& w) { w.options.mask.window_left = -1; }},
      {option, {"window_right = -3", "must be >= 0"}, [](W& w) { w.options.mask.window_right = -3; }},
      {option, {"n_real_keys = -1", "must be >= 0"}, [](W& w) { w.options.mask.n_real_keys = -1; }},
      {option, {"n_real_keys = 10", "rows(k) = 9"}, [](W& w) { w.options.mask.n_real_keys = 10; }},
      {shape,
       {"rows(", "allowed) = 7", "rows(q) = 6"},
       [](W& w) { w.options.mask.allowed = w.allowed = PairMatrix::Constant(7, 9, true); }},
      {shape,
       {"cols(", "allowed) = 8", "rows(k) = 9"},
       [](W& w) { w.options.mask.allowed = w.allowed = PairMatrix::Constant(6, 8, true); }},
      {shape,
       {"rows(", "bias) = 9", "rows(q) = 6"},
       [](W& w) { w.options.mask.bias = w.bias = random_matrix<float>(9, 9, 1); }},
      {shape,
       {"cols(", "bias) = 6", "rows(k) = 9"},
       [](W& w) { w.options.mask.bias = w.bias = random_matrix<float>(6, 6, 1); }},
      {option,
       {"alibi_slope has 2", "must"},
       [](W& w) {
         w.options.mask.alibi_slope = w.numbers = {0.5, 0.25};
       }},
      {option, {"alibi_slope", "must be finite"}, [](W& w) { w.options.mask.alibi_slope = nan_of<double>(); }},
      {option,
       {"sinks has 3", "must"},
       [](W& w) {
         w.options.sinks = w.numbers = {0.5, 0.25, 1.0};
       }},
      {option, {"sinks", "must be finite"}, [](W& w) { w.options.sinks = infinity_of<float>(); }},
      {option,
       {"sequence_offsets has 1", "at least 2"},
       [](W& w) { w.options.mask.sequence_offsets = w.offsets = {0}; }},
      {option,
       {"sequence_offsets[0] = 1", "must be 0"},
       [](W& w) {
         w.options.mask.sequence_offsets = w.offsets = {1, 6};
         w.options.mask.key_sequence_offsets = w.key_offsets = {0, 9};
       }},
      {option,
       {"sequence_offsets[2] = 2", "must be >="},
       [](W& w) {
         w.options.mask.sequence_offsets = w.offsets = {0, 4, 2, 6};
         w.options.mask.key_sequence_offsets = w.key_offsets = {0, 3, 4, 9};
       }},
      {option,
       {"sequence_offsets[1] = 7", "rows(q) = 6"},
       [](W& w) {
         w.options.mask.sequence_offsets = w.offsets = {0, 7};
         w.options.mask.key_sequence_offsets = w.key_offsets = {0, 9};
       }},
      {option,
       {"sequence_offsets[1] = 6", "rows(k) = 9"},
       [](W& w) {
         w.options.mask.sequence_offsets = w.offsets = {0, 6};
       }},
      {option,
       {"key_sequence_offsets has 3", "2"},
       [](W& w) {
         w.options.mask.sequence_offsets = w.offsets = {0, 6};
         w.options.mask.key_sequence_offsets = w.key_offsets = {0, 4, 9};
       }},
      {option,
       {"key_sequence_offsets", "sequence_offsets"},
       [](W& w) {
         w.options.mask.key_sequence_offsets = w.key_offsets = {0, 4, 9};
       }},
      {option,
       {"Causal::square", "sequence 1", "2", "6"},
       [](W& w) {
         w.options.mask.causal = Causal::square;
         w.options.mask.sequence_offsets = w.offsets = {0, 3, 5, 6};
         w.options.mask.key_sequence_offsets = w.key_offsets = {0, 3, 9, 9};
       }},
  };
}

template <class M>
bool untouched(const M& m) {
  for (Index i = 0; i < m.rows(); ++i) {
    for (Index c = 0; c < m.cols(); ++c) {
      if (!same_bits(m(i, c), nan_of<typename M::Scalar>())) return false;
    }
  }
  return true;
}

TEST_P(MethodConformance, EveryWrongCallNamesItsArgumentAndLeavesTheOutputsAlone) {
  with_scalar([&]<class S>(S) {
    const AnyMethod<S> method = method_case().make(random_inputs<S>({.n_q = 6, .n_k = 9, .d = 4, .d_v = 3}));
    for (const ErrorCase<S>& error : error_cases<S>(std::string(method_case().value_rows))) {
      WrongCall<S> wrong;
      error.make_wrong(wrong);
      std::string said = "nothing";
      try {
        method.attend_into(out_map(wrong.out), LseSpan<Accumulator<S>>(wrong.lse), in_map(wrong.in.q),
                           in_map(wrong.in.k), in_map(wrong.in.v), wrong.options, {});
      } catch (const ShapeError& thrown) {
        EXPECT_EQ(error.thrown, Thrown::shape);
        said = thrown.what();
      } catch (const OptionError& thrown) {
        EXPECT_EQ(error.thrown, Thrown::option);
        said = thrown.what();
      }
      EXPECT_EQ(said.substr(0, 6), "heed: ") << "for " << error.said.front() << " it said: " << said;
      for (const std::string& part : error.said) {
        EXPECT_NE(said.find(part), std::string::npos) << "'" << part << "' is not in: " << said;
      }
      EXPECT_TRUE(untouched(wrong.out)) << said;
      EXPECT_TRUE(untouched(wrong.lse)) << said;
    }
  });
}

TEST_P(MethodConformance, EveryWrongCallOverPackedHeadsNamesItsArgument) {
  with_scalar([&]<class S>(S) {
    const AnyMethod<S> method = method_case().make(random_inputs<S>({.n_q = 6, .n_k = 9, .d = 4, .d_v = 3}));
    if (!method.multi_head_attend_into) GTEST_SKIP() << "the adapter has no heads";
    struct HeadError {
      HeadOptions heads;
      Index q_cols, k_cols, v_cols;
      std::vector<std::string> said;
    };
    const std::string columns(method_case().value_columns);
    const HeadError errors[] = {
        {{.n_heads = 0}, 8, 8, 6, {"n_heads = 0", "must be >= 1"}},
        {{.n_heads = -2}, 8, 8, 6, {"n_heads = -2", "must be >= 1"}},
        {{.n_heads = 2, .n_kv_heads = 0}, 8, 8, 6, {"n_kv_heads = 0", "must"}},
        {{.n_heads = 4, .n_kv_heads = 3}, 16, 12, 9, {"n_heads = 4", "n_kv_heads = 3"}},
        {{.n_heads = 2, .n_kv_heads = 4}, 8, 16, 12, {"n_heads = 2", "n_kv_heads = 4"}},
        {{.n_heads = 3}, 8, 8, 6, {"cols(q) = 8", "n_heads = 3"}},
        {{.n_heads = 5}, 8, 8, 6, {"cols(q) = 8", " n_heads = 5"}},
        {{.n_heads = 2}, 8, 7, 6, {"cols(k) = 7", " n_heads = 2"}},
        {{.n_heads = 2}, 8, 8, 5, {"cols(" + columns + ") = 5", " n_heads = 2"}},
        {{.n_heads = 2, .n_kv_heads = 2}, 8, 7, 6, {"cols(k) = 7", "n_kv_heads = 2"}},
        {{.n_heads = 2, .n_kv_heads = 2}, 8, 8, 5, {"cols(" + columns + ") = 5", "n_kv_heads = 2"}},
        {{.n_heads = Index(1) << 62}, 8, 8, 6, {"n_heads = 4611686018427387904", "must be at most"}},
        {{.n_heads = 2}, 8, 10, 6, {"cols(q) = 4", "cols(k) = 5"}},
    };
    for (const HeadError& error : errors) {
      const Matrix<S> q = random_matrix<S>(6, error.q_cols, 1), k = random_matrix<S>(9, error.k_cols, 2),
                      v = random_matrix<S>(9, error.v_cols, 3);
      Matrix<S> out = Matrix<S>::Constant(6, 6, nan_of<S>());
      Matrix<Accumulator<S>> lse = Matrix<Accumulator<S>>::Constant(6, 2, nan_of<Accumulator<S>>());
      std::string said = "nothing";
      try {
        method.multi_head_attend_into(out_map(out), out_map(lse), in_map(q), in_map(k), in_map(v), error.heads, {}, {});
      } catch (const std::invalid_argument& thrown) {
        said = thrown.what();
      }
      for (const std::string& part : error.said) {
        EXPECT_NE(said.find(part), std::string::npos) << "'" << part << "' is not in: " << said;
      }
      EXPECT_TRUE(untouched(out)) << said;
      EXPECT_TRUE(untouched(lse)) << said;
    }
  });
}

}  // namespace
}  // namespace heed::test
