#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include <gtest/gtest.h>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/layers/parameter_store.hpp"
#include "support/inputs.hpp"

namespace heed::test {

inline ConstView<double> rows_of(const Matrix<double>& m) { return view_of(m); }

/// Central differences of `loss` by sampled entries of `operand`, against `gradient`.
inline void expect_derivative(double* operand, const double* gradient, Index n, const std::function<double()>& loss,
                              const std::string& name, double step = 1e-5, double tolerance = 2e-8) {
  NumberStream numbers(91);
  for (Index s = 0; s < std::min<Index>(n, 24); ++s) {
    const Index e = n <= 24 ? s : numbers.below(n);
    const double at = operand[e];
    operand[e] = at + step;
    const double above = loss();
    operand[e] = at - step;
    const double below = loss();
    operand[e] = at;
    EXPECT_NEAR(gradient[e], (above - below) / (2 * step), tolerance * std::max(1.0, std::abs(gradient[e])))
        << name << "[" << e << "]";
  }
}

/// The same for every parameter of a store, one by one by name.
inline void expect_parameter_derivatives(ParameterStore<double>& store, const std::function<double()>& loss,
                                         double tolerance = 2e-8) {
  for (Index s = 0; s < store.n_slices(); ++s) {
    const Slice slice = store.slice(s);
    expect_derivative(store.values(slice).data, store.gradients(slice).data, slice.size(), loss, store.name(s), 1e-5,
                      tolerance);
  }
}

}  // namespace heed::test
