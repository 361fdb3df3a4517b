#pragma once
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/key_tile.hpp"
#include "heed/engine/int8_rows.hpp"

namespace heed::detail {

/// A tile of an 8-bit cache, as the float numbers it stands for: for panels of queries, which are bound by arithmetic.
template <>
class KeyTile<float, Int8> : public KeyTile<float, float> {
 public:
  KeyTile(Scratch& scratch, Index keys, Index d, Index d_v, Isa isa)
      : KeyTile<float, float>(scratch, keys, d, d_v, isa),
        keys_(scratch.take<float>(keys * d)),
        values_(scratch.take<float>(keys * d_v)) {}

  void load(const ConstView<Int8>& keys_of, const ConstView<Int8>& values_of, const TokenSet& keys, Index visits) {
    const Index d = keys_of.cols, d_v = values_of.cols;
    for (Index t = 0; t < keys.size; ++t) {
      keys_of.tokens->widen_key(keys[t], keys_ + t * d);
      if (d_v > 0) values_of.tokens->widen_value(keys[t], values_ + t * d_v);
    }
    KeyTile<float, float>::load({keys_, keys.size, d, d, 1}, {values_, keys.size, d_v, d_v, 1}, {0, keys.size}, visits);
  }

 private:
  float *keys_, *values_;
};

}  // namespace heed::detail
