#pragma once
#include <bit>
#include <cstdint>
#include <type_traits>

#include <Eigen/Core>

#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/bf16_tile.hpp"
#include "heed/engine/detail/tile_part.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// How a panel multiplies where bfloat16 has an instruction of its own: operands as they are stored, two to a lane,
/// sums in float. Scores are those of WidenedOperands but for rounding; weights are rounded to bfloat16 before they
/// meet the values, a relative error of at most 2^-9 each. Same members as WidenedOperands.
template <class Call>
class Bf16Operands {
 public:
  using Sum = float;
  using Tile = Bf16Tile;
  static constexpr Index granule = 2;
  static constexpr bool rounds_tiles = false;
  static constexpr bool serves =
      std::is_same_v<typename Call::Query, Eigen::bfloat16> && std::is_same_v<typename Call::Key, Eigen::bfloat16>;

  Bf16Operands(Scratch& scratch, Index width, Index d, Isa isa) : kernels_(*bf16_kernels(isa)), n_pairs_((d + 1) / 2) {
    q_ = scratch.take<Bf16Pair>(width * n_pairs_);
  }

  void pack(const ConstView<Eigen::bfloat16>& q, const TokenSet& queries, Index width, float factor) {
    const Bfloat* from = kernel_pointer(q.data) + (queries.list == nullptr ? queries.first * q.row_stride : 0);
    kernels_.transpose(from, q.row_stride, q.col_stride, queries.list, queries.size, q.cols, q_, width);
    if (factor == 1) return;
    for (Index t = 0; t < n_pairs_ * width; ++t) q_[t] = {times(factor, q_[t].first), times(factor, q_[t].second)};
  }

  void scores(const Tile& tile, const TilePart& strip, Index width, float* s, float* top, const Ahead*) const {
    kernels_.scores(tile.k(strip.at), tile.k_stride(), strip.n_keys, q_, n_pairs_, width, strip.first, strip.count, s,
                    top);
  }

  void weigh(const Tile&, const TilePart& strip, Index width, float factor, const float* base, float* s,
             float* l) const {
    kernels_.weigh(strip.n_keys, width, strip.first, strip.count, factor, base, s, l);
  }
  static float weight(const float* w, Index width, Index j, Index i) {
    const auto bits = std::bit_cast<std::uint32_t>(w[j / granule * width + i]);
    return std::bit_cast<float>(j % granule == 0 ? bits << 16 : bits & 0xffff0000u);
  }

  void values(const Tile& tile, const TilePart& strip, Index width, const float* w, const float* correction,
              float* out) const {
    kernels_.values(tile.v(strip.at), tile.v_block(), (strip.n_keys + 1) / 2, w, tile.d_v(), width, strip.first,
                    strip.count, correction, out);
  }
  void finite_values(Tile& tile, const TilePart& strip, Index width, const float* w, const float* correction,
                     float* out) const {
    kernels_.values(tile.finite_copy(strip.at, strip.n_keys), tile.v_block(), (strip.n_keys + 1) / 2, w, tile.d_v(),
                    width, strip.first, strip.count, correction, out);
  }

 private:
  // factor is -1 or 0: a sign, or zeros where NaN and Inf become NaN as in a product.
  static Bfloat times(float factor, Bfloat x) {
    if (factor < 0) return {static_cast<std::uint16_t>(x.bits ^ 0x8000u)};
    return {static_cast<std::uint16_t>((x.bits & 0x7f80u) == 0x7f80u ? 0x7fc0u : 0u)};
  }

  const Bf16Kernels& kernels_;
  Index n_pairs_;
  Bf16Pair* q_;
};

}  // namespace heed::detail
