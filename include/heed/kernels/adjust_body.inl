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

// Adds the pair terms of a strip to raw scores s[j][i] = q.k:
//   s -> (cap ? cap * tanh(scale * s / cap) : scale * s) + added[j][i] - slope * |key_position[j] - query_position[i]|
// and -inf wherever added is -inf; top[i] = max(top[i], s[.][i]). `added` may be null; cap = 0 and slope = 0 mean off.
template <class X>
void adjust(Size n_keys, Size panel, Size first, Size count, typename X::Scalar scale, typename X::Scalar cap,
            const typename X::Scalar* added, typename X::Scalar slope, const typename X::Scalar* query_position,
            const typename X::Scalar* key_position, typename X::Scalar* s, typename X::Scalar* top) {
  using V = typename X::V;
  constexpr double two_log2_e = 2.8853900817779268147;
  const V factor = X::set(cap == 0 ? scale : static_cast<typename X::Scalar>(two_log2_e * scale / cap));
  const V height = X::set(cap);
  const V tilt = X::set(-slope);
  const V masked = X::set(-__builtin_inff());
  for (Size u = first; u < first + count; ++u) {
    const V position = X::load(query_position + u * X::lanes);
    V best = X::load(top + u * X::lanes);
    typename X::Scalar* at = s + u * X::lanes;
    const typename X::Scalar* term_at = added == nullptr ? nullptr : added + u * X::lanes;
    for (Size j = 0; j < n_keys; ++j, at += panel) {
      V x = X::mul(X::load(at), factor);
      if (cap != 0) x = X::mul(tanh_of<X>(x), height);
      if (slope != 0) x = X::fma(X::abs(X::sub(X::set(key_position[j]), position)), tilt, x);
      if (added != nullptr) {
        const V term = X::load(term_at + j * panel);
        x = X::select(X::is_minus_infinity(term), masked, X::add(x, term));
      }
      X::store(at, x);
      best = X::max(x, best);
    }
    X::store(top + u * X::lanes, best);
  }
}

// What a tile of additive terms masks: bit 0 set when some entry is -inf, bit 1 when some is not.
struct Census {
  unsigned masked = 0, kept = 0;
  HEED_INLINE void add(unsigned bits, unsigned all) {
    masked |= bits & all;
    kept |= ~bits & all;
  }
  HEED_INLINE int code() const { return (masked != 0 ? 1 : 0) | (kept != 0 ? 2 : 0); }
};

// Lanes of the vector at column i that are queries.
template <class X>
HEED_INLINE inline unsigned query_lanes(Size i, Size n_queries) {
  if (i >= n_queries) return 0;
  return n_queries - i >= X::lanes ? (1u << X::lanes) - 1u : (1u << (n_queries - i)) - 1u;
}

// added[j][i] = -inf where allowed[j][i] = 0, else bias[j][i] (0 where bias is null). Returns the census of its queries.
template <class X>
int forbid(Size n_keys, Size panel, Size n_queries, const typename X::Scalar* allowed, const typename X::Scalar* bias,
           typename X::Scalar* added) {
  const typename X::V masked = X::set(-__builtin_inff());
  Census census;
  for (Size i = 0; i < panel; i += X::lanes) {
    const unsigned all = query_lanes<X>(i, n_queries);
    for (Size at = i; at < n_keys * panel; at += panel) {
      const typename X::V term = bias == nullptr ? X::zero() : X::load(bias + at);
      const typename X::V sum = X::select(X::is_zero(X::load(allowed + at)), masked, term);
      X::store(added + at, sum);
      census.add(X::bits(X::is_minus_infinity(sum)), all);
    }
  }
  return census.code();
}

// The census of additive terms.
template <class X>
int census(Size n_keys, Size panel, Size n_queries, const typename X::Scalar* added) {
  Census census;
  for (Size i = 0; i < panel; i += X::lanes) {
    const unsigned all = query_lanes<X>(i, n_queries);
    for (Size at = i; at < n_keys * panel; at += panel)
      census.add(X::bits(X::is_minus_infinity(X::load(added + at))), all);
  }
  return census.code();
}

// s[j][i] = -inf where low[i] <= label[j] < high[i]; top[i] = max(top[i], s[.][i]).
template <class X>
void exclude(Size n_keys, Size panel, Size first, Size count, const typename X::Scalar* low,
             const typename X::Scalar* high, const typename X::Scalar* label, typename X::Scalar* s,
             typename X::Scalar* top) {
  using V = typename X::V;
  const V masked = X::set(-__builtin_inff());
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
  const V masked = X::set(-__builtin_inff());
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
