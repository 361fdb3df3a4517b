#pragma once
#include <bit>
#include <cstddef>

#include "heed/core/kept_keys.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/trees/leaf_lists.hpp"

namespace heed::detail {

/// The node whose keys a query sees, `level` decisions down: leaves [first_leaf, end_leaf).
struct LeafNode {
  Index level = 0;
  Index first_leaf = 0;
  Index end_leaf = 0;
};

/// Finds the deepest node on a query's path with a key that the mask keeps for it. A query that keeps no key at all
/// stays in its leaf, where the mask leaves it nothing.
class NodeFinder {
 public:
  NodeFinder(const LeafLists& keys, Index height, const KeptKeys& kept, bool masked)
      : keys_(keys), height_(height), kept_(kept), masked_(masked) {}

  LeafNode find(Index i, Index leaf) const {
    LeafNode node{height_, leaf, leaf + 1};
    if (keys_.size(leaf) > 0 && !masked_) return node;
    const KeyRange range = kept_.bounds().of(i);
    if (any(i, range, leaf, leaf + 1)) return node;
    while (node.level > 0) {  // of the parent's keys only the sibling's are new
      --node.level;
      const Index size = node.end_leaf - node.first_leaf, parent = leaf >> (height_ - node.level);
      const bool is_second = node.first_leaf / size % 2 != 0;
      const Index sibling = is_second ? node.first_leaf - size : node.end_leaf;
      node.first_leaf = parent << (height_ - node.level);
      node.end_leaf = node.first_leaf + 2 * size;
      if (any(i, range, sibling, sibling + size)) return node;
    }
    return {height_, leaf, leaf + 1};
  }

 private:
  bool any(Index i, const KeyRange& range, Index first, Index end) const {
    if (keys_.size(first, end) == 0) return false;
    for (Index l = first; l < end; ++l) {
      if (kept_.any(keys_.tokens(l), i, range)) return true;
    }
    return false;
  }

  const LeafLists& keys_;
  Index height_;
  const KeptKeys& kept_;
  bool masked_;  // more than padding, which is in no list
};

/// True when the mask hides some key that is no padding from some query.
inline bool hides_keys(const Mask& mask, Index n_q, Index n_k) {
  return !every_position(mask, n_q, n_k) || mask.keys.given() || mask.allowed.given() || mask.bias.given();
}

/// The tiles of TF-attention for one head: a group for each leaf that has queries, and for each ancestor some fall back
/// to. Keys of an ancestor are the lists of its leaves, one segment each.
struct LeafTiles {
  TileList tiles;
  const Index* query_leaf = nullptr;  // n_q: where each query was routed
  const Index* first_leaf = nullptr;  // n_q: leaves [first, end) whose keys each query sees
  const Index* end_leaf = nullptr;
  const Index* key_leaf = nullptr;  // of the real keys
  Index n_fallen = 0;               // queries that see an ancestor's keys

  Index n_groups() const { return tiles.n_groups(); }
  TokenSet queries(Index g) const { return tiles.queries(g); }
  Index n_segments(Index g) const { return tiles.n_segments(g); }
  TokenSet keys(Index g, Index s) const { return tiles.keys(g, s); }
  /// True when query i sees key j, a real one, unless the mask says no.
  bool sees(Index i, Index j) const { return key_leaf[j] >= first_leaf[i] && key_leaf[j] < end_leaf[i]; }
};

static_assert(KeyPattern<LeafTiles>);

/// `query_leaf`: n_q leaves; `keys`: the real keys by leaf. Tiles hold the first `cap` keys of a leaf; what a query
/// sees is not capped. Takes what it needs from `frame`.
inline LeafTiles leaf_tiles(const Index* query_leaf, Index n_q, Index n_k, const LeafLists& keys, Index height,
                            const Mask& mask, Index head, Index cap, Workspace::Frame& frame) {
  const auto take = [&](Index n) { return frame.take<Index>(n); };
  const KeptKeys kept(mask, n_q, n_k, head);
  const NodeFinder finder(keys, height, kept, hides_keys(mask, n_q, n_k));
  const Index n_nodes = Index(2) << height;  // node v of level t, from the left, is number 2^t + v
  Index* node_of = take(n_q);
  Index *first_leaf = take(n_q), *end_leaf = take(n_q);
  LeafTiles result;
  for (Index i = 0; i < n_q; ++i) {
    const LeafNode node = finder.find(i, query_leaf[i]);
    first_leaf[i] = node.first_leaf;
    end_leaf[i] = node.end_leaf;
    node_of[i] = (Index(1) << node.level) + (node.first_leaf >> (height - node.level));
    result.n_fallen += node.level < height;
  }
  const LeafLists by_node(node_of, n_q, n_nodes, frame);
  Index n_groups = 0, n_segments = 0;
  for (Index v = 1; v < n_nodes; ++v) {
    if (by_node.size(v) == 0) continue;
    ++n_groups;
    n_segments += n_nodes / 2 >> (std::bit_width(static_cast<std::size_t>(v)) - 1);
  }
  TokenSet* queries = frame.take<TokenSet>(n_groups);
  TokenSet* segments = frame.take<TokenSet>(n_segments);
  Index* first_segment = take(n_groups + 1);
  Index group = 0, at = 0;
  for (Index v = 1, level = 0; v < n_nodes; ++v) {
    if (v == Index(2) << level) ++level;
    if (by_node.size(v) == 0) continue;
    queries[group] = by_node.tokens(v);
    first_segment[group++] = at;
    const Index leaves = Index(1) << (height - level), first = (v - (Index(1) << level)) * leaves;
    for (Index l = first; l < first + leaves; ++l) {
      // A leaf without keys keeps an empty segment, so that a query without any stands in a group all the same.
      if (keys.size(l) > 0 || leaves == 1) segments[at++] = keys.tokens(l, cap);
    }
  }
  first_segment[group] = at;
  result.tiles = {group, queries, first_segment, segments};
  result.query_leaf = query_leaf;
  result.first_leaf = first_leaf;
  result.end_leaf = end_leaf;
  result.key_leaf = keys.leaf_of();
  return result;
}

}  // namespace heed::detail
