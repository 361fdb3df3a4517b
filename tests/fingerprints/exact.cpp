#include <cmath>

#include "support.hpp"

namespace fingerprints {
namespace {

// A rule by position and score, in the scalar it is given.
struct Bumps {
  template <class T>
  T operator()(T s, Index i, Index j) const {
    return s * T(0.5) + static_cast<T>((i * 7 + j * 3) % 11) * T(0.125);
  }
};

// -infinity masks a pair.
struct Stripes {
  template <class T>
  T operator()(T s, Index i, Index j) const {
    return (i + j) % 3 == 0 ? -std::numeric_limits<T>::infinity() : s;
  }
};

template <class S>
void some_shapes(Recorder& recorder) {
  for (const Shape& shape : option_shapes())
    record_method(recorder, "exact", Operands<S>(shape), all_kinds(), heed::ExactAttention<>{});
  for (const Shape& shape : head_shapes())
    record_method(recorder, "exact", Operands<S>(shape), all_kinds(), heed::ExactAttention<>{});
  for (const Shape& shape : grid_shapes())
    record_method(recorder, "exact", Operands<S>(shape), few_kinds(), heed::ExactAttention<>{});
  // Scores so large that most weights vanish.
  record_method(recorder, "exact/large", Operands<S>({65, 203, 64, 64}, 500.0), few_kinds(), heed::ExactAttention<>{});
}

template <class S>
void functors(Recorder& recorder) {
  const auto kinds =
      kinds_named({"plain", "top_left", "bottom_right", "window", "allowed", "bias", "sequences", "sink", "softcap"});
  for (const Shape& shape : {Shape{65, 65, 33, 17}, Shape{1, 130, 64, 64}, Shape{33, 70, 16, 8, 4, 2}}) {
    record_method(recorder, "exact+bumps", Operands<S>(shape), kinds, heed::ExactAttention{Bumps{}});
    record_method(recorder, "exact+stripes", Operands<S>(shape), kinds, heed::ExactAttention{Stripes{}});
  }
}

// Operands of other storage orders and strides, and an output of the scalar of sums.
template <class S>
void storage(Recorder& recorder) {
  const Operands<S> in({65, 113, 33, 17});
  const Store store(in.shape);
  const Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic> q = in.q, v = in.v;  // column-major
  Rows<S> spread = Rows<S>::Zero(in.k.rows(), 2 * in.k.cols());
  for (Index j = 0; j < in.k.rows(); ++j) {
    for (Index c = 0; c < in.k.cols(); ++c) spread(j, 2 * c) = in.k(j, c);
  }
  const Eigen::Map<const Rows<S>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> k(
      spread.data(), in.k.rows(), in.k.cols(), Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(spread.cols(), 2));
  for (const Kind& kind : few_kinds()) {
    heed::AttentionOptions options;
    kind.apply(options, store);
    recorder.record("exact/strided/" + scalar_name<S>() + "/" + kind.name, [&](const heed::Context& context) {
      Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic> out(in.shape.n_q, in.shape.d_v);
      heed::Vector<Sum<S>> lse(in.shape.n_q);
      heed::attend_into(out, lse, q, k, v, options, heed::ExactAttention<>{}, context);
      return std::vector<std::uint64_t>{hash_of(out), hash_of(lse)};
    });
    recorder.record("exact/wide_output/" + scalar_name<S>() + "/" + kind.name, [&](const heed::Context& context) {
      Rows<Sum<S>> out(in.shape.n_q, in.shape.d_v);
      heed::attend_into(out, nullptr, in.q, in.k, in.v, options, heed::ExactAttention<>{}, context);
      return std::vector<std::uint64_t>{hash_of(out)};
    });
  }
}

// NaN where the mask hides it, and where it is seen. edge/: a NaN value whose weight vanishes.
template <class S>
void not_numbers(Recorder& recorder) {
  const S nan = static_cast<S>(std::numeric_limits<float>::quiet_NaN());
  for (const Shape& shape : {Shape{65, 65, 33, 17}, Shape{1, 130, 64, 64}}) {
    Operands<S> hidden(shape);
    const Index real = shape.n_k - shape.n_k / 3;
    hidden.k.bottomRows(shape.n_k - real).setConstant(nan);
    hidden.v.bottomRows(shape.n_k - real).setConstant(nan);
    record_method(recorder, "exact/hidden_nan", hidden, kinds_named({"real_keys"}), heed::ExactAttention<>{});
    Operands<S> seen(shape);
    seen.k.row(shape.n_k / 2).setConstant(nan);
    record_method(recorder, "exact/nan_key", seen, few_kinds(), heed::ExactAttention<>{});
    Operands<S> value(shape);
    value.v(shape.n_k / 2, 1) = nan;
    record_method(recorder, "exact/nan_value", value, few_kinds(), heed::ExactAttention<>{});
    Operands<S> vanishing(shape, 500.0);
    vanishing.v(shape.n_k / 2, 1) = nan;
    vanishing.v(shape.n_k / 3, 2) = static_cast<S>(std::numeric_limits<float>::infinity());
    record_method(recorder, "edge/nan_of_no_weight", vanishing, all_kinds(), heed::ExactAttention<>{});
  }
}

// edge/: entries of a bias beyond the range of the scalar of sums.
template <class S>
void huge_bias(Recorder& recorder) {
  const Operands<S> in({65, 65, 33, 17});
  Rows<double> bias = numbers<double>(65, 65, 41);
  for (Index i = 0; i < 65; ++i) bias(i, (i * 7) % 65) = i % 2 == 0 ? -1e60 : 1e60;
  recorder.record("edge/huge_bias/" + scalar_name<S>(), [&](const heed::Context& context) {
    heed::AttentionOptions options;
    options.mask.bias = bias;
    const auto result = heed::attend(in.q, in.k, in.v, options, heed::ExactAttention<>{}, context);
    return std::vector<std::uint64_t>{hash_of(result.out), hash_of(result.lse)};
  });
}

// edge/: for which pairs a functor is called, in any order.
void functor_calls(Recorder& recorder) {
  const Operands<float> in({65, 113, 33, 17});
  const Store store(in.shape);
  for (const Kind& kind : all_kinds()) {
    const std::string name = std::string("edge/functor_calls/") + kind.name;
    if (!recorder.wants(name)) continue;
    heed::AttentionOptions options;
    kind.apply(options, store);
    Rows<Index> calls = Rows<Index>::Zero(in.shape.n_q, in.shape.n_k);
    const auto count = [&](float s, Index i, Index j) {
      if (i < calls.rows() && j < calls.cols()) ++calls(i, j);
      return s;
    };
    try {
      heed::attend(in.q, in.k, in.v, options, heed::ExactAttention{count}, {.threads = 1});
      recorder.line(name, {static_cast<std::uint64_t>(calls.sum()), hash_of(calls)});
    } catch (const std::invalid_argument&) {
    }
  }
}

}  // namespace

void exact_cases(Recorder& recorder) {
  for_each_scalar([&]<class S>() {
    some_shapes<S>(recorder);
    storage<S>(recorder);
    not_numbers<S>(recorder);
    huge_bias<S>(recorder);
  });
  functors<float>(recorder);
  functors<double>(recorder);
  functors<Eigen::bfloat16>(recorder);
  functor_calls(recorder);
}

}  // namespace fingerprints
