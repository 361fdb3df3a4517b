#pragma once
#include "heed/kernels/isa.hpp"
#include "heed/kernels/scalars.hpp"

namespace heed::detail {

/// Rows that later work reads or writes: row r at data + list[r] * stride, or + r * stride without a list. Distances in
/// bytes.
struct RowsAhead {
  const char* data;
  Size stride;
  Size width;
  const Size* list;
  Size n;
  bool written;
};

/// What a kernel asks the caches for while it computes, spread over its run: scattered rows come in at the pace of
/// memory only where nobody waits for them.
struct Ahead {
  static constexpr int capacity = 6;
  RowsAhead rows[capacity];
  int n = 0;
};

/// The kernels of one instruction set for scalar T, as function pointers over raw pointers and strides: nothing of
/// Eigen or the standard library crosses, so code compiled with other flags may call them. What each computes stands
/// beside its body in bodies/.
template <class T>
struct TileKernels {
  Size lanes;    ///< entries of a vector
  Size vectors;  ///< vectors of a panel of queries; panel = lanes * vectors queries
  Size rows;     ///< rows of a register tile: columns of a packed block of values

  void (*scores)(const T* k, Size k_stride, Size n_keys, const T* q, Size d, Size panel, Size first, Size count, T* s,
                 T* top, const Ahead* ahead);
  void (*advance)(Size panel, T c, const T* top, T* m, T* l, T* base, T* correction);
  void (*weigh)(Size n_keys, Size panel, Size first, Size count, T c, const T* base, T* s, T* l);
  void (*values)(const T* v, Size v_stride, Size block_stride, Size n_keys, const T* w, Size d_v, Size panel,
                 Size first, Size count, const T* correction, T* out);
  bool (*adjust)(Size n_keys, Size panel, Size first, Size count, T scale, T cap, const T* added,
                 const std::uint16_t* allowed, T slope, const T* query_position, const T* key_position, T* s, T* top);
  int (*lane_masks)(const Bool* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
                    const Size* column_list, Size n_columns, std::uint16_t* to);
  bool (*all_masked)(Size n_keys, Size panel, Size n_queries, const T* added);
  void (*bound)(Size n_keys, Size panel, Size first, Size count, const T* low, const T* high, T* s, T* top);
  void (*exclude)(Size n_keys, Size panel, Size first, Size count, const T* low, const T* high, const T* label, T* s,
                  T* top);
  bool (*all_finite)(const T* tile, Size stride, Size n_rows, Size n_columns);
  T (*row_top)(Size n, T* s, T floor);
  T (*row_weigh)(Size n, T c, T base, T* s);
};

/// The kernel that brings contiguous rows of storage scalar S to scalar T. A table of its own: a bias may come in any
/// storage scalar and needs nothing else of it, and what is not asked for is not compiled.
template <class T, class S>
struct WidenKernels {
  void (*widen)(const S* from, Size row_stride, const Size* row_list, Size n_rows, Size n_columns, T* to,
                Size to_stride);
};

/// The kernels that bring storage scalar S (float, double, Half, Bfloat) to scalar T and back.
template <class T, class S>
struct StorageKernels {
  void (*transpose)(const S* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
                    const Size* column_list, Size n_columns, T* to, Size to_stride, T factor, bool pad);
  void (*gather)(const S* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows, Size n_columns,
                 T* to, Size to_stride);
  void (*pack_values)(const S* from, Size row_stride, const Size* row_list, Size n_rows, Size n_columns, T* row, T* to,
                      Size block_stride);
  void (*row_scores)(const S* k, Size k_stride, Size n_keys, const T* q, Size q_stride, Size n_q, Size d, T* s,
                     Size s_stride);
  void (*row_values)(const S* v, Size v_stride, Size n_keys, const T* w, Size w_stride, Size n_q, Size d_v,
                     const T* correction, T* out, Size out_stride);
  void (*add_rows)(const S* from, Size row_stride, const Size* list, Size n_rows, Size n_columns, const T* w, T* to);
  void (*write_rows)(const T* out, Size panel, const T* l, Size n_rows, Size n_columns, S* to, Size row_stride,
                     Size column_stride, const Size* list);
};

/// The kernels that take tokens in storage scalar S down a tree of hyperplanes.
template <class T, class S>
struct RouteKernels {
  void (*route)(const S* from, Size row_stride, Size n_rows, Size d, const T* planes, Size plane_stride,
                const T* biases, const T* lift, const T* extra, Size height, Size* leaf);
  void (*project)(const S* from, Size row_stride, Size n_rows, Size d, const T* planes, Size plane_stride,
                  const T* lift, const T* extra, const Size* node, T* to);
};

}  // namespace heed::detail
