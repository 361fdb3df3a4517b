#pragma once
#include <atomic>
#include <exception>
#include <optional>

#include "heed/core/errors.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace heed {

/// What a call may use besides its operands. Nothing here changes a result.
///
/// A process that has run a call on several threads and then forks has a child in which such a call waits for ever: the
/// threads that OpenMP keeps do not live on in it. In such a child calls with threads = 1 work, and so does everything
/// after an exec.
struct Context {
  FlopCounter* flops = nullptr;    ///< counts this call; off by default
  Workspace* workspace = nullptr;  ///< scratch to reuse; default: allocated and freed by the call
  Index threads = 0;  ///< >= 0; 0: OpenMP's maximum, and 1 inside an active parallel region; 1 without OpenMP
};

namespace detail {

/// A context that has a workspace: the caller's, or one that lives as long as this does.
class WithWorkspace {
 public:
  explicit WithWorkspace(const Context& context) : context_(context) {
    if (context_.workspace == nullptr) context_.workspace = &own_.emplace();
  }
  WithWorkspace(const WithWorkspace&) = delete;
  const Context& context() const { return context_; }
  Workspace& workspace() const { return *context_.workspace; }

 private:
  std::optional<Workspace> own_;
  Context context_;
};

inline void check_context(const Context& context) {
  if (context.threads < 0) {
    throw OptionError(message("Context::threads = ", context.threads, " must be >= 0 (0: OpenMP's own maximum)"));
  }
}

/// Threads a call runs on, which has checked its context. Eigen's global thread count is never touched.
inline int thread_count(Index asked) {
#ifdef _OPENMP
  if (asked > 0) return static_cast<int>(asked < 1024 ? asked : 1024);
  return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
  (void)asked;
  return 1;
#endif
}

/// Runs worker(task) for task = 0 .. n_tasks - 1 on up to `threads` threads; each thread makes its own worker by
/// make_worker(thread), thread < threads. Tasks start in order. The first exception is rethrown when all threads are
/// done. The thread's number and the region stand in one function, so that it is consistent with itself in a program
/// whose translation units differ in -fopenmp.
template <class MakeWorker>
void parallel_tasks(Index n_tasks, int threads, const MakeWorker& make_worker) {
  std::exception_ptr failure;
  const auto work = [&](int thread, auto&& next) {
    try {
      auto worker = make_worker(thread);
      for (Index task = next(); task < n_tasks; task = next()) worker(task);
    } catch (...) {
      return std::current_exception();
    }
    return std::exception_ptr();
  };
#ifdef _OPENMP
  if (threads > 1 && n_tasks > 1) {
    std::atomic<Index> started{0};
#pragma omp parallel num_threads(threads)
    {
      const std::exception_ptr mine =
          work(omp_get_thread_num(), [&] { return started.fetch_add(1, std::memory_order_relaxed); });
      if (mine) {
#pragma omp critical(heed_failure)
        failure = mine;
      }
    }
    if (failure) std::rethrow_exception(failure);
    return;
  }
#endif
  (void)threads;
  Index started = 0;
  failure = work(0, [&] { return started++; });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace detail
}  // namespace heed
