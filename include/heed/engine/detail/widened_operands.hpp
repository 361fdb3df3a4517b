#pragma once
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/key_tile.hpp"
#include "heed/engine/detail/tile_part.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// How a panel multiplies: operands converted to the scalar sums are kept in, which serves every storage scalar.
/// Holds the packed queries of one panel; a panel's row is `width` queries long.
template <class Call>
class WidenedOperands {
 public:
  using Sum = typename Call::Sum;
  using Tile = KeyTile<Sum, typename Call::Key>;
  static constexpr Index granule = 1;  ///< keys that share a row of weights; strips begin at multiples of it
  /// Keys and values of a tile are rounded together: always the same ones, and a panel adds NaN and Inf apart.
  static constexpr bool rounds_tiles = false;

  WidenedOperands(Scratch& scratch, Index width, Index d, Isa isa)
      : tiles_(tile_kernels<Sum>(isa)), queries_(storage_kernels<Sum, KernelScalar<typename Call::Query>>(isa)), d_(d) {
    q_ = scratch.take<Sum>(width * d);
  }

  void pack(const ConstView<typename Call::Query>& q, const TokenSet& queries, Index width, Sum factor) {
    const auto* from = kernel_pointer(q.data) + (queries.list == nullptr ? queries.first * q.row_stride : 0);
    queries_.transpose(from, q.row_stride, q.col_stride, queries.list, queries.size, nullptr, q.cols, q_, width, factor,
                       true);
  }

  void scores(const Tile& tile, const TilePart& strip, Index width, Sum* s, Sum* top, const Ahead* ahead) const {
    tiles_.scores(tile.k(strip.at), tile.k_stride(), strip.n_keys, q_, d_, width, strip.first, strip.count, s, top,
                  ahead);
  }

  /// Scores to weights, in place, and their sum to l.
  void weigh(const Tile&, const TilePart& strip, Index width, Sum factor, const Sum* base, Sum* s, Sum* l) const {
    tiles_.weigh(strip.n_keys, width, strip.first, strip.count, factor, base, s, l);
  }
  static Sum weight(const Sum* w, Index width, Index j, Index i) { return w[j * width + i]; }

  void values(const Tile& tile, const TilePart& strip, Index width, const Sum* w, const Sum* correction,
              Sum* out) const {
    tiles_.values(tile.v(strip.at), tile.v_stride(), tile.v_block(), strip.n_keys, w, tile.d_v(), width, strip.first,
                  strip.count, correction, out);
  }
  /// The same with 0 for NaN and Inf.
  void finite_values(Tile& tile, const TilePart& strip, Index width, const Sum* w, const Sum* correction,
                     Sum* out) const {
    tiles_.values(tile.finite_copy(strip.at, strip.n_keys), tile.d_v(), tiles_.rows, strip.n_keys, w, tile.d_v(), width,
                  strip.first, strip.count, correction, out);
  }

 private:
  const TileKernels<Sum>& tiles_;
  const StorageKernels<Sum, KernelScalar<typename Call::Query>>& queries_;
  Index d_;
  Sum* q_;
};

}  // namespace heed::detail
