#include "support/allocations.hpp"

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define HEED_BENCH_SANITIZED
#endif
#endif
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    !defined(HEED_BENCH_SANITIZED)
#define HEED_BENCH_COUNTS_ALLOCATIONS
#include <malloc.h>
#endif

namespace heed_bench {
namespace {

std::atomic<std::uint64_t> calls{0};
std::atomic<std::size_t> live{0};
std::atomic<std::size_t> peak{0};

std::size_t status_bytes(const char* name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind(name, 0) == 0) return std::stoull(line.substr(std::strlen(name))) * 1024;
  return 0;
}

#if defined(HEED_BENCH_COUNTS_ALLOCATIONS)
void* note(void* memory) {
  if (memory == nullptr) return nullptr;
  calls.fetch_add(1, std::memory_order_relaxed);
  const std::size_t size = malloc_usable_size(memory);
  const std::size_t now = live.fetch_add(size, std::memory_order_relaxed) + size;
  std::size_t seen = peak.load(std::memory_order_relaxed);
  while (seen < now && !peak.compare_exchange_weak(seen, now, std::memory_order_relaxed)) {
  }
  return memory;
}

void forget(void* memory) {
  if (memory != nullptr) live.fetch_sub(malloc_usable_size(memory), std::memory_order_relaxed);
}
#endif

}  // namespace

Allocations allocations() {
#if defined(HEED_BENCH_COUNTS_ALLOCATIONS)
  return {calls.load(), live.load(), peak.load(), true};
#else
  return {};
#endif
}

void reset_peak() { peak.store(live.load()); }

std::size_t resident_peak_bytes() { return status_bytes("VmHWM:"); }
std::size_t resident_bytes() { return status_bytes("VmRSS:"); }

bool reset_resident_peak() {
  std::ofstream clear("/proc/self/clear_refs");
  return static_cast<bool>(clear << "5" << std::flush);  // 5: reset the peak resident set
}

}  // namespace heed_bench

#if defined(HEED_BENCH_COUNTS_ALLOCATIONS)
// glibc lets a program define malloc itself and offers the originals under these names.
extern "C" {
void* __libc_malloc(std::size_t) noexcept;                 // NOLINT(bugprone-reserved-identifier)
void* __libc_calloc(std::size_t, std::size_t) noexcept;    // NOLINT(bugprone-reserved-identifier)
void* __libc_realloc(void*, std::size_t) noexcept;         // NOLINT(bugprone-reserved-identifier)
void* __libc_memalign(std::size_t, std::size_t) noexcept;  // NOLINT(bugprone-reserved-identifier)
void __libc_free(void*) noexcept;                          // NOLINT(bugprone-reserved-identifier)

void* malloc(std::size_t size) noexcept { return heed_bench::note(__libc_malloc(size)); }
void* calloc(std::size_t count, std::size_t size) noexcept { return heed_bench::note(__libc_calloc(count, size)); }
void* realloc(void* old, std::size_t size) noexcept {
  heed_bench::forget(old);  // after a realloc that fails the count is too low, but then the program is about to end
  return heed_bench::note(__libc_realloc(old, size));
}
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  return heed_bench::note(__libc_memalign(alignment, size));
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  return heed_bench::note(__libc_memalign(alignment, size));
}
int posix_memalign(void** out, std::size_t alignment, std::size_t size) noexcept {
  void* memory = heed_bench::note(__libc_memalign(alignment, size));
  if (memory == nullptr) return ENOMEM;
  *out = memory;
  return 0;
}
void free(void* memory) noexcept {
  heed_bench::forget(memory);
  __libc_free(memory);
}
}
#endif
