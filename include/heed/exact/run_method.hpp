#pragma once
#include <cstddef>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/method.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/present_keys.hpp"
#include "heed/engine/run_pairs.hpp"

namespace heed::detail {

/// True for a list of methods, one per head or one per key/value head (a span or vector of them).
template <class Method>
concept method_list = requires(const Method& methods) {
  methods.size();
  methods[0];
};

template <class Method>
struct MethodOf {
  using type = Method;
};
template <method_list Method>
struct MethodOf<Method> {
  using type = std::remove_cvref_t<decltype(std::declval<const Method&>()[0])>;
};
/// The method, or the type of those in a list.
template <class Method>
using MethodOfHead = typename MethodOf<Method>::type;

/// True for a method whose pairs come of positions alone: keys need not lie in memory as rows.
template <class Method>
inline constexpr bool reads_no_keys = requires {
  requires Method::reads_no_keys;
};

/// True for a method, or a list of methods, that returns a log-sum-exp.
template <class Method>
constexpr bool returns_lse() {
  return MethodOfHead<Method>::has_softmax;
}

/// Calls visit(method, number of the method, first call, number of calls) for each method of a list, whose n_calls /
/// size() heads stand together and share keys, or for the one method of all calls.
template <class Method, class Visit>
void for_each_method(const Method& method, std::size_t n_calls, const Visit& visit) {
  if constexpr (method_list<Method>) {
    const std::size_t each = n_calls / method.size();
    for (std::size_t m = 0; m < method.size(); ++m) visit(method[m], m, m * each, each);
  } else {
    visit(method, std::size_t{0}, std::size_t{0}, n_calls);
  }
}

/// Throws what such heads would throw of a method, or of each in a list: before anything is written.
template <class Method>
void check_heads_of(const Method& method, const CallShape& heads, const AttentionOptions& options) {
  for_each_method(method, std::size_t{0}, [&](const auto& one, std::size_t, std::size_t, std::size_t) {
    if constexpr (requires { one.check_heads(heads, options); }) one.check_heads(heads, options);
  });
}

/// A method, or a list of them, for the heads of one call. Pairs are made once, and serve however many passes run
/// over them.
template <class Method>
class MethodRun {
 public:
  using One = MethodOfHead<Method>;

  /// True where log-sum-exp values are written.
  static constexpr bool has_softmax() { return One::has_softmax; }
  /// True where queries see every key that the mask keeps.
  static constexpr bool sees_all_keys() {
    return requires { requires One::sees_all_keys; };
  }
  template <class Call>
  static constexpr bool names_pairs() {
    return NamesPairs<One, Call>;
  }
  template <class Call>
  static constexpr bool weighs_keys() {
    return WeighsKeys<One, Call>;
  }

  /// `frame`: where pairs go that are made before they are run; it must outlive this.
  MethodRun(const Method& method, Workspace::Frame& frame) : method_(method), frame_(frame) {}
  MethodRun(const MethodRun&) = delete;
  ~MethodRun() {
    for (std::size_t m = 0; m < n_made_; ++m) pairs_[m].~Pairs();
  }

  /// Throws where the methods cannot tell what single keys weigh, though others of their kind can.
  void check_key_weights() const {
    for_each_method(method_, std::size_t{0}, [](const One& one, std::size_t, std::size_t, std::size_t) {
      if constexpr (requires { one.check_key_weights(); }) one.check_key_weights();
    });
  }

  /// Makes the pairs of methods that name them, for several passes. No frame may have been opened behind that of this
  /// object. The context brings a workspace.
  template <class Call>
  void prepare(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
               const Context& context) {
    if constexpr (NamesPairs<One, Call>) {
      if constexpr (method_list<Method>) {
        pairs_ = frame_.take<Pairs>(static_cast<Index>(method_.size()));
      } else {
        pairs_ = frame_.take<Pairs>(1);
      }
      for_each_method(method_, calls.size(), [&](const One& one, std::size_t m, std::size_t first, std::size_t n) {
        new (pairs_ + m)
            Pairs(pairs_of(one, calls.subspan(first, n), shared_keys(heads_per_kv, n), options, context, frame_));
        n_made_ = m + 1;
      });
    }
  }

