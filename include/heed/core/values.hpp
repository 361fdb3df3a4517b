#pragma once
#include <concepts>
#include <type_traits>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

/// Where the value rows of a call come from: n_keys() rows of width() entries, row j belonging to key j.
template <class V>
concept ValueSource = requires(const V& values) {
  typename V::Scalar;
  { values.n_keys() } -> std::convertible_to<Index>;
  { values.width() } -> std::convertible_to<Index>;
  { values.view() } -> std::same_as<ConstView<typename V::Scalar>>;
};

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
