#pragma once
#include <concepts>
#include <type_traits>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

// What a value source must and may offer. It stands in the place of v: n_keys() rows of width() entries, row j
// belonging to key j. A source is an immutable value; every member below is const and re-entrant. It is *stored*, its
// rows lie in memory as they are, or *computed*, its rows are made during the call. examples/07_your_own_values.cpp is
// a skeleton of a computed one.
//
//   typename Scalar
//       must. The scalar of its rows: that of q and k.
//   Index n_keys()
//       must. Number of rows: as many as k has.
//   Index width()
//       must. Entries of a row, over all key heads: each owns width() / n_kv_heads of them, in order.
//   ConstView<Scalar> view()
//       this or attend_heads. The rows of a stored source; they live as long as it does.
//   static constexpr bool computes_rows = true
//       must, of computed sources.
//   void attend_heads(calls, heads_per_kv, options, run, context)
//       this or view. Answers calls (core/method.hpp) that have all but their values: makes rows, points v of each call
//       at its columns, and lets the method run by run.run(calls, heads_per_kv, options, context). Sizes, masks,
//       options and outputs have been checked, the method has been asked, there is at least one query, and the context
//       brings a workspace. It refuses what it cannot mean before it runs the method, reads no row of padding
//       (Mask::n_real_keys), and counts its products as Phase::project or Phase::sample. It may run other calls than it
//       was given, for instance over x in the place of x w_v, and then writes every row of out and of lse where that is
//       not null. `run` is a MethodRun (exact/run_method.hpp): a source that looks at the pairs first calls
//       run.prepare(), so that they are made once.
//   typename Gradients; void size_gradients(Gradients&); void check_gradients(gradients)
//       may, of computed sources that have a gradient: that of what rows are made from, in the place of d_v; as those
//       of a method (core/method.hpp).
//   void backward(calls, heads_per_kv, options, run, gradients, context)
//       must, of such sources. Makes its rows again as forward did, points v and d_v (sums, cleared) of each call at
//       them, lets the method go backward by run.run_backward(calls, heads_per_kv, options, context), and writes those
//       members of `gradients` that exist and are not of size 0. `run` is a BackwardRun (exact/backward_run.hpp), a
//       MethodRun too; run.prepare() comes first.
//   static constexpr const char* rows_from, columns_from
//       may. Names of the arguments that its rows and its columns come from, for messages: "x" and "w_v" of X W_v.
//       Default: "v".

namespace detail {

template <class V>
concept HasValueRows = requires(const V& values) {
  typename V::Scalar;
  { values.n_keys() } -> std::convertible_to<Index>;
  { values.width() } -> std::convertible_to<Index>;
};

template <class V>
concept StoresValueRows = requires(const V& values) {
  requires HasValueRows<V>;
  { values.view() } -> std::same_as<ConstView<typename V::Scalar>>;
};

}  // namespace detail

/// A value source whose rows are made during the call.
template <class V>
concept ComputedValues = requires {
  requires detail::HasValueRows<V>;
  requires V::computes_rows;
};

/// What stands in the place of v without being a matrix itself.
template <class V>
concept ValueSource = ComputedValues<V> || detail::StoresValueRows<V>;

/// Value rows that lie in a matrix: the ordinary v. Views the matrix, which must outlive it.
template <class S>
class StoredValues {
 public:
  using Scalar = S;

  template <TokenMatrix V>
    requires std::is_same_v<typename V::Scalar, S>
  explicit StoredValues(const V& v) : view_(view_of(v)) {}
  template <TemporaryMatrix V>
  explicit StoredValues(V&&) {
    static_assert(sizeof(V) == 0,
                  "heed: StoredValues would dangle: it views a temporary matrix; name the matrix first");
  }

  Index n_keys() const { return view_.rows; }
  Index width() const { return view_.cols; }
  ConstView<S> view() const { return view_; }

 private:
  ConstView<S> view_;
};

template <TokenMatrix V>
StoredValues(const V&) -> StoredValues<typename V::Scalar>;

static_assert(ValueSource<StoredValues<float>>);

}  // namespace heed
