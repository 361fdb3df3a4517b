// Kernels that turn raw scores into what the softmax sees; included inside each instance's target region.

// 2^x - 1 without cancellation near 0: 2^n (1 + f q) - 1 = 2^n f q + (2^n - 1), n = floor(x).
HEED_INLINE inline Vf::V exp2_minus_1(Vf::V x) {
  const Vf::V f = Vf::fraction(x);
  Vf::V q = Vf::set(2.1612915123254972e-4f);
  q = Vf::fma(q, f, Vf::set(1.2467846390922938e-3f));
  q = Vf::fma(q, f, Vf::set(9.675451573767091e-3f));
  q = Vf::fma(q, f, Vf::set(5.548528061468047e-2f));
  q = Vf::fma(q, f, Vf::set(2.4022930555327557e-1f));
  q = Vf::fma(q, f, Vf::set(6.931470444432304e-1f));
  const Vf::V power = Vf::pow2(Vf::set(1.0f), x);
  return Vf::fma(power, Vf::mul(f, q), Vf::sub(power, Vf::set(1.0f)));
}
HEED_INLINE inline Vd::V exp2_minus_1(Vd::V x) {
  const Vd::V f = Vd::fraction(x);
  const Vd::V power = Vd::pow2(Vd::set(1.0), x);
  return Vd::fma(power, Vd::mul(f, exp2_slope(f)), Vd::sub(power, Vd::set(1.0)));
}

// tanh(x) with x given as y = 2 log2(e) x: t / (t + 2), t = 2^|y| - 1, with the sign of y.
template <class X>
HEED_INLINE inline typename X::V tanh_of(typename X::V y) {
  // tanh is 1 to the last bit from |y| = 60 on. min returns its second operand for NaN.
  const typename X::V t = exp2_minus_1(X::min(X::set(60), X::abs(y)));
  const typename X::V size = X::div(t, X::add(t, X::set(2)));
  return X::select(X::less(y, X::zero()), X::sub(X::zero(), size), size);
}

// One vector of queries of adjust. `bends`: softcap or slope; the rest is cheap enough to notice what is asked for each
// key.
template <class X, bool bends>
unsigned adjust_vector(Size n_keys, Size panel, typename X::Scalar scale, typename X::Scalar cap,
                       const typename X::Scalar* added, const std::uint16_t* allowed, typename X::Scalar slope,
                       const typename X::Scalar* query_position, const typename X::Scalar* key_position,
                       typename X::Scalar* s, typename X::Scalar* top) {
  using V = typename X::V;
  constexpr double two_log2_e = 2.8853900817779268147;
  const double bent = cap == 0 ? 0 : two_log2_e * static_cast<double>(scale) / static_cast<double>(cap);
  const V factor = X::set(cap == 0 ? scale : static_cast<typename X::Scalar>(bent));
  const V height = X::set(cap), tilt = X::set(-slope),
          masked = X::set(-static_cast<typename X::Scalar>(__builtin_inff()));
  const V position = X::load(query_position);
  const Size vectors = panel / X::lanes;
  V best = X::load(top);
  unsigned some_masked = 0;
  for (Size j = 0; j < n_keys; ++j, s += panel) {
    V x = X::mul(X::load(s), factor);
    if constexpr (bends) {
      if (cap != 0) x = X::mul(tanh_of<X>(x), height);
      if (slope != 0) x = X::fma(X::abs(X::sub(X::set(key_position[j]), position)), tilt, x);
    }
    if (added != nullptr) {
      const V term = X::load(added + j * panel);
      const auto no_pair = X::is_minus_infinity(term);
      some_masked |= X::bits(no_pair);
      x = X::select(no_pair, masked, X::add(x, term));
    }
    if (allowed != nullptr) x = X::select(X::mask_of(allowed[j * vectors]), x, masked);
    X::store(s, x);
    best = X::max(x, best);
  }
  X::store(top, best);
  return some_masked;
}

// Adds the pair terms of a strip to raw scores s[j][i] = q.k:
//   s -> (cap ? cap * tanh(scale * s / cap) : scale * s) + added[j][i] - slope * |key_position[j] - query_position[i]|
// and -inf wherever added is -inf or `allowed` (pairs.inl) has no bit; top[i] = max(top[i], s[.][i]). `added` and
// `allowed` may be null; cap = 0 and slope = 0 mean off. Returns whether some `added` is -inf.
template <class X>
bool adjust(Size n_keys, Size panel, Size first, Size count, typename X::Scalar scale, typename X::Scalar cap,
            const typename X::Scalar* added, const std::uint16_t* allowed, typename X::Scalar slope,
            const typename X::Scalar* query_position, const typename X::Scalar* key_position, typename X::Scalar* s,
            typename X::Scalar* top) {
  unsigned some_masked = 0;
  for (Size u = first; u < first + count; ++u) {
    const Size shift = u * X::lanes;
    const auto run = cap != 0 || slope != 0 ? &adjust_vector<X, true> : &adjust_vector<X, false>;
    some_masked |= run(n_keys, panel, scale, cap, added == nullptr ? nullptr : added + shift,
                       allowed == nullptr ? nullptr : allowed + u, slope, query_position + shift, key_position,
                       s + shift, top + shift);
  }
  return some_masked != 0;
}

// s[j][i] = -inf where low[i] <= label[j] < high[i]; top[i] = max(top[i], s[.][i]).
template <class X>
void exclude(Size n_keys, Size panel, Size first, Size count, const typename X::Scalar* low,
             const typename X::Scalar* high, const typename X::Scalar* label, typename X::Scalar* s,
             typename X::Scalar* top) {
  using V = typename X::V;
  const V masked = X::set(-static_cast<typename X::Scalar>(__builtin_inff()));
  for (Size u = first; u < first + count; ++u) {
    const Size shift = u * X::lanes;
    const V from = X::load(low + shift), to = X::load(high + shift);
    V best = X::load(top + shift);
    for (Size j = 0; j < n_keys; ++j) {
      const V of_key = X::set(label[j]);
      const V x = X::load(s + j * panel + shift);
      const V kept = X::select(X::less(of_key, from), x, X::select(X::less(of_key, to), masked, x));
      X::store(s + j * panel + shift, kept);
      best = X::max(kept, best);
    }
    X::store(top + shift, best);
  }
}

// s[j][i] = -inf unless low[i] <= j < high[i]; top[i] = max(top[i], s[.][i]).
template <class X>
void bound(Size n_keys, Size panel, Size first, Size count, const typename X::Scalar* low,
           const typename X::Scalar* high, typename X::Scalar* s, typename X::Scalar* top) {
  using V = typename X::V;
  const V masked = X::set(-static_cast<typename X::Scalar>(__builtin_inff()));
  for (Size u = first; u < first + count; ++u) {
    const Size shift = u * X::lanes;
    const V from = X::load(low + shift), to = X::load(high + shift);
    V best = X::load(top + shift);
    for (Size j = 0; j < n_keys; ++j) {
      const V position = X::set(static_cast<typename X::Scalar>(j));
      const V x = X::load(s + j * panel + shift);
      const V kept = X::select(X::less(position, from), masked, X::select(X::less(position, to), x, masked));
      X::store(s + j * panel + shift, kept);
      best = X::max(kept, best);
    }
    X::store(top + shift, best);
  }
}
