#pragma once
#include <functional>
#include <string>
#include <vector>

#include <heed/heed.hpp>

namespace before_after {

/// One thing to time. `prepare` makes the operands and returns the call; they live as long as it does.
struct Case {
  std::string name;
  std::function<std::function<void()>()> prepare;
};

/// Calls use `threads` threads (0: as many as OpenMP gives).
std::vector<Case> all_cases(heed::Index threads);

}  // namespace before_after
