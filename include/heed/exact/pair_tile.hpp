#pragma once
#include "heed/core/floating.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Loads what bias and boolean mask say of the pairs of one tile, transposed like the scores: added[j * panel + i], the bias,
/// and -inf where the pair may not attend.
template <class T>
class PairTile {
 public:
  PairTile(const Mask& mask, Index n_q, Index head, Isa isa)
      : bias_(mask.bias), allowed_(mask.allowed), tiles_(tile_kernels<T>(isa)), isa_(isa) {
    bias_row_ = bias_.rows() > n_q ? head * n_q : 0;
    allowed_row_ = allowed_.rows() > n_q ? head * n_q : 0;
  }

  bool given() const { return bias_.given() || allowed_.given(); }

  /// Fills `added`; `allowed` and `rows` are scratch of its size. Returns the census of the tile: bit 0 some pair is masked,
  /// bit 1 some is kept.
  int load(const TokenSet& queries, const TokenSet& keys, Index panel, T* added, T* allowed, T* rows) const {
    const StorageKernels<T, T>& same = storage_kernels<T, T>(isa_);
    if (bias_.given()) {
      if (bias_.dtype() == dtype_of<T>()) {
        const T* from = origin<T>(bias_, bias_row_, queries, keys);
        same.transpose(from, bias_.row_stride(), bias_.col_stride(), queries.list, queries.size, keys.list, keys.size,
                       added, panel, T(1), true);
      } else {
        load_each(bias_, bias_row_, queries, keys, panel, added);
      }
      if (!allowed_.given()) return tiles_.census(keys.size, panel, queries.size, added);
    }
    const StorageKernels<T, Bool>& bools = storage_kernels<T, Bool>(isa_);
    const Bool* from = origin<Bool>(allowed_, allowed_row_, queries, keys);
    if (allowed_.col_stride() == 1 && keys.list == nullptr) {
      bools.gather(from, allowed_.row_stride(), 1, queries.list, queries.size, keys.size, rows, keys.size);
      same.transpose(rows, keys.size, 1, nullptr, queries.size, nullptr, keys.size, allowed, panel, T(1), true);
    } else if (allowed_.row_stride() == 1 && queries.list == nullptr && queries.size == panel) {
      bools.gather(from, allowed_.col_stride(), 1, keys.list, keys.size, panel, allowed, panel);
    } else {
      load_each(allowed_, allowed_row_, queries, keys, panel, allowed);
    }
    return tiles_.forbid(keys.size, panel, queries.size, allowed, bias_.given() ? added : nullptr, added);
  }

 private:
  // First entry of the tile.
  template <class S>
  static const S* origin(const PairView& pairs, Index first_row, const TokenSet& queries, const TokenSet& keys) {
    const Index row = first_row + (queries.list == nullptr ? queries.first : 0),
                column = keys.list == nullptr ? keys.first : 0;
    return static_cast<const S*>(pairs.data()) + row * pairs.row_stride() + column * pairs.col_stride();
  }

  static void load_each(const PairView& pairs, Index first_row, const TokenSet& queries, const TokenSet& keys,
                        Index panel, T* to) {
    for (Index j = 0; j < keys.size; ++j) {
      for (Index i = 0; i < panel; ++i) {
        to[j * panel + i] = i < queries.size ? static_cast<T>(pairs.at(first_row + queries[i], keys[j])) : T(0);
      }
    }
  }

  const BiasView& bias_;
  const BoolView& allowed_;
  const TileKernels<T>& tiles_;
  Isa isa_;
  Index bias_row_ = 0;
  Index allowed_row_ = 0;
};

}  // namespace heed::detail
