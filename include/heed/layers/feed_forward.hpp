#pragma once
#include <algorithm>
#include <cmath>
#include <string>

#include "heed/core/check_option.hpp"
#include "heed/core/context.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/kernels/select.hpp"
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
  /// Errors  OptionError for d_hidden < 1.
  FeedForward(ParameterStore<T>& store, const std::string& name, Index d, Index d_hidden, Activation activation,
              std::uint64_t seed)
      : activation_(activation) {
    const bool has_biases = activation == Activation::gelu;
    detail::check_size(d_hidden, 1, "d_hidden");
    store.add_all_or_none([&] {
      in_ = Linear<T>(store, name + ".in", d, activation == Activation::swiglu ? 2 * d_hidden : d_hidden, has_biases,
                      seed);
      out_ = Linear<T>(store, name + ".out", d_hidden, d, has_biases, seed);
    });
  }

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
    for_blocks(x.rows, context,
               [&](Index first, Index n) { activate(kept.u.rows_from(first, n), kept.h.rows_from(first, n)); });
    out_.forward(store, detail::read_only(kept.h), y, context);
  }

  /// d_x is written.
  void backward(ParameterStore<T>& store, const ConstView<T>& x, const Kept& kept, const ConstView<T>& d_y,
                const View<T>& d_x, const Context& context) const {
    Workspace::Frame frame(*context.workspace);
    const View<T> d_h = detail::take_rows<T>(frame, x.rows, out_.n_in()),
                  d_u = detail::take_rows<T>(frame, x.rows, in_.n_out());
    out_.backward(store, detail::read_only(kept.h), d_y, d_h, context);
    for_blocks(x.rows, context, [&](Index first, Index n) {
      derive(kept.u.rows_from(first, n), d_h.rows_from(first, n), d_u.rows_from(first, n));
    });
    in_.backward(store, x, detail::read_only(d_u), d_x, context);
  }

 private:
  // Blocks of rows side by side on threads.
  template <class Body>
  void for_blocks(Index rows, const Context& context, const Body& body) const {
    constexpr Index block = 64;
    const double work = static_cast<double>(rows * out_.n_in());
    detail::for_each_task((rows + block - 1) / block,
                          detail::threads_for(work, 2e4, detail::thread_count(context.threads)),
                          [&](Index task) { body(task * block, std::min(block, rows - task * block)); });
  }

  void activate(const View<T>& u, const View<T>& h) const {
    if (activation_ == Activation::gelu)
      return detail::activation_kernels<T>(active_isa()).gelu(u.rows * u.cols, u.data, h.data);
    const Index n = h.cols;
    for (Index i = 0; i < u.rows; ++i) {
      const auto row = detail::row_of(u, i);
      if (activation_ == Activation::swiglu) {
        detail::row_of(h, i) = row.head(n) / (T(1) + (-row.head(n)).exp()) * row.tail(n);
      } else {
        detail::row_of(h, i) = row.max(T(0)).square();
      }
    }
  }

  void derive(const View<T>& u, const View<T>& d_h, const View<T>& d_u) const {
    if (activation_ == Activation::gelu)
      return detail::activation_kernels<T>(active_isa()).gelu_backward(u.rows * u.cols, u.data, d_h.data, d_u.data);
    const Index n = d_h.cols;
    for (Index i = 0; i < u.rows; ++i) {
      if (activation_ == Activation::squared_relu) {
        detail::row_of(d_u, i) = detail::row_of(d_h, i) * T(2) * detail::row_of(u, i).max(T(0));
        continue;
      }
      for (Index e = 0; e < n; ++e) {  // h = u s w, s = sigmoid(u)
        const T x = u(i, e), s = T(1) / (T(1) + std::exp(-x));
        d_u(i, e) = d_h(i, e) * u(i, n + e) * s * (T(1) + x * (T(1) - s));
        d_u(i, n + e) = d_h(i, e) * x * s;
      }
    }
  }

  Activation activation_ = Activation::gelu;
  Linear<T> in_, out_;
};

}  // namespace heed
