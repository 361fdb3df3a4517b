#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/int8_panel_tile.hpp"
#include "heed/engine/detail/tile_part.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// How a panel multiplies in whole numbers of 8 bits, where they have an instruction of their own: queries with a scale
/// each, keys less their mean with a scale each, values with a scale for each key, and weights times that scale in 255
/// steps relative to the largest of a query among 64 keys; what is summed over blocks is float. A key that a query does
/// not see so costs it no digit, whatever its values. Same members as WidenedOperands.
template <class Call>
class Int8PanelOperands {
 public:
  using Sum = float;
  using Tile = Int8PanelTile<typename Call::Key>;
  static constexpr Index granule = 4;
  static constexpr bool rounds_tiles = true;
  static constexpr Index most_columns = 32768;  ///< of which products of bytes sum up in 32 bits
  static constexpr bool serves = Call::products == Products::of_int8 && std::is_same_v<typename Call::Sum, float> &&
                                 !std::is_same_v<typename Call::Key, Int8>;

  Int8PanelOperands(Scratch& scratch, Index width, Index d, Isa isa)
      : kernels_(*int8_panel_kernels(isa)),
        queries_(storage_kernels<float, KernelScalar<typename Call::Query>>(isa)),
        d_(d) {
    rows_ = scratch.take<float>(width * d);
    q_.bytes = scratch.take<unsigned char>(width * ((d + 3) / 4 * 4));
    q_.scale = scratch.take<float>(width);
    gain_ = scratch.take<float>(width * most_blocks);
    ones_ = scratch.take<float>(width);
  }

  void pack(const ConstView<typename Call::Query>& q, const TokenSet& queries, Index width, float factor) {
    const auto* from = kernel_pointer(q.data) + (queries.list == nullptr ? queries.first * q.row_stride : 0);
    queries_.transpose(from, q.row_stride, q.col_stride, queries.list, queries.size, nullptr, q.cols, rows_, width,
                       factor, true);
    kernels_.pack_queries(rows_, d_, width, q_);
    std::fill_n(ones_, width, 1.0f);
  }

  void scores(const Tile& tile, const TilePart& strip, Index width, float* s, float* top, const Ahead*) const {
    kernels_.scores(tile.k(), strip.at, strip.n_keys, q_, d_, width, strip.first, strip.count, s, top);
  }

  void weigh(const Tile& tile, const TilePart& strip, Index width, float factor, const float* base, float* s,
             float* l) const {
    for_each_block(strip, [&](Index from, Index n, Index block) {
      const Index at = from - strip.at;
      kernels_.weigh(n, width, strip.first, strip.count, factor, base, tile.v().scale + from, s + at * width,
                     s + at / granule * width, l, gain_ + block * width);
    });
  }
  /// In units of its block; never nothing, so that a value of Inf is not lost where it weighs little.
  static float weight(const float* w, Index width, Index j, Index i) {
    const auto word = std::bit_cast<std::uint32_t>(w[j / granule * width + i]);
    return static_cast<float>(word >> (8 * (j % granule)) & 255u) + 1;
  }

  void values(const Tile& tile, const TilePart& strip, Index width, const float* w, const float* correction,
              float* out) const {
    for_each_block(strip, [&](Index from, Index n, Index block) {
      kernels_.values(tile.words(from), tile.v().block_stride, (n + granule - 1) / granule,
                      w + (from - strip.at) / granule * width, tile.d_v(), width, strip.first, strip.count,
                      gain_ + block * width, block == 0 ? correction : ones_, out);
    });
  }
  void finite_values(const Tile& tile, const TilePart& strip, Index width, const float* w, const float* correction,
                     float* out) const {
    values(tile, strip, width, w, correction, out);
  }

 private:
  static constexpr Index most_blocks = 3;  // that a part of a tile lies in

  // visit(first key, keys, number) of what the strip has of each block of keys.
  template <class Visit>
  static void for_each_block(const TilePart& strip, const Visit& visit) {
    const Index end = strip.at + strip.n_keys;
    Index number = 0;
    for (Index from = strip.at; from < end; ++number) {
      const Index to = std::min(end, (from / Int8ValueWords::block_keys + 1) * Int8ValueWords::block_keys);
      visit(from, to - from, number);
      from = to;
    }
  }

  const Int8PanelKernels& kernels_;
  const StorageKernels<float, KernelScalar<typename Call::Query>>& queries_;
  Index d_;
  float *rows_, *gain_, *ones_;
  Int8Panel q_;
};

}  // namespace heed::detail
