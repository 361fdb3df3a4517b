#pragma once
#include <cmath>
#include <string>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/rows.hpp"

namespace heed {

/// y = gain * x / sqrt(mean(x^2) + eps), row by row.
///
/// Shapes  x, y: n x d, rows without gaps; gain: d. `inverse` (n entries) keeps 1 / sqrt(...) for the way back.
/// Source  Zhang and Sennrich 2019.
template <class T>
class RmsNorm {
 public:
  RmsNorm() = default;
  /// Adds gain = 1 as "<name>.gain".
  RmsNorm(ParameterStore<T>& store, const std::string& name, Index d, double eps = 1e-6)
      : gain_(store.add(name + ".gain", 1, d, {.decays = false})), eps_(static_cast<T>(eps)) {
    store.fill(gain_, T(1));
  }

  void forward(const ParameterStore<T>& store, const ConstView<T>& x, const View<T>& y, T* inverse) const {
    const auto gain = detail::row_of(store.values(gain_), 0);
    for (Index i = 0; i < x.rows; ++i) {
      const auto row = detail::row_of(x, i);
      inverse[i] = T(1) / std::sqrt(row.square().mean() + eps_);
      detail::row_of(y, i) = gain * (row * inverse[i]);
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
      d_gain += d_row * row * inverse[i];
      const T along = (gain * d_row * row).mean() * inverse[i] * inverse[i];
      detail::row_of(d_x, i) += inverse[i] * (gain * d_row - row * along);
    }
  }

 private:
  Slice gain_;
  T eps_ = T(1e-6);
};

/// y = gain * (x - mean(x)) / sqrt(variance(x) + eps) + shift, row by row.
///
/// Shapes  as RmsNorm; shift: d. `moments` (2 n entries) keeps means and 1 / sqrt(...).
/// Source  Ba, Kiros, Hinton 2016.
template <class T>
class LayerNorm {
 public:
  LayerNorm() = default;
  /// Adds gain = 1 and shift = 0 as "<name>.gain" and "<name>.shift".
  LayerNorm(ParameterStore<T>& store, const std::string& name, Index d, double eps = 1e-5)
      : gain_(store.add(name + ".gain", 1, d, {.decays = false})),
        shift_(store.add(name + ".shift", 1, d, {.decays = false})),
        eps_(static_cast<T>(eps)) {
    store.fill(gain_, T(1));
  }

  void forward(const ParameterStore<T>& store, const ConstView<T>& x, const View<T>& y, T* moments) const {
    const auto gain = detail::row_of(store.values(gain_), 0), shift = detail::row_of(store.values(shift_), 0);
    for (Index i = 0; i < x.rows; ++i) {
      const auto row = detail::row_of(x, i);
      T& mean = moments[2 * i];
      T& inverse = moments[2 * i + 1];
      mean = row.mean();
      inverse = T(1) / std::sqrt((row - mean).square().mean() + eps_);
      detail::row_of(y, i) = gain * ((row - mean) * inverse) + shift;
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
      d_gain += d_row * (row - mean) * inverse;
      d_shift += d_row;
      const T level = (gain * d_row).mean(), along = (gain * d_row * (row - mean)).mean() * inverse * inverse;
      detail::row_of(d_x, i) += inverse * (gain * d_row - level - (row - mean) * along);
    }
  }

 private:
  Slice gain_, shift_;
  T eps_ = T(1e-5);
};

}  // namespace heed
