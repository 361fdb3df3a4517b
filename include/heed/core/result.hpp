#pragma once
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

#include <Eigen/Core>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

/// What one head returns. out: n_q x d_v in the storage scalar; lse: n_q, natural log of the softmax denominator,
/// the sink, or -inf without one, where no key was kept; empty for methods without a softmax.
template <class S>
struct AttentionResult {
  Matrix<S> out;
  Vector<Accumulator<S>> lse;
};

/// What all heads of packed rows return. out: n_q x (n_heads * d_v), lse: n_q x n_heads.
template <class S>
struct MultiHeadResult {
  Matrix<S> out;
  Matrix<Accumulator<S>> lse;
};

/// Where a call writes log-sum-exp values: a span, vector or Eigen vector of n_q entries; empty when not wanted.
template <class S>
class LseSpan {
 public:
  LseSpan() = default;
  LseSpan(std::nullptr_t) {}
  LseSpan(std::span<S> span) : data_(span.data()), size_(static_cast<Index>(span.size())) {}
  LseSpan(std::vector<S>& vector) : data_(vector.data()), size_(static_cast<Index>(vector.size())) {}
  template <class T>
    requires(bool(std::remove_cvref_t<T>::IsVectorAtCompileTime) &&
             std::is_same_v<typename std::remove_cvref_t<T>::Scalar, S>)
  LseSpan(T&& vector) : data_(vector.data()), size_(vector.size()), stride_(vector.innerStride()) {
    static_assert(std::is_lvalue_reference_v<T> || !OwningMatrix<T>,
                  "heed: lse is a temporary vector: its numbers would be lost; pass a vector, a block or a map");
  }

  S* data() const { return size_ > 0 ? data_ : nullptr; }  // an empty vector may have memory
  Index size() const { return size_; }
  Index stride() const { return stride_; }
  bool wanted() const { return data() != nullptr; }

 private:
  S* data_ = nullptr;
  Index size_ = 0;
  Index stride_ = 1;
};

}  // namespace heed
