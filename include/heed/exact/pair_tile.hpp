#pragma once
#include "heed/core/floating.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Loads what bias and boolean mask say of the pairs of one tile, transposed like the scores: added[j * panel + i], the bias
/// times `unit`, and -inf where the pair may not attend.
template <class T>
class PairTile {
 public:
  PairTile(const Mask& mask, Index n_q, Index head, Isa isa)
      : bias_(mask.bias), allowed_(mask.allowed), tiles_(tile_kernels<T>(isa)), isa_(isa) {
    bias_row_ = bias_.rows() > n_q ? head * n_q : 0;
    allowed_row_ = allowed_.rows() > n_q ? head * n_q : 0;
  }

  bool given() const { return bias_.given() || allowed_.given(); }

  /// Fills `added`; `scratch` is as large. Returns the census of the tile: bit 0 some pair is masked, bit 1 some is kept.
  int load(const TokenSet& queries, const TokenSet& keys, Index panel, T unit, T* added, T* scratch) const {
    if (bias_.given()) {
      if (bias_.dtype() == dtype_of<T>()) {
        transposed(static_cast<const T*>(bias_.data()), bias_, bias_row_, queries, keys, panel, unit, added);
      } else {
        for (Index j = 0; j < keys.size; ++j) {
          for (Index i = 0; i < panel; ++i) {
            added[j * panel + i] = i < queries.size ? static_cast<T>(bias_.at(bias_row_ + queries[i], keys[j])) * unit : T(0);
          }
        }
      }
      if (!allowed_.given()) return tiles_.census(keys.size, panel, queries.size, added);
    }
    transposed(static_cast<const Bool*>(allowed_.data()), allowed_, allowed_row_, queries, keys, panel, T(1), scratch);
    return tiles_.forbid(keys.size, panel, queries.size, scratch, bias_.given() ? added : nullptr, added);
  }

 private:
  template <class S>
  void transposed(const S* data, const PairView& pairs, Index first_row, const TokenSet& queries, const TokenSet& keys, Index panel,
                  T factor, T* to) const {
    const S* from = data + first_row * pairs.row_stride();
    if (queries.list == nullptr) from += queries.first * pairs.row_stride();
    if (keys.list == nullptr) from += keys.first * pairs.col_stride();
    storage_kernels<T, S>(isa_).transpose(from, pairs.row_stride(), pairs.col_stride(), queries.list, queries.size, keys.list, keys.size,
                                          to, panel, factor, true);
  }

  const BiasView& bias_;
  const BoolView& allowed_;
  const TileKernels<T>& tiles_;
  Isa isa_;
  Index bias_row_ = 0;
  Index allowed_row_ = 0;
};

}  // namespace heed::detail
