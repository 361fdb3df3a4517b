// Activation functions of runs of numbers; included inside each instance's target region.

// gelu(u) = u (1 + t) / 2, t = tanh(c (u + a u^3)), c = sqrt(2 / pi), a = .044715 (Hendrycks and Gimpel 2016).
template <class X>
struct Gelu {
  using V = typename X::V;
  static constexpr double a = 0.044715, c = 0.79788456080286535588, two_log2_e = 2.8853900817779268147;

  HEED_INLINE static V tanh(V u) {
    const V inner = X::fma(X::mul(X::set(static_cast<typename X::Scalar>(a)), u), X::mul(u, u), u);
    return tanh_of<X>(X::mul(inner, X::set(static_cast<typename X::Scalar>(c * two_log2_e))));
  }
  HEED_INLINE static V value(V u) {
    return X::mul(X::mul(u, X::set(typename X::Scalar(0.5))), X::add(tanh(u), X::set(1)));
  }
  // (1 + t) / 2 + u (1 - t^2) c (1 + 3 a u^2) / 2
  HEED_INLINE static V slope(V u) {
    const V t = tanh(u), half = X::set(typename X::Scalar(0.5));
    const V bend = X::mul(X::mul(u, X::sub(X::set(1), X::mul(t, t))), X::set(static_cast<typename X::Scalar>(c / 2)));
    const V inner = X::fma(X::mul(X::set(static_cast<typename X::Scalar>(3 * a)), u), u, X::set(1));
    return X::fma(bend, inner, X::mul(half, X::add(t, X::set(1))));
  }
};

// h[e] = gelu(u[e]), e < n.
template <class X>
void gelu(Size n, const typename X::Scalar* u, typename X::Scalar* h) {
  Size e = 0;
  for (; e + X::lanes <= n; e += X::lanes) X::store(h + e, Gelu<X>::value(X::load(u + e)));
  if (e == n) return;
  typename X::Scalar rest[X::lanes] = {};
  for (Size i = 0; e + i < n; ++i) rest[i] = u[e + i];
  X::store(rest, Gelu<X>::value(X::load(rest)));
  for (Size i = 0; e + i < n; ++i) h[e + i] = rest[i];
}

// d_u[e] = d_h[e] gelu'(u[e]), e < n.
template <class X>
void gelu_backward(Size n, const typename X::Scalar* u, const typename X::Scalar* d_h, typename X::Scalar* d_u) {
  Size e = 0;
  for (; e + X::lanes <= n; e += X::lanes) X::store(d_u + e, X::mul(X::load(d_h + e), Gelu<X>::slope(X::load(u + e))));
  if (e == n) return;
  typename X::Scalar rest[X::lanes] = {};
  for (Size i = 0; e + i < n; ++i) rest[i] = u[e + i];
  X::store(rest, Gelu<X>::slope(X::load(rest)));
  for (Size i = 0; e + i < n; ++i) d_u[e + i] = d_h[e + i] * rest[i];
}
