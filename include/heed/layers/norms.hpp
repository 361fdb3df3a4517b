#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "heed/core/check_option.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/number_range.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/rows.hpp"

namespace heed {

namespace detail {

/// Throws OptionError where rows cannot be divided by a norm: there is none without entries, and that of zeros is
/// sqrt(eps).
template <class T>
void check_norm(Index d, double eps) {
  check_size(d, 1, "the width of a norm's rows");
  check_within(eps, static_cast<double>(std::numeric_limits<T>::min()), number_range<T>().largest, "eps of a norm");
}

template <class T>
constexpr T power_of_2(int exponent) {
  T power = 1;
  for (; exponent > 0; --exponent) power *= 2;
  return power;
}

/// What a row is multiplied by where the sum of its squares would overflow: a power of 2, which rounds nothing.
template <class T>
constexpr T small_unit = T(1) / power_of_2<T>(std::numeric_limits<T>::max_exponent / 8 * 5);

/// 1 / sqrt(square + eps) of a row that was multiplied by `unit`. eps is never lost altogether, so that a row of one
/// large number has a norm too.
template <class T>
T inverse_norm(T square, T eps, T unit) {
  return T(1) / std::sqrt(square + std::max(eps * unit * unit, std::numeric_limits<T>::min()));
}

}  // namespace detail

/// y = gain * x / sqrt(mean(x^2) + eps), row by row.
///
/// Shapes  x, y: n x d, rows without gaps; gain: d >= 1. `inverse` (n entries) keeps 1 / sqrt(...) for the way back.
///         Any finite row has its norm, also where its squares overflow. Under -ffast-math, where d_y x may be made
///         before it is divided, a row and its d_y whose product overflows have an infinite gradient.
/// Errors  OptionError for d < 1, and an eps that is no normal number above 0 in T.
/// Source  Zhang and Sennrich 2019.
template <class T>
class RmsNorm {
 public:
  RmsNorm() = default;
  /// Adds gain = 1 as "<name>.gain".
  RmsNorm(ParameterStore<T>& store, const std::string& name, Index d, double eps = 1e-6) : eps_(static_cast<T>(eps)) {
    detail::check_norm<T>(d, eps);
    gain_ = store.add(name + ".gain", 1, d, {.decays = false});
    store.fill(gain_, T(1));
  }

  void forward(const ParameterStore<T>& store, const ConstView<T>& x, const View<T>& y, T* inverse) const {
    const auto gain = detail::row_of(store.values(gain_), 0);
    for (Index i = 0; i < x.rows; ++i) {
      const auto row = detail::row_of(x, i);
      T square = row.square().mean(), unit = 1;
      if (!detail::is_finite(square)) {
        unit = detail::small_unit<T>;
        square = (row * unit).square().mean();
      }
      const T own = detail::inverse_norm(square, eps_, unit);
      inverse[i] = own * unit;
      detail::row_of(y, i) = gain * (row * unit * own);
    }
  }

  /// With u = x * inverse and g = gain * d_y: d_gain += sum_i d_y u, d_x = inverse * (g - u mean(g u)). d_x is added
  /// to.
  void backward(ParameterStore<T>& store, const ConstView<T>& x, const T* inverse, const ConstView<T>& d_y,
                const View<T>& d_x) const {
    const auto gain = detail::row_of(store.values(gain_), 0);
    auto d_gain = detail::row_of(store.gradients(gain_), 0);
    for (Index i = 0; i < x.rows; ++i) {
      const auto row = detail::row_of(x, i), d_row = detail::row_of(d_y, i);
      const auto u = row * inverse[i];
      d_gain += d_row * u;
      const T along = (gain * d_row * u).mean();
      detail::row_of(d_x, i) += inverse[i] * (gain * d_row - u * along);
    }
  }

 private:
  Slice gain_;
  T eps_ = T(1e-6);
};

/// y = gain * (x - mean(x)) / sqrt(variance(x) + eps) + shift, row by row.
///
/// Shapes  as RmsNorm; shift: d. `moments` (2 n entries) keeps means and 1 / sqrt(...).
/// Errors  as RmsNorm.
/// Source  Ba, Kiros, Hinton 2016.
template <class T>
class LayerNorm {
 public:
  LayerNorm() = default;
  /// Adds gain = 1 and shift = 0 as "<name>.gain" and "<name>.shift".
  LayerNorm(ParameterStore<T>& store, const std::string& name, Index d, double eps = 1e-5) : eps_(static_cast<T>(eps)) {
    detail::check_norm<T>(d, eps);
    store.add_all_or_none([&] {
      gain_ = store.add(name + ".gain", 1, d, {.decays = false});
      shift_ = store.add(name + ".shift", 1, d, {.decays = false});
    });
    store.fill(gain_, T(1));
  }

  void forward(const ParameterStore<T>& store, const ConstView<T>& x, const View<T>& y, T* moments) const {
    const auto gain = detail::row_of(store.values(gain_), 0), shift = detail::row_of(store.values(shift_), 0);
    for (Index i = 0; i < x.rows; ++i) {
      const auto row = detail::row_of(x, i);
      T& mean = moments[2 * i];
      T& inverse = moments[2 * i + 1];
      T own_mean = row.mean(), square = (row - own_mean).square().mean(), unit = 1;
      if (!detail::is_finite(square)) {
        unit = detail::small_unit<T>;
        own_mean = (row * unit).mean();
        square = (row * unit - own_mean).square().mean();
      }
      const T own = detail::inverse_norm(square, eps_, unit);
      mean = own_mean / unit;
      inverse = own * unit;
      detail::row_of(y, i) = gain * ((row * unit - own_mean) * own) + shift;
    }
  }

  /// With u = (x - mean) * inverse and g = gain * d_y: d_gain += sum_i d_y u, d_shift += sum_i d_y, d_x = inverse * (g
  /// - mean(g) - u mean(g u)). d_x is added to.
  void backward(ParameterStore<T>& store, const ConstView<T>& x, const T* moments, const ConstView<T>& d_y,
                const View<T>& d_x) const {
    const auto gain = detail::row_of(store.values(gain_), 0);
    auto d_gain = detail::row_of(store.gradients(gain_), 0), d_shift = detail::row_of(store.gradients(shift_), 0);
    for (Index i = 0; i < x.rows; ++i) {
      const auto row = detail::row_of(x, i), d_row = detail::row_of(d_y, i);
      const T mean = moments[2 * i], inverse = moments[2 * i + 1];
      const T unit = inverse < detail::small_unit<T> ? T(0.5) : T(1);  // row - mean may pass the largest number
      const auto u = (row * unit - mean * unit) * (inverse / unit);
      d_gain += d_row * u;
      d_shift += d_row;
      const T level = (gain * d_row).mean(), along = (gain * d_row * u).mean();
      detail::row_of(d_x, i) += inverse * (gain * d_row - level - u * along);
    }
  }

 private:
  Slice gain_, shift_;
  T eps_ = T(1e-5);
};

}  // namespace heed
