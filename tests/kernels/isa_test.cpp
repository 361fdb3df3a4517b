#include "heed/kernels/isa.hpp"

#include <cstdlib>
#include <string_view>

#include <gtest/gtest.h>

namespace heed {
namespace {

TEST(Isa, IsTheOneAskedForOrTheBestThatTheMachineHas) {
  const char* asked = std::getenv("HEED_ISA");
  EXPECT_TRUE(detail::has_isa(active_isa()));
  if (asked == nullptr) {
    EXPECT_EQ(active_isa(), detail::best_isa());
  }
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::neon}) {
    if (asked != nullptr && isa_name(isa) == asked && detail::has_isa(isa)) {
      EXPECT_EQ(active_isa(), isa);
    }
  }
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
