#pragma once
#include <functional>
#include <memory>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <Eigen/Core>

#include "heed/core/context.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/heads.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/multi_head.hpp"
#include "support/inputs.hpp"

namespace heed::test {

/// Where the gradients of q, k and v go, which every method has.
template <class S>
struct GradientMaps {
  HeadMap<S> d_q, d_k, d_v;
};

/// A method with its type erased, so that the checks are compiled once and not once per method. Every operand is a
/// map with both strides.
template <class S>
struct AnyMethod {
  using Input = HeadMap<const S>;
  using Output = HeadMap<S>;
  using Lse = HeadMap<Accumulator<S>>;
  std::function<void(Output out, LseSpan<Accumulator<S>> lse, const Input& q, const Input& k, const Input& v,
                     const AttentionOptions&, const Context&)>
      attend_into;
  /// Gradients, from what attend_into wrote; empty for methods without them, and for adapters.
  std::function<void(GradientMaps<S> grads, const Input& d_out, const Input& q, const Input& k, const Input& v,
                     const Input& out, const Vector<Accumulator<S>>& lse, const AttentionOptions&, const Context&,
                     const BackwardOptions&)>
      backward_into{};
  /// Over packed rows; empty for adapters without it.
  std::function<void(Output out, Lse lse, const Input& q, const Input& k, const Input& v, const HeadOptions&,
                     const AttentionOptions&, const Context&)>
      multi_head_attend_into{};
  std::function<void(GradientMaps<S> grads, const Input& d_out, const Input& q, const Input& k, const Input& v,
                     const Input& out, const Matrix<Accumulator<S>>& lse, const HeadOptions&, const AttentionOptions&,
                     const Context&, const BackwardOptions&)>
      multi_head_backward_into{};
};

/// Methods that the doors go through backwards.
template <class M, class S>
concept HasGradient = heed::detail::DerivableScoreMod<
    std::remove_cvref_t<decltype(heed::detail::score_mod_of(std::declval<const M&>()))>, Accumulator<S>> &&
    (heed::detail::NamesPairs<M, heed::detail::GradientCall<S, S>> ||
     heed::detail::GoesBackwardByItself<M, heed::detail::GradientCall<S, S>>);

/// `method` is anything attend_into() takes as a method, or an adapter with its own attend_into (and, if it can,
/// multi_head_attend_into) of AnyMethod's arguments: an oracle, a method with its own kind of values.
template <class S, class Method>
AnyMethod<S> erased(Method&& method_to_keep) {
  using Any = AnyMethod<S>;
  using M = std::decay_t<Method>;
  using Lse = LseSpan<Accumulator<S>>;
  const auto method = std::make_shared<const M>(std::forward<Method>(method_to_keep));
  Any any;
  constexpr bool adapter = requires(const M& m, typename Any::Output o, Lse l, const typename Any::Input& i) {
    m.attend_into(o, l, i, i, i, AttentionOptions{}, Context{});
  };
  constexpr bool adapter_of_heads =
      requires(const M& m, typename Any::Output o, typename Any::Lse l, const typename Any::Input& i) {
    m.multi_head_attend_into(o, l, i, i, i, HeadOptions{}, AttentionOptions{}, Context{});
  };
  any.attend_into = [method](auto out, auto lse, const auto& q, const auto& k, const auto& v, const auto& options,
                             const auto& context) {
    if constexpr (adapter) {
      method->attend_into(out, lse, q, k, v, options, context);
    } else {
      heed::attend_into(out, lse, q, k, v, options, *method, context);
    }
  };
  if constexpr (adapter_of_heads) {
    any.multi_head_attend_into = [method](auto out, auto lse, const auto& q, const auto& k, const auto& v,
                                          const auto& heads, const auto& options, const auto& context) {
      method->multi_head_attend_into(out, lse, q, k, v, heads, options, context);
    };
  } else if constexpr (!adapter) {
    any.multi_head_attend_into = [method](auto out, auto lse, const auto& q, const auto& k, const auto& v,
                                          const auto& heads, const auto& options, const auto& context) {
      heed::multi_head_attend_into(out, lse, q, k, v, heads, options, *method, context);
    };
  }
  if constexpr (!adapter && HasGradient<M, S>) {
    any.backward_into = [method](auto grads, const auto& d_out, const auto& q, const auto& k, const auto& v,
                                 const auto& out, const auto& lse, const auto& options, const auto& context,
                                 const auto& backward) {
      heed::attend_backward_into(grads, d_out, q, k, v, out, lse, options, *method, context, backward);
    };
    any.multi_head_backward_into = [method](auto grads, const auto& d_out, const auto& q, const auto& k, const auto& v,
                                            const auto& out, const auto& lse, const auto& heads, const auto& options,
                                            const auto& context, const auto& backward) {
      heed::multi_head_attend_backward_into(grads, d_out, q, k, v, out, lse, heads, options, *method, context,
                                            backward);
    };
  }
  return any;
}

/// A generic callable (Inputs<S>, arguments...) -> Result<S>, kept for each of the four scalars. A scalar the callable
/// does not accept (by its constraints) is left out.
template <template <class> class Result, class... Arguments>
class PerScalar {
 public:
  PerScalar() = default;
  template <class F>
    requires(!std::is_same_v<std::decay_t<F>, PerScalar>)
  PerScalar(F f) {
    set<float>(f);
    set<double>(f);
    set<Eigen::half>(f);
    set<Eigen::bfloat16>(f);
  }
  template <class S>
  bool has() const {
    return static_cast<bool>(std::get<Call<S>>(calls_));
  }
  explicit operator bool() const { return has<float>() || has<double>(); }
  template <class S>
  Result<S> operator()(const Inputs<S>& in, const Arguments&... arguments) const {
    return std::get<Call<S>>(calls_)(in, arguments...);
  }

