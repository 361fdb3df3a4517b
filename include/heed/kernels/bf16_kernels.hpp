#pragma once
#include "heed/kernels/isa.hpp"
#include "heed/kernels/scalars.hpp"

namespace heed::detail {

/// Two bfloat16 numbers in one 32-bit lane, as the dot instruction takes them: a float gains first * first + second *
/// second. Neighbouring features of a query or a key, or the same column of neighbouring keys, make a pair. An odd end
/// is padded with 0.
struct Bf16Pair {
  Bfloat first, second;
};

/// Kernels that multiply bfloat16 as it is stored and sum in float, in the shapes of TileKernels<float> of the AVX-512
/// instance. What each computes stands beside its body in avx512_bf16/.
struct Bf16Kernels {
  void (*transpose)(const Bfloat* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
                    Size n_columns, Bf16Pair* to, Size to_stride);
  void (*gather)(const Bfloat* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
                 Size n_columns, Bf16Pair* to, Size to_stride);
  void (*pack_values)(const Bfloat* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
                      Size n_columns, Bf16Pair* to, Size block_stride);
  bool (*all_finite)(const Bf16Pair* from, Size n);
  void (*clean)(const Bf16Pair* from, Size n, Bf16Pair* to);

  void (*scores)(const Bfloat* k, Size k_stride, Size n_keys, const Bf16Pair* q, Size n_pairs, Size panel, Size first,
                 Size count, float* s, float* top);
  void (*weigh)(Size n_keys, Size panel, Size first, Size count, float c, const float* base, float* s, float* l);
  void (*values)(const Bf16Pair* v, Size block_stride, Size n_pairs, const float* w, Size d_v, Size panel, Size first,
                 Size count, const float* correction, float* out);

  void (*interleave)(const Bfloat* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
                     Size n_columns, Bf16Pair* to, Size to_stride);
  void (*pair_keys)(Size n_keys, Size panel, Size first, Size count, const float* s, float* to);
  void (*pair_queries)(Size n_keys, Size panel, Size first, Size count, const float* s, Bf16Pair* to, Size to_stride);
  void (*add_products)(const Bf16Pair* a, Size a_stride, Size n_rows, const Bf16Pair* b, Size b_stride, Size n_pairs,
                       Size columns, float* to, Size to_stride);
};

}  // namespace heed::detail
