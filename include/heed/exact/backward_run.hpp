#pragma once
#include <cstddef>
#include <span>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/method.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/gradient_call.hpp"
#include "heed/engine/run_backward.hpp"
#include "heed/exact/run_method.hpp"

namespace heed::detail {

/// What a backward pass returns besides the gradients of operands, for a method or a list of them.
template <class Method>
struct MethodGradients {
  using type = NoGradients;
};
template <class Method>
  requires requires { typename Method::Gradients; }
struct MethodGradients<Method> {
  using type = typename Method::Gradients;
};
template <method_list Method>
  requires requires { typename MethodOfHead<Method>::Gradients; }
struct MethodGradients<Method> {
  using type = ListedGradients<typename MethodOfHead<Method>::Gradients>;
};

/// Makes room for the gradients of a method's own parameters.
template <class Method, class Grads>
void size_method_gradients(const Method& method, Grads& grads) {
  if constexpr (requires { typename MethodOfHead<Method>::Gradients; }) {
    if constexpr (method_list<Method>) grads.d_methods.resize(method.size());
    for_each_method(method, std::size_t{0}, [&](const auto& one, std::size_t m, std::size_t, std::size_t) {
      if constexpr (method_list<Method>) {
        one.size_gradients(grads.d_methods[m]);
      } else {
        static_cast<void>(m);
        one.size_gradients(grads);
      }
    });
  }
}

/// Calls visit(what grads hold for method m).
template <class Method, class Grads, class Visit>
void with_gradients_of(Grads& grads, [[maybe_unused]] std::size_t m, const Visit& visit) {
  if constexpr (!method_list<Method>) {
    visit(grads);
  } else if constexpr (requires { grads.d_methods; }) {
    visit(grads.d_methods[m]);
  } else {
    NoGradients none;
    visit(none);
  }
}

/// Throws what a backward pass would throw of the methods: before anything is written.
template <class Method, class Grads>
void check_backward_of(const Method& method, const BackwardOptions& backward, Grads& grads) {
  using One = MethodOfHead<Method>;
  if (!One::has_softmax && backward.d_lse.given()) {
    throw OptionError("heed: BackwardOptions::d_lse is given but must not be: the method returns no lse");
  }
  if constexpr (method_list<Method> && requires { grads.d_methods; }) {
    if (static_cast<std::size_t>(grads.d_methods.size()) != method.size()) {
      throw ShapeError(
          message("d_methods has ", grads.d_methods.size(), " entries but must have one per method: ", method.size()));
    }
  }
  for_each_method(method, std::size_t{0}, [&](const One& one, std::size_t m, std::size_t, std::size_t) {
    if constexpr (requires { one.check_backward(backward); }) one.check_backward(backward);
    with_gradients_of<Method>(grads, m, [&](auto& own) {
      if constexpr (requires { one.check_gradients(own); }) one.check_gradients(own);
    });
  });
}

/// A method, or a list of them, gone through backwards. Sums of d_q and d_k, for all heads side by side, are cleared by
/// run_backward(); those of d_v are the business of who made the calls.
template <class Method, class T, class Grads>
class BackwardRun : public MethodRun<Method> {
 public:
  using One = MethodOfHead<Method>;
  using Base = MethodRun<Method>;

  BackwardRun(const Method& method, const BackwardOptions& backward, Grads& grads, const View<T>& d_q,
              const View<T>& d_k, Workspace::Frame& frame)
      : Base(method, frame), method_(method), backward_(backward), grads_(grads), d_q_(d_q), d_k_(d_k) {}

  /// Adds to the gradients of all operands, and writes those of the methods; after prepare(). The context brings a
  /// workspace.
  template <class Call>
  void run_backward(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                    const Context& context) const {
    static_assert(NamesPairs<One, Call> || GoesBackwardByItself<One, Call>,
                  "heed: the method has no gradient: it neither names pairs nor has attend_heads_backward "
                  "(core/method.hpp)");
    for (const View<T>* sums : {&d_q_, &d_k_}) fill(*sums, T(0));
    if constexpr (NamesPairs<One, Call>) {
      this->visit_pairs(calls, heads_per_kv,
                        [&](const Pairs& pairs, std::span<const Call> own, Index share, const auto& mod) {
                          detail::run_backward(pairs, own, share, options, mod, context);
                        });
    }
    for_each_method(method_, calls.size(), [&](const One& one, std::size_t m, std::size_t first, std::size_t n) {
      const std::span<const Call> own = calls.subspan(first, n);
      const Index share = Base::shared_keys(heads_per_kv, n);
      with_gradients_of<Method>(grads_, m, [&](auto& grads) {
        if constexpr (!NamesPairs<One, Call>) {
          one.attend_heads_backward(own, share, options, backward_, grads, context);
        } else if constexpr (requires { one.add_gradients(own, share, options, backward_, grads, context); }) {
          one.add_gradients(own, share, options, backward_, grads, context);
        }
      });
    });
  }

 private:
  const Method& method_;
  const BackwardOptions& backward_;
  Grads& grads_;
  View<T> d_q_, d_k_;
};

}  // namespace heed::detail
