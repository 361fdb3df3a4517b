#pragma once
#include "heed/kernels/isa.hpp"
#include "heed/kernels/scalars.hpp"

namespace heed::detail {

/// Two bfloat16 numbers in one 32-bit lane, as the dot instruction takes them: a float gains first * first + second * second.
/// Neighbouring features of a query or a key, or the same column of neighbouring keys, make a twin. An odd end is padded with 0.
struct Twin {
  Bfloat first, second;
};

/// Kernels that multiply bfloat16 as it is stored and sum in float, in the shapes of TileKernels<float> of the AVX-512
/// instance. What each computes stands beside its body (twin_tile_body.inl, twin_pack_body.inl).
struct TwinKernels {
  void (*transpose)(const Bfloat* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
                    Size n_columns, Twin* to, Size to_stride);
  void (*gather)(const Bfloat* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
                 Size n_columns, Twin* to, Size to_stride);
  void (*pack_values)(const Bfloat* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
                      Size n_columns, Twin* to, Size block_stride);
  bool (*all_finite)(const Twin* from, Size n);
  void (*clean)(const Twin* from, Size n, Twin* to);

  void (*scores)(const Bfloat* k, Size k_stride, Size n_keys, const Twin* q, Size n_twins, Size panel, Size first,
                 Size count, float* s, float* top);
  void (*weigh)(Size n_keys, Size panel, Size first, Size count, float c, const float* base, float* s, float* l);
  void (*values)(const Twin* v, Size block_stride, Size n_twins, const float* w, Size d_v, Size panel, Size first,
                 Size count, const float* correction, float* out);
};

}  // namespace heed::detail
