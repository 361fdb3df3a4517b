#pragma once
#include <algorithm>
#include <cstddef>
#include <new>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

namespace heed::detail {

/// Threads worth waking for `work`, at least one and at most `most`: one for each `work_of_a_thread`.
inline int threads_for(double work, double work_of_a_thread, int most) {
  return static_cast<int>(std::clamp(work / work_of_a_thread, 1.0, static_cast<double>(most)));
}

/// Runs body(worker, task) for task = 0 .. n_tasks - 1 on up to `threads` threads. Each thread has a worker of its
/// own, made by make_worker(scratch); workers and what they take live in the frame, never on the stack. Tasks start
/// in order.
template <class MakeWorker, class Body>
void for_each_task(Index n_tasks, int threads, Workspace::Frame& frame, const MakeWorker& make_worker,
                   const Body& body) {
  using Worker = std::remove_cvref_t<decltype(make_worker(std::declval<Scratch&>()))>;
  static_assert(std::is_trivially_destructible_v<Worker>);
  if (n_tasks <= 0) return;
  threads = static_cast<int>(std::min<Index>(threads, n_tasks));
  Scratch measure;
  measure.take<Worker>(1);
  make_worker(measure);
  std::byte* memory = frame.take<std::byte>(static_cast<Index>(measure.used()) * threads);
  parallel_tasks(n_tasks, threads, [&](int thread) {
    Scratch scratch(memory + measure.used() * static_cast<std::size_t>(thread));
    Worker* worker = scratch.take<Worker>(1);
    new (worker) Worker(make_worker(scratch));
    return [&body, worker](Index task) { body(*worker, task); };
  });
}

/// The same for tasks that need no worker: body(task).
template <class Body>
void for_each_task(Index n_tasks, int threads, const Body& body) {
  parallel_tasks(n_tasks, threads, [&](int) { return [&body](Index task) { body(task); }; });
}

}  // namespace heed::detail
