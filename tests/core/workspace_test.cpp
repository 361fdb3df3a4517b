#include "heed/core/workspace.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include <gtest/gtest.h>

#include "heed/core/errors.hpp"
#include "support/allocations.hpp"

namespace heed {
namespace {

bool is_aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 64 == 0; }

TEST(Workspace, HoldsNothingUntilAsked) { EXPECT_EQ(Workspace().bytes(), 0u); }

TEST(Workspace, GivesAlignedMemoryThatDoesNotOverlap) {
  Workspace workspace;
  Workspace::Frame frame(workspace);
  float* a = frame.take<float>(3);
  double* b = frame.take<double>(100);
  char* c = frame.take<char>(1);
  std::memset(a, 1, 3 * sizeof(float));
  std::memset(b, 2, 100 * sizeof(double));
  *c = 3;
  EXPECT_TRUE(is_aligned(a));
  EXPECT_TRUE(is_aligned(b));
  EXPECT_TRUE(is_aligned(c));
  EXPECT_EQ(reinterpret_cast<unsigned char*>(a)[3 * sizeof(float) - 1], 1);
  EXPECT_EQ(reinterpret_cast<unsigned char*>(b)[100 * sizeof(double) - 1], 2);
}

TEST(Workspace, ASecondRoundOfTheSameShapesAllocatesNothing) {
  if (!test::counts_allocations()) GTEST_SKIP() << "allocations cannot be counted here";
  Workspace workspace;
  std::uint64_t before = 0;
  for (int turn = 0; turn < 2; ++turn) {
    before = test::allocations();
    Workspace::Frame frame(workspace);
    frame.take<float>(1000);
    frame.take<float>(5);
    frame.take<double>(4000);
  }
  EXPECT_EQ(test::allocations(), before);
}

TEST(Workspace, FramesNestAndGiveBack) {
  Workspace workspace;
  Workspace::Frame outer(workspace);
  int* kept = outer.take<int>(10);
  kept[9] = 42;
  void* inner_start = nullptr;
  for (int turn = 0; turn < 3; ++turn) {
    Workspace::Frame inner(workspace);
    int* scratch = inner.take<int>(1000);
    if (turn > 0) {
      EXPECT_EQ(static_cast<void*>(scratch), inner_start);
    }
    inner_start = scratch;
    std::memset(scratch, 0, 1000 * sizeof(int));
  }
  EXPECT_EQ(kept[9], 42);
}

TEST(Workspace, GrowsWhileMemoryIsInUse) {
  Workspace workspace;
  Workspace::Frame frame(workspace);
  int* first = frame.take<int>(10);
  first[0] = 7;
  for (std::size_t n = 1; n < 100000; n *= 3) std::memset(frame.take<int>(n), 0, n * sizeof(int));
  EXPECT_EQ(first[0], 7);
  EXPECT_GE(workspace.bytes(), 59049 * sizeof(int));
}

TEST(Workspace, MovesWithItsMemory) {
  Workspace workspace;
  { Workspace::Frame(workspace).take<int>(1000); }
  const std::size_t bytes = workspace.bytes();
  const Workspace moved = std::move(workspace);
  EXPECT_EQ(moved.bytes(), bytes);
  EXPECT_GE(bytes, 4000u);
}

TEST(Workspace, ReleaseGivesEverythingBackAndTheNextRoundGrowsAgain) {
  Workspace workspace;
  for (int turn = 0; turn < 2; ++turn) {
    {
      Workspace::Frame frame(workspace);
      std::memset(frame.take<char>(100000), turn, 100000);
      std::memset(frame.take<char>(200000), turn, 200000);
    }
    EXPECT_GE(workspace.bytes(), 300000u);
    workspace.release();
    EXPECT_EQ(workspace.bytes(), 0u);
  }
}

TEST(Workspace, ReleaseIsRefusedWhileAFrameIsOpen) {
  Workspace workspace;
  {
    Workspace::Frame outer(workspace);
    int* kept = outer.take<int>(10);
    { Workspace::Frame inner(workspace); }
    kept[9] = 42;
    EXPECT_THROW(workspace.release(), OptionError);
    EXPECT_EQ(kept[9], 42);
    EXPECT_GT(workspace.bytes(), 0u);
  }
  workspace.release();
  EXPECT_EQ(workspace.bytes(), 0u);
}

TEST(Workspace, RefusesMoreThanMemoryCanHoldInsteadOfWrappingAround) {
  Workspace workspace;
  Workspace::Frame frame(workspace);
  const std::size_t all = std::numeric_limits<std::size_t>::max();
  EXPECT_THROW(frame.take<char>(all), ShapeError);            // rounding up to whole lines would make 0 of it
  EXPECT_THROW(frame.take<char>(all - 40), ShapeError);       // the same
  EXPECT_THROW(frame.take<double>(all / 8 + 2), ShapeError);  // times 8 is 8
  EXPECT_THROW(frame.take<double>(all / 2 + 1), ShapeError);  // a negative count
  EXPECT_EQ(workspace.bytes(), 0u);
}

TEST(Workspace, AFailedAllocationLeavesItAsItWas) {
  if (!test::counts_allocations()) GTEST_SKIP() << "allocations cannot be made to fail here";
  Workspace workspace;
  Workspace::Frame frame(workspace);
  char* first = frame.take<char>(64);
  const std::size_t before = workspace.bytes();
  int failed = test::with_each_allocation_failing([&] { frame.take<char>(1 << 20); },
                                                  [&] { EXPECT_EQ(workspace.bytes(), before); });
  EXPECT_GE(failed, 1);
  *first = 1;
  char* second = frame.take<char>(1 << 20);
  failed = test::with_each_allocation_failing([&] { frame.take<char>(1 << 21); }, [] {});
  EXPECT_GE(failed, 1);
  EXPECT_EQ(workspace.bytes(), before + (1u << 20) * 2 + (1u << 21)) << "and nothing was lost";
  std::memset(second, 1, 1 << 20);
}

TEST(Workspace, AnEmptyPieceIsFine) {
  Workspace workspace;
  Workspace::Frame frame(workspace);
  frame.take<float>(0);
  float* one = frame.take<float>(1);
  *one = 1.0f;
  EXPECT_EQ(*one, 1.0f);
}

}  // namespace
}  // namespace heed
