#pragma once
#include <cstdint>

namespace heed::test {

/// False where allocations cannot be counted (a sanitizer owns malloc): the tests that ask skip themselves.
bool counts_allocations();

/// Calls of malloc and its relatives (operator new and Eigen end there) by all threads since the program started.
std::uint64_t allocations();

}  // namespace heed::test
