#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "heed/core/floating.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/number_range.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/score_rule.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// What the masks of pairs leave of a tile, before its scores are known.
struct PairCensus {
  const std::uint16_t* allowed =
      nullptr;  ///< [key * vectors + vector]: a bit for each lane whose query may attend; null: every pair may
  bool some_kept = true, some_masked = false;
};

/// Room for a tile of `keys` times `vectors` vectors of queries.
template <class T>
struct PairRoom {
  static constexpr Index block = 32;  ///< keys whose bias is loaded at a time: it stays in the nearest cache
  PairRoom(Scratch& scratch, Index keys, Index vectors, Index lanes) {
    for (T** tile : {&added, &rows}) *tile = scratch.take<T>(std::min(block, keys) * vectors * lanes);
    allowed = scratch.take<std::uint16_t>(keys * vectors);
  }
  T *added, *rows;  // rows: a bias on its way to T
  std::uint16_t* allowed;
};

/// What bias and boolean mask of one head say of the pairs of a tile.
template <class T>
class PairTile {
 public:
  PairTile(const Mask& mask, Index n_q, Index head, Isa isa)
      : bias_(mask.bias.of_head(head, n_q)),
        allowed_(mask.allowed.of_head(head, n_q)),
        tiles_(tile_kernels<T>(isa)),
        isa_(isa) {}

  /// True when query i may see key j as far as these two say.
  bool keeps(Index i, Index j) const {
    if (allowed_.given() && allowed_.at(i, j) == 0.0) return false;
    return !bias_.given() || !is_minus_infinity(bias_.at(i, j));
  }

  /// Reads the boolean mask into `room`, for a panel of `panel` lanes, and of the bias whether it masks all.
  PairCensus census(const TokenSet& queries, const TokenSet& keys, Index panel, const PairRoom<T>& room) const {
    PairCensus pairs;
    if (allowed_.given()) {
      const Bool* from = origin<Bool>(allowed_, queries, keys);
      const int found = tiles_.lane_masks(from, allowed_.row_stride(), allowed_.col_stride(), queries.list,
                                          queries.size, keys.list, keys.size, room.allowed);
      pairs = {found == 3 ? room.allowed : nullptr, (found & 2) != 0, (found & 1) != 0};
    }
    if (bias_.given() && pairs.some_kept) pairs.some_kept = !bias_masks_all(queries, keys, panel, room);
    return pairs;
  }

  /// Brings raw scores of vectors first .. first + count - 1 of a panel to what the softmax sees (the adjust kernel),
  /// bias and boolean mask included; `pairs` is the census of these queries and keys. Returns whether the bias masks
  /// some pair.
  bool adjust(const ScoreRule<T>& rule, const TokenSet& queries, const TokenSet& keys, const PairCensus& pairs,
              Index panel, Index first, Index count, const T* query_position, const T* key_position,
              const PairRoom<T>& room, T* s, T* top) const {
    const Index step = bias_.given() ? PairRoom<T>::block : keys.size;
    bool some_masked = false;
    for (Index at = 0; at < keys.size; at += step) {
      const TokenSet block = keys.part(at, std::min(step, keys.size - at));
      if (bias_.given()) load_bias(queries, block, panel, room);
      const bool masked =
          tiles_.adjust(block.size, panel, first, count, rule.scale, rule.cap, bias_.given() ? room.added : nullptr,
                        pairs.allowed == nullptr ? nullptr : pairs.allowed + at * (panel / tiles_.lanes), rule.slope,
                        query_position, key_position + at, s + at * panel, top);
      some_masked = some_masked || masked;
    }
    return some_masked;
  }

  /// Calls rows(pointer to the first row, its bytes, bytes from row to row, number of rows) for each matrix given, as
  /// it lies in memory.
  template <class Rows>
  void visit_rows(const TokenSet& queries, const TokenSet& keys, const Rows& rows) const {
    if (queries.list != nullptr || keys.list != nullptr) return;
    const auto visit = [&](const PairView& pairs) {
      if (!pairs.given()) return;
      const Index size = pairs.scalar_bytes(), row = pairs.row_stride() * size, column = pairs.col_stride() * size;
      const char* from = static_cast<const char*>(pairs.data()) + queries.first * row + keys.first * column;
      if (column == size) rows(from, keys.size * size, row, queries.size);
      if (row == size) rows(from, queries.size * size, column, keys.size);
    };
    visit(bias_);
    visit(allowed_);
  }

