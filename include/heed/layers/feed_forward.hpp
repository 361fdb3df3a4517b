#pragma once
#include <cmath>
#include <numbers>
#include <string>

#include "heed/core/context.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/layers/linear.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/rows.hpp"

namespace heed {

/// What stands between the two products of a feed-forward layer.
enum class Activation {
  gelu,          ///< h = u Phi(u) by the tanh formula (Hendrycks and Gimpel 2016)
  swiglu,        ///< h = u sigmoid(u) w, w a second product of x (Shazeer 2020)
  squared_relu,  ///< h = max(u, 0)^2 (So et al. 2021)
};

/// y = h(x W_1) W_2, without biases but for Activation::gelu, which has both.
///
/// Shapes  x, y: n x d; W_1: d x d_hidden, twice as wide for swiglu; W_2: d_hidden x d; rows without gaps.
/// Cost    4 n d d_hidden flops (6 for swiglu), twice that backward.
template <class T>
class FeedForward {
 public:
  FeedForward() = default;
  /// Adds "<name>.in" and "<name>.out".
  FeedForward(ParameterStore<T>& store, const std::string& name, Index d, Index d_hidden, Activation activation,
              std::uint64_t seed)
      : activation_(activation),
        in_(store, name + ".in", d, activation == Activation::swiglu ? 2 * d_hidden : d_hidden,
            activation == Activation::gelu, seed),
        out_(store, name + ".out", d_hidden, d, activation == Activation::gelu, seed) {}

  /// What forward leaves for backward.
  struct Kept {
    View<T> u, h;  // n x columns of W_1, n x d_hidden
  };
  Kept take(Workspace::Frame& frame, Index n) const {
    return {detail::take_rows<T>(frame, n, in_.n_out()), detail::take_rows<T>(frame, n, out_.n_in())};
  }

  void forward(const ParameterStore<T>& store, const ConstView<T>& x, const Kept& kept, const View<T>& y,
               const Context& context) const {
    in_.forward(store, x, kept.u, context);
    for (Index i = 0; i < x.rows; ++i)
      activate(detail::row_of(detail::read_only(kept.u), i), detail::row_of(kept.h, i));
    out_.forward(store, detail::read_only(kept.h), y, context);
  }

  /// d_x is written.
  void backward(ParameterStore<T>& store, const ConstView<T>& x, const Kept& kept, const ConstView<T>& d_y,
                const View<T>& d_x, const Context& context) const {
    Workspace::Frame frame(*context.workspace);
    const View<T> d_h = detail::take_rows<T>(frame, x.rows, out_.n_in()),
                  d_u = detail::take_rows<T>(frame, x.rows, in_.n_out());
    out_.backward(store, detail::read_only(kept.h), d_y, d_h, context);
    for (Index i = 0; i < x.rows; ++i) {
      derive(detail::row_of(detail::read_only(kept.u), i), detail::row_of(detail::read_only(d_h), i),
             detail::row_of(d_u, i));
    }
    in_.backward(store, x, detail::read_only(d_u), d_x, context);
  }

 private:
  using Row = Eigen::Map<const detail::RowArray<T>>;
  using RowOut = Eigen::Map<detail::RowArray<T>>;

  // gelu: h = u (1 + tanh(c (u + a u^3))) / 2.
  static constexpr T a = T(0.044715);
  static constexpr T c = T(std::numbers::sqrt2 * std::numbers::inv_sqrtpi);

  void activate(const Row& u, RowOut h) const {
    const Index n = h.size();
    switch (activation_) {
      case Activation::gelu: h = u * (T(1) + (c * (u + a * u.cube())).tanh()) / T(2); return;
      case Activation::swiglu: h = u.head(n) / (T(1) + (-u.head(n)).exp()) * u.tail(n); return;
      case Activation::squared_relu: h = u.max(T(0)).square(); return;
    }
  }

  void derive(const Row& u, const Row& d_h, RowOut d_u) const {
    const Index n = d_h.size();
    switch (activation_) {
      case Activation::gelu:
        for (Index e = 0; e < n; ++e) {
          const T t = std::tanh(c * (u[e] + a * u[e] * u[e] * u[e]));
          d_u[e] = d_h[e] * ((T(1) + t) + u[e] * (T(1) - t * t) * c * (T(1) + T(3) * a * u[e] * u[e])) / T(2);
        }
        return;
      case Activation::swiglu:
        for (Index e = 0; e < n; ++e) {
          const T s = T(1) / (T(1) + std::exp(-u[e]));
          d_u[e] = d_h[e] * u[n + e] * s * (T(1) + u[e] * (T(1) - s));
          d_u[n + e] = d_h[e] * u[e] * s;
        }
        return;
      case Activation::squared_relu: d_u = d_h * T(2) * u.max(T(0)); return;
    }
  }

  Activation activation_ = Activation::gelu;
  Linear<T> in_, out_;
};

}  // namespace heed