  /// Computes the heads. Without prepare() before it, methods that name pairs make them now, all of a list before the
  /// first writes.
  template <class Call>
  void run(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
           const Context& context) const {
    if constexpr (method_list<Method> && NamesPairs<One, Call>) {
      if (n_made_ < method_.size()) {
        Workspace::Frame frame(*context.workspace);
        MethodRun all(method_, frame);
        all.prepare(calls, heads_per_kv, options, context);
        return all.run(calls, heads_per_kv, options, context);
      }
    }
    for_each_method(method_, calls.size(), [&](const One& one, std::size_t m, std::size_t first, std::size_t n) {
      const std::span<const Call> own = calls.subspan(first, n);
      const Index share = shared_keys(heads_per_kv, n);
      if constexpr (NamesPairs<One, Call>) {
        if (names_pairs_now(one)) {
          if (m < n_made_) {
            run_pairs(pairs_[m], own, share, options, score_mod_of(one), context);
          } else {
            Workspace::Frame frame(*context.workspace);
            run_pairs(pairs_of(one, own, share, options, context, frame), own, share, options, score_mod_of(one),
                      context);
          }
          return;
        }
      }
      if constexpr (AttendsHeads<One, Call>) one.attend_heads(own, share, options, context);
    });
  }

  /// Calls visit(part, calls of the part, number of the first of them, score functor) for all pairs; after prepare().
  template <class Call, class Visit>
  void visit_parts(std::span<const Call> calls, const Visit& visit) const {
    for_each_method(method_, calls.size(), [&](const One& one, std::size_t m, std::size_t first, std::size_t n) {
      for (const PairsGroup* group = pairs_[m].groups(); group != nullptr; group = group->next) {
        for (const PairsPart* part = group->parts; part != nullptr; part = part->next) {
          visit(*part, calls_of(*group, calls.subspan(first, n)), static_cast<Index>(first) + group->first_call,
                score_mod_of(one));
        }
      }
    });
  }

  /// Calls visit(pairs, calls of the method, how many of them share keys, score functor) for each method; after
  /// prepare().
  template <class Call, class Visit>
  void visit_pairs(std::span<const Call> calls, Index heads_per_kv, const Visit& visit) const {
    for_each_method(method_, calls.size(), [&](const One& one, std::size_t m, std::size_t first, std::size_t n) {
      visit(pairs_[m], calls.subspan(first, n), shared_keys(heads_per_kv, n), score_mod_of(one));
    });
  }

  /// Adds what each call gives each key, for methods that know without pairs.
  template <class Call>
  void add_column_weights(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                          const ColumnSums<typename Call::Sum>& sums, const Context& context) const {
    for_each_method(method_, calls.size(), [&](const One& one, std::size_t, std::size_t first, std::size_t n) {
      const Index offset = static_cast<Index>(first) / heads_per_kv * calls.front().k.rows;
      one.add_column_weights(calls.subspan(first, n), shared_keys(heads_per_kv, n), options,
                             ColumnSums<typename Call::Sum>{sums.largest + offset, sums.squares + offset}, context);
    });
  }

 protected:
  // Heads of one method of a list share their keys.
  static Index shared_keys(Index heads_per_kv, std::size_t n_calls) {
    return method_list<Method> ? static_cast<Index>(n_calls) : heads_per_kv;
  }

 private:
  static bool names_pairs_now(const One& one) {
    if constexpr (requires { one.names_pairs(); }) {
      return one.names_pairs();
    } else {
      return true;
    }
  }
  template <class Call>
  static Pairs pairs_of(const One& one, std::span<const Call> calls, Index heads_per_kv,
                        const AttentionOptions& options, const Context& context, Workspace::Frame& frame) {
    if (!names_pairs_now(one)) return Pairs(frame);
    Pairs pairs = one.pairs(calls, heads_per_kv, options, context, frame);
    if (options.mask.keys.given()) leave_out_absent_keys(pairs, options.mask.keys, calls.front().k.rows);
    return pairs;
  }

  const Method& method_;
  Workspace::Frame& frame_;
  Pairs* pairs_ = nullptr;  // of each method, where they were made
  std::size_t n_made_ = 0;
};

}  // namespace heed::detail