 private:
  // First entry of the tile.
  template <class S>
  static const S* origin(const PairView& pairs, const TokenSet& queries, const TokenSet& keys) {
    const Index row = queries.list == nullptr ? queries.first : 0, column = keys.list == nullptr ? keys.first : 0;
    return static_cast<const S*>(pairs.data()) + row * pairs.row_stride() + column * pairs.col_stride();
  }

  // The corners first: most tiles that keep a pair keep one of theirs.
  bool bias_masks_all(const TokenSet& queries, const TokenSet& keys, Index panel, const PairRoom<T>& room) const {
    for (const Index i : {queries.size - 1, Index(0)}) {
      for (const Index j : {Index(0), keys.size - 1}) {
        if (!is_minus_infinity(bias_.at(queries[i], keys[j]))) return false;
      }
    }
    for (Index at = 0; at < keys.size; at += PairRoom<T>::block) {
      const TokenSet block = keys.part(at, std::min(PairRoom<T>::block, keys.size - at));
      load_bias(queries, block, panel, room);
      if (!tiles_.all_masked(block.size, panel, queries.size, room.added)) return false;
    }
    return true;
  }

  void load_bias(const TokenSet& queries, const TokenSet& keys, Index panel, const PairRoom<T>& room) const {
    switch (bias_.dtype()) {
      case Dtype::f32: return load_bias_of<float>(queries, keys, panel, room);
      case Dtype::f64: return load_bias_of<double>(queries, keys, panel, room);
      case Dtype::f16: return load_bias_of<Half>(queries, keys, panel, room);
      case Dtype::bf16: return load_bias_of<Bfloat>(queries, keys, panel, room);
      case Dtype::boolean:  // no bias is
      default: return;
    }
  }

  template <class S>
  void load_bias_of(const TokenSet& queries, const TokenSet& keys, Index panel, const PairRoom<T>& room) const {
    const StorageKernels<T, T>& same = storage_kernels<T, T>(isa_);
    const S* from = origin<S>(bias_, queries, keys);
    const Index row = bias_.row_stride(), column = bias_.col_stride();
    const auto transpose = [&](const T* rows, Index row_stride, Index column_stride, const Index* row_list,
                               const Index* column_list) {
      same.transpose(rows, row_stride, column_stride, row_list, queries.size, column_list, keys.size, room.added, panel,
                     T(1), true);
    };
    if constexpr (std::is_same_v<S, T>) {
      transpose(from, row, column, queries.list, keys.list);
    } else if (column == 1 && keys.list == nullptr) {
      widen_rows<T, S>(isa_)(from, row, queries.list, queries.size, keys.size, room.rows, keys.size);
      saturate(from, row, queries.list, queries.size, keys.size, room.rows);
      transpose(room.rows, keys.size, 1, nullptr, nullptr);
    } else if (row == 1 && queries.list == nullptr) {
      widen_rows<T, S>(isa_)(from, column, keys.list, keys.size, queries.size, room.rows, queries.size);
      saturate(from, column, keys.list, keys.size, queries.size, room.rows);
      transpose(room.rows, 1, queries.size, nullptr, nullptr);
    } else {
      for (Index j = 0; j < keys.size; ++j) {
        for (Index i = 0; i < queries.size; ++i)
          room.rows[j * queries.size + i] = saturated<T>(bias_.at(queries[i], keys[j]));
      }
      transpose(room.rows, 1, queries.size, nullptr, nullptr);
    }
  }

  // Entries that became infinite on their way to T, and were not, become T's largest number.
  template <class S>
  void saturate(const S* from, Index stride, const Index* list, Index n_rows, Index n_columns, T* rows) const {
    if constexpr (sizeof(S) > sizeof(T)) {
      if (tiles_.all_finite(rows, n_columns, n_rows, n_columns)) return;
      for (Index i = 0; i < n_rows; ++i) {
        const S* row = from + (list == nullptr ? i : list[i]) * stride;
        for (Index c = 0; c < n_columns; ++c) rows[i * n_columns + c] = saturated<T>(row[c]);
      }
    }
  }

  BiasView bias_;  // of this head
  BoolView allowed_;
  const TileKernels<T>& tiles_;
  Isa isa_;
};

}  // namespace heed::detail
