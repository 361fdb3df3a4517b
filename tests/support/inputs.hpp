#pragma once
#include <cstdint>
#include <optional>
#include <ostream>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>

#include <Eigen/Core>

#include "heed/core/types.hpp"

namespace heed::test {

template <class S>
constexpr std::string_view dtype_name() {
  if constexpr (std::is_same_v<S, float>) return "float";
  if constexpr (std::is_same_v<S, double>) return "double";
  if constexpr (std::is_same_v<S, long double>) return "long double";
  if constexpr (std::is_same_v<S, Eigen::half>) return "half";
  if constexpr (std::is_same_v<S, Eigen::bfloat16>) return "bfloat16";
}

/// Numbers of variance 1 in [-3, 3], bell-shaped, the same with every compiler and standard library (splitmix64).
class NumberStream {
 public:
  explicit NumberStream(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  double normal() { return 2.0 * (uniform() + uniform() + uniform()) - 3.0; }
  Index below(Index n) { return static_cast<Index>(bits() % static_cast<std::uint64_t>(n)); }

 private:
  std::uint64_t state_;
};

template <class S>
Matrix<S> random_matrix(Index rows, Index cols, std::uint64_t seed) {
  NumberStream numbers(seed);
  Matrix<S> m(rows, cols);
  for (Index i = 0; i < rows; ++i) {
    for (Index c = 0; c < cols; ++c) m(i, c) = static_cast<S>(numbers.normal());
  }
  return m;
}

/// What random inputs are made from; with the scalar it is all one needs to make them again.
struct Sizes {
  Index n_q = 1;
  std::optional<Index> n_k{};  ///< default: n_q
  Index d = 16;
  std::optional<Index> d_v{};  ///< default: d
  std::uint64_t seed = 1;
};

inline std::ostream& operator<<(std::ostream& stream, const Sizes& sizes) {
  return stream << "{.n_q = " << sizes.n_q << ", .n_k = " << sizes.n_k.value_or(sizes.n_q) << ", .d = " << sizes.d
                << ", .d_v = " << sizes.d_v.value_or(sizes.d) << ", .seed = " << sizes.seed << "}";
}

/// The inputs made last, for failure messages.
inline std::string& last_inputs() {
  static std::string text;
  return text;
}

/// q: n_q x d, k: n_k x d, v: n_k x d_v.
template <class S>
struct Inputs {
  using Scalar = S;
  Matrix<S> q;
  Matrix<S> k;
  Matrix<S> v;
  Sizes made_from{};

  template <class T>
  Inputs<T> cast() const {
    return {q.template cast<T>(), k.template cast<T>(), v.template cast<T>(), made_from};
  }
};

template <class S>
std::ostream& operator<<(std::ostream& stream, const Inputs<S>& in) {
  return stream << "random_inputs<" << dtype_name<S>() << ">(" << in.made_from << ")";
}

template <class S>
Inputs<S> random_inputs(const Sizes& sizes) {
  const Index n_k = sizes.n_k.value_or(sizes.n_q), d_v = sizes.d_v.value_or(sizes.d);
  const Inputs<S> in{random_matrix<S>(sizes.n_q, sizes.d, 3 * sizes.seed),
                     random_matrix<S>(n_k, sizes.d, 3 * sizes.seed + 1), random_matrix<S>(n_k, d_v, 3 * sizes.seed + 2),
                     sizes};
  std::ostringstream text;
  text << in;
  last_inputs() = text.str();
  return in;
}

}  // namespace heed::test
