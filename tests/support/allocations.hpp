#pragma once
#include <cstdint>
#include <new>

namespace heed::test {

/// False where allocations cannot be counted (a sanitizer owns malloc): the tests that ask skip themselves.
bool counts_allocations();

/// Calls of malloc and its relatives (operator new and Eigen end there) by all threads since the program started.
std::uint64_t allocations();

/// While it lives one allocation of this thread fails, once `after` others have been made: malloc returns null, new
/// throws.
class AllocationFailure {
 public:
  explicit AllocationFailure(std::int64_t after);
  AllocationFailure(const AllocationFailure&) = delete;
  ~AllocationFailure();
};

/// Runs work() again and again, the first, the second, ... of its allocations failing, and check() after each
/// std::bad_alloc, until one run fails no more. Returns how many failed.
template <class Work, class Check>
int with_each_allocation_failing(const Work& work, const Check& check) {
  for (int failed = 0;; ++failed) {
    try {
      const AllocationFailure failure(failed);
      work();
      return failed;
    } catch (const std::bad_alloc&) {
    }
    check();
  }
}

}  // namespace heed::test
