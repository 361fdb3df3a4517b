#pragma once
#include <cstdint>

#include "heed/kernels/scalars.hpp"

namespace heed::test {

using heed::detail::Bfloat;
using heed::detail::Bool;
using heed::detail::Half;
using heed::detail::Size;

/// The members of one vector type (heed/kernels/README.md) as functions over memory, an entry a lane and a bit of a
/// word a lane: code outside its region may call these only.
template <class T>
struct VectorOps {
  using Of1 = void(const T*, T*);
  using Of2 = void(const T*, const T*, T*);
  using Ask = unsigned(const T*);

  Size lanes;
  int vectors, rows;
  Of2 *add, *sub, *mul, *div, *min, *max;
  void (*fma)(const T*, const T*, const T*, T*);
  void (*zero)(T*);
  void (*set)(T, T*);
  void (*load_each)(const T*, const std::int32_t*, T*);
  void (*load_first)(const T*, Size n, T*);  ///< the bodies, by masks where there are any
  void (*store_first)(const T*, Size n, T*);
  Of1* abs;
  T (*sum)(const T*);
  unsigned (*less)(const T*, const T*);
  Ask *is_minus_infinity, *is_zero, *all_finite;
  unsigned (*there_and_back)(unsigned word);
  void (*select)(unsigned word, const T* yes, const T* no, T*);
  void (*transpose_bits)(const std::uint32_t* words, Size n, std::uint16_t*, Size stride);
  bool (*store_places)(std::int32_t*, unsigned word, Size first);  ///< false: the type has no such member
  Of1* fraction;                                                   ///< of a clamped exponent, as pow2
  Of2* pow2;
  Of1* exp2;  ///< the body
  void (*from_float)(const float*, T*);
  void (*from_double)(const double*, T*);
  void (*from_half)(const Half*, T*);
  void (*from_bfloat)(const Bfloat*, T*);
  void (*from_bool)(const Bool*, T*);
  void (*to_half)(const T*, Half*);  ///< null where T is not float
  void (*to_bfloat)(const T*, Bfloat*);
  void (*transpose)(T* rows);
  Of1* row_sums;  ///< the body, by merges where there are any
};

/// The same of whole numbers in 64-bit lanes.
struct WholeOps {
  using Of2 = void(const std::uint64_t*, const std::uint64_t*, std::uint64_t*);
  Size lanes;
  void (*count_from)(std::uint64_t, std::uint64_t*);
  Of2 *mul, *smaller;  ///< smaller: select by less
  void (*high)(const std::uint64_t*, std::uint64_t*);
  void (*low)(const std::uint64_t*, std::uint64_t*);
  void (*exclusive_or)(const std::uint64_t*, const std::uint64_t*, const std::uint64_t*, std::uint64_t*);
  void (*gather)(const std::uint64_t* table, const std::uint64_t* place, std::uint64_t*);
  void (*store_by_lane)(std::int32_t*, const std::uint64_t* x);  ///< x: four vectors
};

struct InstanceOps {
  VectorOps<float> floats;
  VectorOps<double> doubles;
  WholeOps whole;
  std::uint32_t (*nonzero_bytes)(const Bool*);
};

}  // namespace heed::test
