#pragma once
#include <utility>

#include <Eigen/Core>

#include "heed/core/heads.hpp"
#include "heed/core/values.hpp"
#include "support/inputs.hpp"
#include "support/method_case.hpp"

namespace heed::test {

/// A method over values made during the call, where the answer is known: x = [v | 0] in the layout of v, and w_v = [I;
/// anything], so that x w_v is v to the last bit. Of the 2 cols(v) products of a row, the first cols(v) make it.
/// make(x, w_v) returns the value source.
template <class S, class Method, class Make>
class OverComputed {
 public:
  OverComputed(Method method, Make make) : method_(std::move(method)), make_(std::move(make)) {}

  template <class Out, class Lse, class In>
  void attend_into(Out out, Lse lse, const In& q, const In& k, const In& v, const AttentionOptions& options,
                   const Context& context) const {
    const HeadMap<const S> x = x_of(v);
    heed::attend_into(out, lse, q, k, make_(x, w_), options, method_, context);
  }
  template <class Out, class Lse, class In>
  void multi_head_attend_into(Out out, Lse lse, const In& q, const In& k, const In& v, const HeadOptions& heads,
                              const AttentionOptions& options, const Context& context) const {
    const HeadMap<const S> x = x_of(v);
    heed::multi_head_attend_into(out, lse, q, k, make_(x, w_), heads, options, method_, context);
  }

 private:
  // Memory is kept: the suite counts what a second call allocates.
  template <class In>
  HeadMap<const S> x_of(const In& v) const {
    const Index n = v.rows(), columns = v.cols(), d_in = 2 * columns;
    if (w_.cols() != columns) {
      w_ = random_matrix<S>(d_in, columns, 77);
      w_.topRows(columns).setIdentity();
    }
    x_.resize(n * d_in);
    const bool rows = v.innerStride() == 1;
    HeadMap<S> x(x_.data(), n, d_in, {rows ? d_in : Index(1), rows ? Index(1) : n});
    x.leftCols(columns) = v;
    x.rightCols(columns).setZero();
    return {x_.data(), n, d_in, {x.outerStride(), x.innerStride()}};
  }

  Method method_;
  Make make_;
  mutable Vector<S> x_;
  mutable Matrix<S> w_;
};

template <class S, class Method, class Make>
OverComputed<S, Method, Make> over_computed(Method method, Make make) {
  return {std::move(method), std::move(make)};
}

}  // namespace heed::test
