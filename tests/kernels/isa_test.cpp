#include "heed/kernels/isa.hpp"

#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

namespace heed {
namespace {

TEST(Isa, IsTheOneAskedForOrTheBestThatTheMachineHas) {
  const char* asked = std::getenv("HEED_ISA");
  EXPECT_TRUE(detail::has_isa(active_isa()));
  if (asked == nullptr || *asked == '\0') {
    EXPECT_EQ(active_isa(), detail::best_isa());
  }
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::neon}) {
    if (asked != nullptr && isa_name(isa) == asked && detail::has_isa(isa)) {
      EXPECT_EQ(active_isa(), isa);
    }
  }
}

std::string said_for(const char* asked, bool (*has)(Isa)) {
  try {
    static_cast<void>(detail::chosen_isa(asked, has));
  } catch (const OptionError& error) {
    return error.what();
  }
  return "nothing";
}
bool every(Isa) { return true; }
bool up_to_avx2(Isa isa) { return isa == Isa::baseline || isa == Isa::avx2; }

TEST(Isa, AnUnknownNameIsRefusedWithTheNamesThereAre) {
  for (const char* unknown : {"avx3", "AVX2", "avx2 ", "sse", "0"}) {
    EXPECT_EQ(said_for(unknown, every),
              "heed: HEED_ISA = " + std::string(unknown) + " must be one of baseline, avx2, avx512, avx512_bf16, neon");
  }
}

TEST(Isa, OneThatTheMachineLacksIsRefusedAndNotReplaced) {
  EXPECT_EQ(said_for("avx512", up_to_avx2),
            "heed: HEED_ISA = avx512 must be one of those that this CPU has: baseline, avx2");
  EXPECT_EQ(said_for("avx512_bf16", up_to_avx2),
            "heed: HEED_ISA = avx512_bf16 must be one of those that this CPU has: baseline, avx2");
  EXPECT_EQ(detail::chosen_isa("avx2", up_to_avx2), Isa::avx2);
}

TEST(Isa, NothingAskedIsTheBest) {
  EXPECT_EQ(detail::chosen_isa(nullptr), detail::best_isa());
  EXPECT_EQ(detail::chosen_isa(""), detail::best_isa());
}

TEST(Isa, NamesAreThoseOfTheEnvironmentVariable) {
  EXPECT_EQ(isa_name(Isa::baseline), "baseline");
  EXPECT_EQ(isa_name(Isa::avx2), "avx2");
  EXPECT_EQ(isa_name(Isa::avx512), "avx512");
  EXPECT_EQ(isa_name(Isa::avx512_bf16), "avx512_bf16");
  EXPECT_EQ(isa_name(Isa::neon), "neon");
}

}  // namespace
}  // namespace heed
