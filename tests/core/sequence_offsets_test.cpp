#include "heed/core/sequence_offsets.hpp"

#include <array>
#include <span>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

#include "heed/core/mask.hpp"

namespace heed {
namespace {

/// A reader that knows nothing of the type.
Index last_of(std::span<const Index> offsets) { return offsets.back(); }

TEST(SequenceOffsets, ViewWhatOutlivesThem) {
  std::vector<Index> vector{0, 3};
  const std::vector<Index> constant{0, 4};
  std::array<Index, 2> array{0, 5};
  Index plain[] = {0, 6};
  const std::span<const Index> span = vector;
  const std::span<Index> writable = array;
  Mask mask{.sequence_offsets = vector, .key_sequence_offsets = span};
  EXPECT_EQ(last_of(mask.sequence_offsets), 3);
  EXPECT_EQ(mask.key_sequence_offsets.data(), vector.data());
  mask.sequence_offsets = constant;
  EXPECT_EQ(last_of(mask.sequence_offsets), 4);
  mask.sequence_offsets = array;
  EXPECT_EQ(last_of(mask.sequence_offsets), 5);
  mask.sequence_offsets = plain;
  EXPECT_EQ(last_of(mask.sequence_offsets), 6);
  mask.sequence_offsets = writable;
  EXPECT_EQ(last_of(mask.sequence_offsets), 5);
  mask.sequence_offsets = span.first(1);
  EXPECT_EQ(mask.sequence_offsets.size(), 1u);
  mask.sequence_offsets = {vector.data(), 2};
  EXPECT_EQ(mask.sequence_offsets[1], 3);
  mask.sequence_offsets = {vector.begin(), vector.end()};
  EXPECT_EQ(mask.sequence_offsets.size(), 2u);
  mask.sequence_offsets = vector = {0, 7, 9};
  EXPECT_EQ(last_of(mask.sequence_offsets), 9);
  mask.sequence_offsets = {};
  EXPECT_TRUE(mask.sequence_offsets.empty());
  EXPECT_TRUE(Mask().key_sequence_offsets.empty());
}

TEST(SequenceOffsets, AreCheapToCopyAndTakeNoOtherNumbers) {
  static_assert(std::is_trivially_copyable_v<SequenceOffsets>);
  static_assert(!std::is_convertible_v<std::vector<int>&, SequenceOffsets>);
  static_assert(std::is_convertible_v<SequenceOffsets, std::span<const Index>>);
}

}  // namespace
}  // namespace heed
