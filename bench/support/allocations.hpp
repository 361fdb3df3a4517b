#pragma once
#include <cstddef>
#include <cstdint>

namespace heed_bench {

/// Heap use of the whole process, as malloc and its relatives see it (operator new and Eigen call them). Counting
/// replaces malloc in programs on glibc; elsewhere, and under a sanitizer, `counted` is false and all figures are 0.
struct Allocations {
  std::uint64_t calls = 0;     ///< allocations so far
  std::size_t live_bytes = 0;  ///< allocated and not yet freed, as the allocator rounds them
  std::size_t peak_bytes = 0;  ///< highest live_bytes since the last reset_peak()
  bool counted = false;
};

Allocations allocations();

/// Starts a new high-water mark at the present live_bytes.
void reset_peak();

/// Highest resident set of the process so far, in bytes (VmHWM), and a fresh start of it where the kernel allows one.
std::size_t resident_peak_bytes();
std::size_t resident_bytes();
bool reset_resident_peak();

}  // namespace heed_bench
