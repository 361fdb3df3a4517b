#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>

#include <Eigen/Core>

#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/bf16_tile.hpp"
#include "heed/engine/detail/gradient_sums.hpp"
#include "heed/engine/detail/tile_part.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// The products of a gradient panel where bfloat16 has an instruction of its own: operands as they are stored, weights
/// and gradients of scores rounded to bfloat16 before they meet them, a relative error of at most 2^-9 each; sums in
/// float. Same members as WidenedGradient.
template <class Call>
class Bf16Gradient {
 public:
  using Sum = float;

  class Tile {
   public:
    Tile(Scratch& scratch, Index n_keys, Index d, Index d_v, Isa isa)
        : k(scratch, n_keys, d, d, isa),
          v(scratch, n_keys, d_v, 0, isa),
          sums(scratch, n_keys, d, d_v, isa),
          kernels_(*bf16_kernels(isa)) {}

    void load(const Call& call, const TokenSet& keys, Index visits) {
      const ConstView<Eigen::bfloat16> none{call.v.data, call.v.rows, 0, call.v.row_stride, call.v.col_stride};
      k.load(call.k, call.k, keys, visits);
      v.load(call.v, none, keys, visits);
      finite = k.finite(0, keys.size);
      // Rows end at whole pairs.
      for (Index j = 0; finite && j < keys.size; ++j)
        finite = kernels_.all_finite(reinterpret_cast<const Bf16Pair*>(v.k(j)), (call.v.cols + 1) / 2);
      sums.begin(keys);
    }
    const Bf16Tile& scored() const { return k; }
    float key(Index j, Index c) const { return widened(k.k(j)[c]); }
    float value(Index j, Index c) const { return widened(v.k(j)[c]); }

    Bf16Tile k, v;  // keys also as values are multiplied, values as keys are
    GradientSums<float> sums;
    bool finite = true;

   private:
    const Bf16Kernels& kernels_;
  };

  struct Room {
    Room(Scratch& scratch, Index keys, Index width)
        : ones(scratch.take<float>(width)),
          key_pairs(scratch.take<float>((keys + 1) / 2 * width)),
          query_pairs(scratch.take<Bf16Pair>(keys * width / 2)) {}
    float* ones;            // width
    float* key_pairs;       // pairs of keys x width
    Bf16Pair* query_pairs;  // keys x pairs of queries
  };

  Bf16Gradient(Scratch& scratch, const Room& room, Index width, Index d, Index d_v, Isa isa)
      : lanes_(tile_kernels<float>(isa).lanes), kernels_(*bf16_kernels(isa)), room_(room), d_(d), d_v_(d_v) {
    q_width_ = (d + lanes_ - 1) / lanes_ * lanes_;
    v_width_ = (d_v + lanes_ - 1) / lanes_ * lanes_;
    q_rows_ = scratch.take<Bf16Pair>(width / 2 * q_width_);
    out_rows_ = scratch.take<Bf16Pair>(width / 2 * v_width_);
    d_out_ = scratch.take<Bf16Pair>(width * ((d_v + 1) / 2));
  }

  void begin(const Call& call, const TokenSet& queries, Index width) {
    const Index n = queries.size, first = queries.list == nullptr ? queries.first : 0;
    std::fill(room_.ones, room_.ones + width, 1.0f);
    std::fill_n(q_rows_, width / 2 * q_width_, Bf16Pair{});
    std::fill_n(out_rows_, width / 2 * v_width_, Bf16Pair{});
    const Bfloat* q = kernel_pointer(call.q.data) + first * call.q.row_stride;
    const Bfloat* d_out = kernel_pointer(call.d_out.data) + first * call.d_out.row_stride;
    kernels_.interleave(q, call.q.row_stride, call.q.col_stride, queries.list, n, d_, q_rows_, q_width_);
    kernels_.interleave(d_out, call.d_out.row_stride, call.d_out.col_stride, queries.list, n, d_v_, out_rows_,
                        v_width_);
    kernels_.transpose(d_out, call.d_out.row_stride, call.d_out.col_stride, queries.list, n, d_v_, d_out_, width);
    finite_ =
        kernels_.all_finite(q_rows_, (n + 1) / 2 * q_width_) && kernels_.all_finite(out_rows_, (n + 1) / 2 * v_width_);
  }
  bool finite() const { return finite_; }
  float query(Index i, Index c) const { return number(q_rows_[i / 2 * q_width_ + c], i); }
  float out(Index i, Index c) const { return number(out_rows_[i / 2 * v_width_ + c], i); }

  void weight_gradients(const Tile& tile, const TilePart& part, Index width, float* d, float* ignored) const {
    kernels_.scores(tile.v.k(part.at), tile.v.k_stride(), part.n_keys, d_out_, (d_v_ + 1) / 2, width, part.first,
                    part.count, d, ignored);
  }

  void add(Tile& tile, const TilePart& part, Index width, const float* w, const float* d, float* d_q) const {
    const Index lane = part.first * lanes_, pairs = part.count * lanes_ / 2;
    GradientSums<float>& sums = tile.sums;
    kernels_.pair_keys(part.n_keys, width, part.first, part.count, d, room_.key_pairs);
    kernels_.values(tile.k.v(part.at), tile.k.v_block(), (part.n_keys + 1) / 2, room_.key_pairs, d_, width, part.first,
                    part.count, room_.ones, d_q);
    kernels_.pair_queries(part.n_keys, width, part.first, part.count, w, room_.query_pairs, pairs);
    kernels_.add_products(room_.query_pairs, pairs, part.n_keys, out_rows_ + lane / 2 * v_width_, v_width_, pairs,
                          sums.v_width, sums.d_v_rows + part.at * sums.v_width, sums.v_width);
    kernels_.pair_queries(part.n_keys, width, part.first, part.count, d, room_.query_pairs, pairs);
    kernels_.add_products(room_.query_pairs, pairs, part.n_keys, q_rows_ + lane / 2 * q_width_, q_width_, pairs,
                          sums.k_width, sums.d_k + part.at * sums.k_width, sums.k_width);
  }

 private:
  static float widened(Bfloat x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }
  static float number(const Bf16Pair& pair, Index i) { return widened(i % 2 == 0 ? pair.first : pair.second); }

  Index lanes_;
  const Bf16Kernels& kernels_;
  Room room_;
  Index d_, d_v_, q_width_ = 0, v_width_ = 0;
  Bf16Pair *q_rows_, *out_rows_;  // pairs of queries x padded d, d_v
  Bf16Pair* d_out_;               // pairs of features x width
  bool finite_ = true;
};

}  // namespace heed::detail
