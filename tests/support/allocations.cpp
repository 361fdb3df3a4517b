#include "support/allocations.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define HEED_TEST_SANITIZED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HEED_TEST_SANITIZED
#endif

namespace heed::test {
namespace {

std::atomic<std::uint64_t> allocation_count{0};
thread_local std::int64_t until_failure = -1;  // allocations of this thread before one that fails; negative: none does

}  // namespace

#if defined(HEED_TEST_SANITIZED)
bool counts_allocations() { return false; }
#else
bool counts_allocations() { return true; }
#endif

std::uint64_t allocations() { return allocation_count.load(); }

AllocationFailure::AllocationFailure(std::int64_t after) { until_failure = after; }
AllocationFailure::~AllocationFailure() { until_failure = -1; }

}  // namespace heed::test

#if !defined(HEED_TEST_SANITIZED)
namespace {
// False where the allocation is to fail.
bool note_allocation() {
  heed::test::allocation_count.fetch_add(1, std::memory_order_relaxed);
  return heed::test::until_failure < 0 || heed::test::until_failure-- > 0;
}
}  // namespace

#if defined(__GLIBC__)
// glibc lets a program define malloc itself and keeps the originals under these names.
extern "C" {
void* __libc_malloc(std::size_t) noexcept;                 // NOLINT(bugprone-reserved-identifier)
void* __libc_calloc(std::size_t, std::size_t) noexcept;    // NOLINT(bugprone-reserved-identifier)
void* __libc_realloc(void*, std::size_t) noexcept;         // NOLINT(bugprone-reserved-identifier)
void* __libc_memalign(std::size_t, std::size_t) noexcept;  // NOLINT(bugprone-reserved-identifier)
void __libc_free(void*) noexcept;                          // NOLINT(bugprone-reserved-identifier)

void* malloc(std::size_t size) noexcept {
  if (!note_allocation()) return nullptr;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) noexcept {
  if (!note_allocation()) return nullptr;
  return __libc_calloc(count, size);
}
void* realloc(void* old, std::size_t size) noexcept {
  if (!note_allocation()) return nullptr;
  return __libc_realloc(old, size);
}
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  if (!note_allocation()) return nullptr;
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  if (!note_allocation()) return nullptr;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** out, std::size_t alignment, std::size_t size) noexcept {
  void* const memory = note_allocation() ? __libc_memalign(alignment, size) : nullptr;
  if (memory == nullptr) return ENOMEM;
  *out = memory;
  return 0;
}
void free(void* memory) noexcept { __libc_free(memory); }
}
#else
// Elsewhere only operator new is seen: the plain and the aligned form, which the others call.
void* operator new(std::size_t size) {
  if (note_allocation()) {
    if (void* const memory = std::malloc(size)) return memory;
  }
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif
#endif
