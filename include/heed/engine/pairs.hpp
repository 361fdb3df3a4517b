#pragma once
#include <algorithm>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/mask.hpp"
#include "heed/core/options.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/pair_rule.hpp"

namespace heed::detail {

/// Some pairs of some heads: those of `tiles` that the rule, the window and the mask keep.
struct PairsPart {
  TileList tiles;
  PairRule rule{};
  Index window_left = Mask::unlimited;  ///< narrows Mask::window_left
  Index window_right = Mask::unlimited;
  PairsPart* next = nullptr;
};

/// Heads that see the same pairs: consecutive calls, and the disjoint parts that together have every pair once.
struct PairsGroup {
  Index first_call = 0;
  Index n_calls = 0;
  bool names_every_query = true;  ///< false: a query in no tile has no keys
  PairsPart* parts = nullptr;
  PairsGroup* next = nullptr;

  bool is_one_part() const { return parts->next == nullptr; }
};

/// The pairs of all heads of a call. Its method makes it once, and every pass reads it: routing happens once, however
/// many passes there are. Lies in the frame it is made in.
class Pairs {
 public:
  explicit Pairs(Workspace::Frame& frame) : frame_(&frame) {}
  Pairs(Pairs&& other) noexcept
      : frame_(other.frame_),
        first_(std::exchange(other.first_, nullptr)),
        last_(std::exchange(other.last_, nullptr)),
        kept_(std::exchange(other.kept_, nullptr)) {}
  Pairs& operator=(Pairs&&) = delete;
  ~Pairs() {
    for (Kept* kept = kept_; kept != nullptr; kept = kept->next) kept->destroy(kept->object);
  }

  const PairsGroup* groups() const { return first_; }

  /// Adds heads, which follow those added before, without any pair yet.
  PairsGroup& add_group(Index first_call, Index n_calls) {
    PairsGroup* group = new (frame_->take<PairsGroup>(1)) PairsGroup{first_call, n_calls};
    (first_ == nullptr ? first_ : last_->next) = group;
    return *(last_ = group);
  }
  /// Adds pairs that no earlier part of the group has.
  PairsPart& add_part(PairsGroup& group, const TileList& tiles, const PairRule& rule = {}) {
    PairsPart** end = &group.parts;
    while (*end != nullptr) end = &(*end)->next;
    return *(*end = new (frame_->take<PairsPart>(1)) PairsPart{tiles, rule});
  }
  /// Moves an object to where it lives as long as the pairs do.
  template <class Object>
  const Object& keep(Object object) {
    auto* kept = new (frame_->take<Object>(1)) Object(std::move(object));
    if constexpr (!std::is_trivially_destructible_v<Object>) {
      kept_ = new (frame_->take<Kept>(1)) Kept{kept, [](void* what) { static_cast<Object*>(what)->~Object(); }, kept_};
    }
    return *kept;
  }
  Workspace::Frame& frame() const { return *frame_; }

 private:
  struct Kept {
    void* object;
    void (*destroy)(void*);
    Kept* next;
  };

  Workspace::Frame* frame_;
  PairsGroup *first_ = nullptr, *last_ = nullptr;
  Kept* kept_ = nullptr;
};

/// Tiles with every key the mask keeps by position: one group, or one for each packed sequence, so that no panel of
/// queries reaches into two of them.
inline TileList dense_tiles(const Mask& mask, Index n_q, Index n_k, Workspace::Frame& frame) {
  const std::span<const Index> q_offsets = mask.sequence_offsets;
  const std::span<const Index> k_offsets = mask.key_sequence_offsets.empty() ? q_offsets : mask.key_sequence_offsets;
  const bool packed = n_q > 1 && !q_offsets.empty();
  const Index n_groups = packed ? static_cast<Index>(q_offsets.size()) - 1 : 1;
  TokenSet* sets = frame.take<TokenSet>(2 * n_groups);
  Index* first_segment = frame.take<Index>(n_groups + 1);
  for (Index g = 0; g <= n_groups; ++g) first_segment[g] = g;
  sets[0] = {0, n_q};
  sets[n_groups] = {0, n_k};
  for (Index g = 0; packed && g < n_groups; ++g) {
    const auto b = static_cast<std::size_t>(g);
    sets[g] = {q_offsets[b], q_offsets[b + 1] - q_offsets[b]};
    sets[n_groups + g] = {k_offsets[b], k_offsets[b + 1] - k_offsets[b]};
  }
  return {n_groups, sets, first_segment, sets + n_groups};
}

/// Every pair, for all heads of a call, within the window.
template <class Call>
Pairs every_pair(std::span<const Call> calls, const Mask& mask, Workspace::Frame& frame,
                 Index window_left = Mask::unlimited, Index window_right = Mask::unlimited) {
  Pairs pairs(frame);
  PairsPart& part = pairs.add_part(pairs.add_group(0, static_cast<Index>(calls.size())),
                                   dense_tiles(mask, calls.front().q.rows, calls.front().k.rows, frame));
  part.window_left = window_left;
  part.window_right = window_right;
  return pairs;
}

/// The options of a part: those of the call, the window narrowed.
inline AttentionOptions options_of(const PairsPart& part, AttentionOptions options) {
  options.mask.window_left = std::min(options.mask.window_left, part.window_left);
  options.mask.window_right = std::min(options.mask.window_right, part.window_right);
  return options;
}

}  // namespace heed::detail
