#include <algorithm>
#include <array>
#include <cstdlib>
#include <iostream>
#include <string_view>

#include <gtest/gtest.h>

#include "heed/core/errors.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/version.hpp"

namespace {

constexpr int skipped = 77;  // what ctest's SKIP_RETURN_CODE expects

constexpr std::array<std::string_view, 5> isa_names = {"baseline", "avx2", "avx512", "avx512_bf16", "neon"};

// Asked of the compiler's own CPU test, not of heed: a broken choice of kernels must fail here, not be skipped.
bool machine_has(std::string_view isa) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (isa == "avx2") return avx2;
  if (isa == "avx512") return avx512;
  if (isa == "avx512_bf16") return avx512 && __builtin_cpu_supports("avx512bf16");
#elif defined(__aarch64__)
  if (isa == "neon") return true;
#endif
  return isa == "baseline";
}

}  // namespace

// One process runs one kernel instance, the one HEED_ISA names (without it: the best the machine has).
int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const char* const asked = std::getenv("HEED_ISA");
  std::string_view active = "no";
  try {
    active = heed::isa_name(heed::active_isa());
  } catch (const heed::OptionError& error) {
    std::cout << error.what() << std::endl;
  }
  std::cout << "heed " << HEED_VERSION_MAJOR << '.' << HEED_VERSION_MINOR << '.' << HEED_VERSION_PATCH << ", " << active
            << " kernels" << std::endl;

  const std::string_view wanted = asked == nullptr || *asked == '\0' ? active : asked;
  if (std::find(isa_names.begin(), isa_names.end(), wanted) == isa_names.end()) {
    std::cout << "FAILED: HEED_ISA=" << wanted << " must be baseline, avx2, avx512, avx512_bf16 or neon" << std::endl;
    return 1;
  }
  if (wanted != active && machine_has(wanted)) {
    std::cout << "FAILED: HEED_ISA=" << wanted << " was asked for and this machine has it" << std::endl;
    return 1;
  }
  if (wanted != active) {
    std::cout << "skipped: this machine has no " << wanted << std::endl;
    return skipped;
  }

  const int failed = RUN_ALL_TESTS();
  if (testing::UnitTest::GetInstance()->test_to_run_count() == 0) {
    std::cout << "FAILED: the filter left no test to run" << std::endl;
    return 1;
  }
  return failed;
}
