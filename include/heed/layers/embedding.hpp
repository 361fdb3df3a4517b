#pragma once
#include <cmath>
#include <cstdint>
#include <span>
#include <string>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/rows.hpp"

namespace heed {

/// y_i = E[token_i].
///
/// Shapes  E: n_tokens x d, tokens: n numbers in [0, n_tokens), y: n x d.
/// Errors  OptionError for a token outside.
template <class T>
class Embedding {
 public:
  Embedding() = default;
  /// Adds E = N(0, deviation^2) as "<name>".
  Embedding(ParameterStore<T>& store, const std::string& name, Index n_tokens, Index d, double deviation,
            std::uint64_t seed) {
    store.add_all_or_none([&] {
      table_ = store.add(name, n_tokens, d);
      store.fill_normal(table_, deviation, seed);
    });
  }
  const Slice& table() const { return table_; }

  /// y is added to, so that positions and other tables may share it.
  void forward(const ParameterStore<T>& store, std::span<const std::int32_t> tokens, const View<T>& y) const {
    const ConstView<T> table = store.values(table_);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] < 0 || tokens[i] >= table.rows) {
        throw OptionError(detail::message("tokens[", static_cast<Index>(i), "] = ", static_cast<Index>(tokens[i]),
                                          " must be in [0, ", table.rows, ")"));
      }
      detail::row_of(y, static_cast<Index>(i)) += detail::row_of(table, tokens[i]);
    }
  }

  /// d_E[token_i] += d_y_i.
  void backward(ParameterStore<T>& store, std::span<const std::int32_t> tokens, const ConstView<T>& d_y) const {
    const View<T> d_table = store.gradients(table_);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      detail::row_of(d_table, tokens[i]) += detail::row_of(d_y, static_cast<Index>(i));
  }

 private:
  Slice table_;
};

/// Adds sin and cos of i / 10000^(2 c / d) to row i: positions that are not learned.
/// Source  Vaswani et al. 2017, section 3.5 (positional encoding).
template <class T>
void add_sinusoidal_positions(const View<T>& y) {
  for (Index c = 0; c + 1 < y.cols; c += 2) {
    const double rate = std::pow(10000.0, -static_cast<double>(c) / static_cast<double>(y.cols));
    for (Index i = 0; i < y.rows; ++i) {
      y(i, c) += static_cast<T>(std::sin(static_cast<double>(i) * rate));
      y(i, c + 1) += static_cast<T>(std::cos(static_cast<double>(i) * rate));
    }
  }
}

/// Rotates entries (c, c + d / 2) of each head's row i by the angle i / base^(2 c / d), in place; `turn` = -1 turns
/// back, which is also the gradient.
/// Shapes  x: n x (n_heads d), row-major; row i stands at position i.
/// Errors  ShapeError unless there are heads whose d is even.
/// Source  Su et al. 2021 (RoFormer), in the layout of halves.
template <class T>
void rotate_positions(const View<T>& x, Index n_heads, double base = 10000.0, int turn = 1) {
  if (n_heads < 1 || x.cols % (2 * n_heads) != 0) {
    throw ShapeError(
        detail::message("cols(x) = ", x.cols, " must be an even width for each of n_heads = ", n_heads, " heads"));
  }
  const Index d = x.cols / n_heads, half = d / 2;
  for (Index c = 0; c < half; ++c) {
    const double rate = std::pow(base, -2.0 * static_cast<double>(c) / static_cast<double>(d));
    for (Index i = 0; i < x.rows; ++i) {
      const double angle = static_cast<double>(i) * rate;
      const T cosine = static_cast<T>(std::cos(angle)), sine = static_cast<T>(turn * std::sin(angle));
      for (Index h = 0; h < n_heads; ++h) {
        T& a = x(i, h * d + c);
        T& b = x(i, h * d + half + c);
        const T first = a * cosine - b * sine;
        b = a * sine + b * cosine;
        a = first;
      }
    }
  }
}

}  // namespace heed
