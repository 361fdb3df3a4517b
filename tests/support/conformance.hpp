#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/core/context.hpp"
#include "heed/core/heads.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pair_view.hpp"
#include "heed/core/result.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/method_case.hpp"
#include "support/option_kinds.hpp"
#include "support/rounding.hpp"

namespace heed::test {

struct ConformanceParam {
  MethodCase method;
  Dtype dtype;
  friend void PrintTo(const ConformanceParam& param, std::ostream* stream) {
    *stream << "dtype " << static_cast<int>(param.dtype);
  }
};

inline std::vector<ConformanceParam> conformance_params(const MethodCase& method) {
  std::vector<ConformanceParam> params;
  if (method.make.has<float>()) params.push_back({method, Dtype::f32});
  if (method.make.has<double>()) params.push_back({method, Dtype::f64});
  if (method.make.has<Eigen::half>()) params.push_back({method, Dtype::f16});
  if (method.make.has<Eigen::bfloat16>()) params.push_back({method, Dtype::bf16});
  return params;
}

inline std::string conformance_name(const testing::TestParamInfo<ConformanceParam>& info) {
  switch (info.param.dtype) {
    case Dtype::f32: return "float";
    case Dtype::f64: return "double";
    case Dtype::f16: return "half";
    default: return "bfloat16";
  }
}

/// The checks every method passes; they are in conformance_*.cpp. INSTANTIATE_METHOD_SUITE gives them a method.
class MethodConformance : public testing::TestWithParam<ConformanceParam> {
 protected:
  const MethodCase& method_case() const { return GetParam().method; }

  /// Runs check(S{}) for the scalar under test.
  template <class Check>
  void with_scalar(const Check& check) const {
    switch (GetParam().dtype) {
      case Dtype::f32: return check(float{});
      case Dtype::f64: return check(double{});
      case Dtype::f16: return check(Eigen::half{});
      default: return check(Eigen::bfloat16{});
    }
  }
};

/// Maps over all of a matrix, with both strides.
template <class S>
HeadMap<const S> in_map(const Matrix<S>& m) {
  return {m.data(), m.rows(), m.cols(), {m.cols(), 1}};
}
template <class S>
HeadMap<S> out_map(Matrix<S>& m) {
  return {m.data(), m.rows(), m.cols(), {m.cols(), 1}};
}

/// One call with results of its own. Entries that the call leaves out stay NaN.
template <class S>
AttentionResult<S> call(const AnyMethod<S>& method, const Inputs<S>& in, const AttentionOptions& options = {},
                        const Context& context = {}) {
  AttentionResult<S> result;
  result.out = Matrix<S>::Constant(in.q.rows(), in.v.cols(), nan_of<S>());
  result.lse = Vector<Accumulator<S>>::Constant(in.q.rows(), nan_of<Accumulator<S>>());
  method.attend_into(out_map(result.out), LseSpan<Accumulator<S>>(result.lse), in_map(in.q), in_map(in.k), in_map(in.v),
                     options, context);
  return result;
}

/// What a call must give and how far from it may be.
template <class S>
struct Expected {
  AttentionResult<Exact<S>> result;
  RoundingError rounding;
};

/// `in`: the inputs of the call, which are those the method was made from.
template <class S>
Expected<S> expected_of(const MethodCase& method, const Inputs<S>& in, AttentionOptions options = {}) {
  PairMatrix pairs;
  if (method.keeps.has<S>()) {
    pairs = method.keeps(in, options);
    for (Index i = 0; i < pairs.rows(); ++i) {
      for (Index j = 0; j < pairs.cols(); ++j) {
        if (options.mask.allowed.given() && options.mask.allowed.at(i, j) == 0.0) pairs(i, j) = false;
      }
    }
    options.mask.allowed = pairs;
  }
  const Inputs<Exact<S>> exact = in.template cast<Exact<S>>();
  AttentionResult<Exact<S>> want = reference_attention(exact.q, exact.k, exact.v, options);
  if (method.expected.has<S>()) {
    const AttentionResult<double> given = method.expected(in, options);
    want = {given.out.template cast<Exact<S>>(), given.lse.template cast<Exact<S>>()};
  }
  RoundingError rounding = rounding_against<S>(want, in, options);
  if (method.coarse.has<S>()) {
    const Inputs<Exact<S>> coarse = method.coarse(in).template cast<Exact<S>>();
    const auto rounded = reference_attention(coarse.q, coarse.k, coarse.v, options);
    const double step = largest_difference(coarse.v, in.v);  // as large as that of weights
    rounding.out += 3.0 * std::max(largest_difference(rounded.out, want.out), step);
    rounding.lse += 3.0 * std::max(largest_difference(rounded.lse, want.lse), step);
  }
  return {std::move(want), rounding};
}

/// Calls and compares with what is expected.
template <class S>
void expect_as_expected(const MethodCase& method_case, const AnyMethod<S>& method, const Inputs<S>& in,
                        const AttentionOptions& options = {}) {
  const AttentionResult<S> got = call(method, in, options);
  const Expected<S> want = expected_of(method_case, in, options);
  EXPECT_MATRIX_NEAR(got.out, want.result.out, want.rounding.out);
  if (method_case.has_softmax) {
    EXPECT_MATRIX_NEAR(got.lse, want.result.lse, want.rounding.lse);
  }
}

/// Pairs that take part, by the oracle's reading of the mask and by the method.
template <class S>
PairMatrix kept_pairs(const MethodCase& method, const Inputs<S>& in, const AttentionOptions& options) {
  PairMatrix kept = PairMatrix::Constant(in.q.rows(), in.k.rows(), true);
  if (method.keeps.has<S>()) kept = method.keeps(in, options);
  for (Index i = 0; i < kept.rows(); ++i) {
    for (Index j = 0; j < kept.cols(); ++j) {
      kept(i, j) = kept(i, j) && heed::detail::reference_pair(options.mask, i, j, in.q.rows(), in.k.rows(), 0).kept;
    }
  }
  return kept;
}

/// A method that leaves all pairs to the masks.
inline MethodCase mask_alone(MethodCase method) {
  method.keeps = {};
  return method;
}

}  // namespace heed::test

/// INSTANTIATE_METHOD_SUITE(TfAttention, {.make = trained_small_tree, .exact_when = depth_zero, .flops = tf_flops});
/// .make and .exact_when are generic callables: [](const auto& in) { return a_method; }.
#define INSTANTIATE_METHOD_SUITE(Name, ...)                                                                       \
  INSTANTIATE_TEST_SUITE_P(Name, MethodConformance,                                                               \
                           testing::ValuesIn(heed::test::conformance_params(heed::test::MethodCase __VA_ARGS__)), \
                           heed::test::conformance_name)