 private:
  template <class S>
  using Call = std::function<Result<S>(const Inputs<S>&, const Arguments&...)>;

  template <class S, class F>
  void set(const F& f) {
    if constexpr (std::is_invocable_v<const F&, const Inputs<S>&, const Arguments&...>) {
      std::get<Call<S>>(calls_) = [f](const Inputs<S>& in, const Arguments&... arguments) {
        auto made = f(in, arguments...);
        if constexpr (std::is_convertible_v<decltype(made), Result<S>>) {
          return made;
        } else {
          return erased<S>(std::move(made));
        }
      };
    }
  }
  std::tuple<Call<float>, Call<double>, Call<Eigen::half>, Call<Eigen::bfloat16>> calls_;
};

using PairMatrix = Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class S>
using PairMatrixOf = PairMatrix;
template <class S>
using ResultInDouble = AttentionResult<double>;
template <class S>
using InputsInDouble = Inputs<double>;

/// One call as a FLOP formula sees it, summed over nothing: one head.
struct FlopCase {
  Index n_q = 0;
  Index n_k = 0;
  Index d = 0;
  Index d_v = 0;
  double kept_pairs = 0.0;  ///< by the method and by the masks
  double real_keys = 0.0;
  double seen_keys = 0.0;  ///< keys that some query sees by the masks
  AttentionOptions options{};
  Inputs<double> in{};  ///< the tokens themselves, for what depends on them
};

/// 2 (d + d_v) per kept pair, one exp each.
inline FlopCounter exact_flops(const FlopCase& sizes) {
  FlopCounter flops;
  flops.add_products(Phase::scores, 2.0 * static_cast<double>(sizes.d) * sizes.kept_pairs);
  flops.add_products(Phase::values, 2.0 * static_cast<double>(sizes.d_v) * sizes.kept_pairs);
  flops.add_exponentials(sizes.kept_pairs);
  flops.add_tokens(sizes.real_keys, static_cast<double>(sizes.n_k));
  return flops;
}

/// 6 d + 4 d_v per kept pair, one exp each.
inline FlopCounter exact_backward_flops(const FlopCase& sizes) {
  FlopCounter flops;
  flops.add_products(Phase::backward_scores, 6.0 * static_cast<double>(sizes.d) * sizes.kept_pairs);
  flops.add_products(Phase::backward_values, 4.0 * static_cast<double>(sizes.d_v) * sizes.kept_pairs);
  flops.add_exponentials(sizes.kept_pairs);
  return flops;
}

inline bool supports_everything(std::string_view) { return true; }

/// All the conformance suite needs to know of a method.
struct MethodCase {
  PerScalar<AnyMethod> make;          ///< (in) -> the method, for tokens like those of `in`
  PerScalar<AnyMethod> exact_when{};  ///< (in) -> the method where it must equal exact attention; default: none
  PerScalar<PairMatrixOf, AttentionOptions> keeps{};  ///< (in, options) -> pairs the method itself sees; default: all
  PerScalar<ResultInDouble, AttentionOptions>
      expected{};                      ///< (in, options) -> the answer, where no set of pairs gives it
  PerScalar<InputsInDouble> coarse{};  ///< (in) -> `in` rounded as the method rounds, where its scalar is finer
  std::function<FlopCounter(const FlopCase&)> flops = exact_flops;  ///< arithmetic of one head
  std::function<FlopCounter(const FlopCase&)> backward_flops =
      exact_backward_flops;  ///< of its gradients without routing, in the phases of backward passes
  std::function<bool(std::string_view)> supports = supports_everything;  ///< by name of OptionKind
  bool has_softmax = true;            ///< returns lse, and results of two sets of keys merge by it
  bool positional = false;            ///< moving a key or a query among the others changes what it sees
  bool reads_keys_to_choose = false;  ///< which pairs it sees depends on what the keys hold (routing)
  bool falls_back = false;            ///< a query none of whose own keys is there sees others: parts do not merge
  bool shows_nan_of_queries = true;   ///< a query with a NaN gets a row of them
  bool shares_scales = false;         ///< what a row is rounded to depends on rows beside it that it does not see
  bool linear_in_v = true;
  bool mixes_columns = false;         ///< a NaN in one column of v reaches every column of the rows that see it
  bool same_work_by_head = true;      ///< packed heads count what as many calls of one head count
  std::string_view value_rows = "v";  ///< what messages call the argument v has its rows from, and its columns
  std::string_view value_columns = "v";
  bool reuses_workspace = true;  ///< allocates nothing from the second call on
};

}  // namespace heed::test
