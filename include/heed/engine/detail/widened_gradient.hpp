#pragma once
#include <algorithm>

#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/gradient_sums.hpp"
#include "heed/engine/detail/key_tile.hpp"
#include "heed/engine/detail/tile_part.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// The products of a gradient panel with operands converted to the scalar sums are kept in: what WidenedOperands are to
/// scores. Holds the queries of one panel and their rows of d_out.
template <class Call>
class WidenedGradient {
 public:
  using Sum = typename Call::Sum;

  /// A tile of keys and values, and the sums of their gradients.
  class Tile {
   public:
    using Rows = KeyTile<Sum, typename Call::Key>;

    Tile(Scratch& scratch, Index n_keys, Index d, Index d_v, Isa isa)
        : k(scratch, n_keys, d, 0, isa),
          v(scratch, n_keys, d_v, 0, isa),
          sums(scratch, n_keys, d, d_v, isa),
          kernels_(tile_kernels<Sum>(isa)) {}

    /// `keys` are visited by `visits` panels.
    void load(const Call& call, const TokenSet& keys, Index visits) {
      const ConstView<typename Call::Key> none{call.k.data, call.k.rows, 0, call.k.row_stride, call.k.col_stride};
      k.load(call.k, none, keys, visits);
      v.load(call.v, none, keys, visits);
      finite = kernels_.all_finite(k.k(0), k.k_stride(), keys.size, call.k.cols) &&
               kernels_.all_finite(v.k(0), v.k_stride(), keys.size, call.v.cols);
      sums.begin(keys);
    }
    /// The keys as scores read them.
    const Rows& scored() const { return k; }
    Sum key(Index j, Index c) const { return k.k(j)[c]; }
    Sum value(Index j, Index c) const { return v.k(j)[c]; }

    Rows k, v;  // values row-major, as keys are
    GradientSums<Sum> sums;
    bool finite = true;  ///< no NaN or Inf among keys and values

   private:
    const TileKernels<Sum>& kernels_;
  };

  /// What the panels of one thread share.
  struct Room {
    Room(Scratch& scratch, Index, Index width) : ones(scratch.take<Sum>(width)) {}
    Sum* ones;  // width
  };

  /// `width`: queries of the largest panel.
  WidenedGradient(Scratch& scratch, const Room& room, Index width, Index d, Index d_v, Isa isa)
      : tiles_(tile_kernels<Sum>(isa)),
        gradients_(gradient_kernels<Sum>(isa)),
        stored_(storage_kernels<Sum, KernelScalar<typename Call::Query>>(isa)),
        room_(room),
        d_(d),
        d_v_(d_v) {
    q_width_ = (d + tiles_.lanes - 1) / tiles_.lanes * tiles_.lanes;
    v_width_ = (d_v + tiles_.lanes - 1) / tiles_.lanes * tiles_.lanes;
    q_rows_ = scratch.take<Sum>(width * q_width_);
    out_rows_ = scratch.take<Sum>(width * v_width_);
    d_out_ = scratch.take<Sum>(width * d_v);
  }

  /// Starts on `queries`; rows of scores are `width` long.
  void begin(const Call& call, const TokenSet& queries, Index width) {
    const Index n = queries.size, first = queries.list == nullptr ? queries.first : 0;
    std::fill(room_.ones, room_.ones + width, Sum(1));
    std::fill_n(q_rows_, width * q_width_, Sum(0));
    std::fill_n(out_rows_, width * v_width_, Sum(0));
    const auto* q = kernel_pointer(call.q.data) + first * call.q.row_stride;
    const auto* d_out = kernel_pointer(call.d_out.data) + first * call.d_out.row_stride;
    stored_.gather(q, call.q.row_stride, call.q.col_stride, queries.list, n, d_, q_rows_, q_width_);
    stored_.gather(d_out, call.d_out.row_stride, call.d_out.col_stride, queries.list, n, d_v_, out_rows_, v_width_);
    stored_.transpose(d_out, call.d_out.row_stride, call.d_out.col_stride, queries.list, n, nullptr, d_v_, d_out_,
                      width, Sum(1), true);
    finite_ = tiles_.all_finite(q_rows_, q_width_, n, d_) && tiles_.all_finite(out_rows_, v_width_, n, d_v_);
  }
  /// No NaN or Inf among queries and rows of d_out.
  bool finite() const { return finite_; }
  Sum query(Index i, Index c) const { return q_rows_[i * q_width_ + c]; }
  Sum out(Index i, Index c) const { return out_rows_[i * v_width_ + c]; }

  /// d[j][i] = v_j . d_out_i.
  void weight_gradients(const Tile& tile, const TilePart& part, Index width, Sum* d, Sum* ignored) const {
    tiles_.scores(tile.v.k(part.at), tile.v.k_stride(), part.n_keys, d_out_, d_v_, width, part.first, part.count, d,
                  ignored, nullptr);
  }

  /// From weights w and gradients d of scores: d_q[c][i] += sum_j d[j][i] k_jc, and to the tile's sums d_v_j += sum_i
  /// w[j][i] d_out_i and d_k_j += sum_i d[j][i] q_i.
  void add(Tile& tile, const TilePart& part, Index width, const Sum* w, const Sum* d, Sum* d_q) const {
    const Index lane = part.first * tiles_.lanes, n = part.count * tiles_.lanes;
    GradientSums<Sum>& sums = tile.sums;
    tiles_.values(tile.k.k(part.at), tile.k.k_stride(), tiles_.rows, part.n_keys, d, d_, width, part.first, part.count,
                  room_.ones, d_q);
    gradients_.add_products(w + lane, width, part.n_keys, out_rows_ + lane * v_width_, v_width_, n, sums.v_width,
                            sums.d_v_rows + part.at * sums.v_width, sums.v_width);
    gradients_.add_products(d + lane, width, part.n_keys, q_rows_ + lane * q_width_, q_width_, n, sums.k_width,
                            sums.d_k + part.at * sums.k_width, sums.k_width);
  }

 private:
  const TileKernels<Sum>& tiles_;
  const GradientKernels<Sum>& gradients_;
  const StorageKernels<Sum, KernelScalar<typename Call::Query>>& stored_;
  Room room_;
  Index d_, d_v_, q_width_ = 0, v_width_ = 0;
  Sum *q_rows_, *out_rows_;  // width x padded d, d_v: rows of queries and of d_out
  Sum* d_out_;               // d_v x width
  bool finite_ = true;
};

}  // namespace heed::detail
