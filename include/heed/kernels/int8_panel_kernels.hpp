#pragma once
#include <cstdint>

#include "heed/kernels/isa.hpp"
#include "heed/kernels/scalars.hpp"

namespace heed::detail {

/// A panel of queries in whole numbers of 8 bits: query i is scale[i] * (byte - 128), four columns of it side by side.
struct Int8Panel {
  unsigned char* bytes;  ///< (c / 4) * 4 panel + 4 i + c % 4; columns padded to a multiple of 4 with 128
  float* scale;          ///< panel; NaN where a number of the query is not finite
};

/// Keys of a tile in whole numbers of 8 bits: key j is of_mean[2 + j] * mean + scale[2 + j] * row 2 + j of bytes. The
/// mean is scale[0] * (256 * row 0 + row 1). A key which the mean would make larger has nothing of it.
struct Int8KeyRows {
  std::int8_t* bytes;
  Size stride;           ///< of a row, columns padded to a multiple of 4 with 0
  std::int32_t* offset;  ///< of each row: -128 times the sum of its bytes
  float* scale;          ///< of each row; NaN where a number of the key is not finite
  float* of_mean;        ///< of each row: 1 or 0
};

/// Values of a tile in whole numbers of 8 bits: column c of keys j .. j + 3, j a multiple of 4, is the four bytes at
/// words + (c / 8) * block_stride + j / 4 * 8 + c % 8, each times the scale of its key. Numbers that are not finite are
/// 0.
struct Int8ValueWords {
  static constexpr Size block_keys = 64;  ///< keys whose weights share a scale
  static constexpr Size columns = 8;      ///< side by side

  std::int32_t* words;
  Size block_stride;
  float* scale;  ///< of each key
};

/// Kernels that multiply panels and tiles in whole numbers of 8 bits, in the shapes of TileKernels<float> of the
/// AVX-512 instance. What each computes stands beside its body in avx512_vnni/.
struct Int8PanelKernels {
  void (*pack_queries)(const float* q, Size d, Size panel, Int8Panel to);
  void (*largest)(const float* k, Size stride, Size n, Size d, float* to);
  void (*pack_keys)(const float* k, Size stride, Size n, Size d, const float* top, const float* share, float* mean,
                    Int8KeyRows to);
  bool (*pack_values)(const float* v, Size stride, Size n, Size d_v, Int8ValueWords to);

  void (*scores)(Int8KeyRows keys, Size from, Size n_keys, Int8Panel q, Size d, Size panel, Size first, Size count,
                 float* s, float* top);
  void (*weigh)(Size n_keys, Size panel, Size first, Size count, float c, const float* base, const float* value_scale,
                float* s, float* words, float* l, float* gain);
  void (*values)(const std::int32_t* v, Size block_stride, Size n_quads, const float* w, Size d_v, Size panel,
                 Size first, Size count, const float* gain, const float* correction, float* out);
};

}  // namespace heed::detail
