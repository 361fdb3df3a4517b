// Fills vector_ops.hpp; included inside an instance's namespace and region.

template <class X>
struct Ops {
  using T = typename X::Scalar;
  using V = typename X::V;

  static void add(const T* a, const T* b, T* to) { X::store(to, X::add(X::load(a), X::load(b))); }
  static void sub(const T* a, const T* b, T* to) { X::store(to, X::sub(X::load(a), X::load(b))); }
  static void mul(const T* a, const T* b, T* to) { X::store(to, X::mul(X::load(a), X::load(b))); }
  static void div(const T* a, const T* b, T* to) { X::store(to, X::div(X::load(a), X::load(b))); }
  static void min(const T* a, const T* b, T* to) { X::store(to, X::min(X::load(a), X::load(b))); }
  static void max(const T* a, const T* b, T* to) { X::store(to, X::max(X::load(a), X::load(b))); }
  static void fma(const T* a, const T* b, const T* c, T* to) {
    X::store(to, X::fma(X::load(a), X::load(b), X::load(c)));
  }
  static void zero(T* to) { X::store(to, X::zero()); }
  static void set(T x, T* to) { X::store(to, X::set(x)); }
  static void load_each(const T* from, const std::int32_t* at, T* to) { X::store(to, X::load_each(from, at)); }
  static void first_loaded(const T* from, Size n, T* to) { X::store(to, load_first<X, T>(from, n)); }
  static void first_stored(const T* from, Size n, T* to) { store_first<X>(to, X::load(from), n); }
  static void abs(const T* a, T* to) { X::store(to, X::abs(X::load(a))); }
  static T sum(const T* a) { return X::sum(X::load(a)); }

  static unsigned less(const T* a, const T* b) { return X::bits(X::less(X::load(a), X::load(b))); }
  static unsigned is_minus_infinity(const T* a) { return X::bits(X::is_minus_infinity(X::load(a))); }
  static unsigned is_zero(const T* a) { return X::bits(X::is_zero(X::load(a))); }
  static unsigned all_finite(const T* a) { return X::all_finite(X::load(a)) ? 1 : 0; }
  static unsigned there_and_back(unsigned word) { return X::bits(X::mask_of(word)); }
  static void select(unsigned word, const T* yes, const T* no, T* to) {
    X::store(to, X::select(X::mask_of(word), X::load(yes), X::load(no)));
  }
  static bool store_places(std::int32_t* to, unsigned word, Size first) {
    if constexpr (requires { X::store_places(to, X::mask_of(word), first); }) {
      X::store_places(to, X::mask_of(word), first);
      return true;
    }
    return false;
  }

  static void fraction(const T* a, T* to) { X::store(to, X::fraction(X::clamp_exponent(X::load(a)))); }
  static void pow2(const T* p, const T* x, T* to) { X::store(to, X::pow2(X::load(p), X::clamp_exponent(X::load(x)))); }
  static void exp2_of(const T* x, T* to) { X::store(to, exp2(X::load(x))); }
  template <class S>
  static void load_as(const S* from, T* to) {
    X::store(to, X::load_as(from));
  }
  template <class S>
  static void store_as(const T* from, S* to) {
    X::store_as(to, X::load(from));
  }
  template <class S>
  static constexpr auto storing() {
    if constexpr (sizeof(T) == 4) {
      return &store_as<S>;
    } else {
      return nullptr;
    }
  }
  static void transpose(T* rows) {
    V r[X::lanes];
    for (Size i = 0; i < X::lanes; ++i) r[i] = X::load(rows + i * X::lanes);
    X::transpose(r);
    for (Size i = 0; i < X::lanes; ++i) X::store(rows + i * X::lanes, r[i]);
  }
  static void row_sums_of(const T* rows, T* to) {
    V r[X::lanes];
    for (Size i = 0; i < X::lanes; ++i) r[i] = X::load(rows + i * X::lanes);
    X::store(to, row_sums<X>(r));
  }

  static constexpr test::VectorOps<T> all = {
      X::lanes,
      X::vectors,
      X::rows,
      &add,
      &sub,
      &mul,
      &div,
      &min,
      &max,
      &fma,
      &zero,
      &set,
      &load_each,
      &first_loaded,
      &first_stored,
      &abs,
      &sum,
      &less,
      &is_minus_infinity,
      &is_zero,
      &all_finite,
      &there_and_back,
      &select,
      &X::transpose_bits,
      &store_places,
      &fraction,
      &pow2,
      &exp2_of,
      &load_as<float>,
      &load_as<double>,
      &load_as<Half>,
      &load_as<Bfloat>,
      &load_as<Bool>,
      storing<Half>(),
      storing<Bfloat>(),
      &transpose,
      &row_sums_of,
  };
};

template <class U>
struct OpsOfWhole {
  using W = std::uint64_t;
  using V = typename U::V;
  HEED_INLINE static V load(const W* p) {
    V x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  HEED_INLINE static void store(W* p, V x) { __builtin_memcpy(p, &x, sizeof x); }

  static void count_from(W x, W* to) { store(to, U::count_from(x)); }
  static void mul(const W* a, const W* b, W* to) { store(to, U::mul(load(a), load(b))); }
  static void smaller(const W* a, const W* b, W* to) {
    store(to, U::select(U::less(load(a), load(b)), load(a), load(b)));
  }
  static void high(const W* a, W* to) { store(to, U::high(load(a))); }
  static void low(const W* a, W* to) { store(to, U::low(load(a))); }
  static void exclusive_or(const W* a, const W* b, const W* c, W* to) {
    store(to, U::exclusive_or(load(a), load(b), load(c)));
  }
  static void gather(const W* table, const W* place, W* to) { store(to, U::gather(table, load(place))); }
  static void store_by_lane(std::int32_t* to, const W* x) {
    const V four[4] = {load(x), load(x + U::lanes), load(x + 2 * U::lanes), load(x + 3 * U::lanes)};
    U::store_by_lane(to, four);
  }
  static constexpr test::WholeOps all = {U::lanes, &count_from,   &mul,    &smaller,      &high,
                                         &low,     &exclusive_or, &gather, &store_by_lane};
};

inline std::uint32_t nonzero_bytes_of(const Bool* p) { return nonzero_bytes(p); }

inline constexpr test::InstanceOps vector_ops = {Ops<Vf>::all, Ops<Vd>::all, OpsOfWhole<Vu>::all, &nonzero_bytes_of};
