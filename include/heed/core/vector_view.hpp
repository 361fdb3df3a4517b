#pragma once
#include <type_traits>

#include "heed/core/errors.hpp"
#include "heed/core/pair_view.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

/// Type-erased read-only view of one row or column of numbers, such as a bias: an Eigen vector, or a matrix with one
/// row or one column, of any real scalar. Empty means "not given". The vector must outlive the view.
class VectorView : public PairView {
 public:
  VectorView() = default;
  template <DenseMatrix T>
  VectorView(const T& vector) : PairView(checked(vector)) {
    if (rows() != 1 && cols() != 1)
      throw ShapeError(detail::message("a bias is ", rows(), " x ", cols(), " but must be one row or one column"));
  }
  template <TemporaryMatrix T>
  VectorView(T&&) {
    static_assert(sizeof(T) == 0, "heed: a bias would dangle: it views a temporary vector; name the vector first");
  }

  Index size() const { return rows() * cols(); }
  double operator()(Index c) const { return rows() == 1 ? at(0, c) : at(c, 0); }

 private:
  template <class T>
  static auto checked(const T& m) {
    static_assert(RealScalar<typename T::Scalar>, "heed: a bias must be of float, double, half or bfloat16");
    return view_of(m);
  }
};

}  // namespace heed
