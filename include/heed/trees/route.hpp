#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include "heed/core/context.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed {

/// What a token is to a tree: keys may have one coordinate more than queries (TreeLift).
enum class TokenRole { query, key };

namespace detail {

/// Entries of a plane as the kernels read it: whole vectors of every instruction set.
inline Index padded_width(Index d) { return (d + 15) / 16 * 16; }

/// The planes and biases of one call. Views the tree, or a frame.
template <class T>
struct Router {
  const T* planes = nullptr;  // nodes x stride, padded with zeros
  Index stride = 0;
  const T* biases = nullptr;
  const T* lift = nullptr;  // null: none
  T radius = 0;
  Index height = 0;
  Index d = 0;

  Index n_nodes() const { return (Index(1) << height) - 1; }
};

template <class T>
double route_flops(const Router<T>& router, Index n_tokens) {
  const Index width = router.d + (router.lift != nullptr ? 1 : 0);
  return 2.0 * static_cast<double>(n_tokens) * static_cast<double>(router.height) * static_cast<double>(width);
}

/// Rows to be routed.
template <class T, class S>
struct RouteJob {
  const Router<T>* router = nullptr;
  ConstView<S> tokens;
  Index n_tokens = 0;  // the first of them
  TokenRole role = TokenRole::query;
  Index* leaf = nullptr;
};

constexpr Index route_rows = 128;  // a task: short enough to share out, and its rows stay in L1 for all levels

/// Scratch of one thread: rows as the kernel reads them.
template <class T>
struct RouteScratch {
  RouteScratch(Scratch& scratch, Index d) : rows(scratch.take<T>(route_rows * d)), extra(scratch.take<T>(route_rows)) {}
  T* rows;
  T* extra;
};

/// Calls run(kernels, data, row_stride) on rows [first, first + n), in place or as a copy in `scratch`.
template <class T, class S, class Run>
void with_rows(const ConstView<S>& tokens, Index first, Index n, const RouteScratch<T>& scratch, const Run& run) {
  const Isa isa = active_isa();
  const auto* data = kernel_pointer(tokens.data) + first * tokens.row_stride;
  if (tokens.col_stride == 1) {
    run(route_kernels<T, KernelScalar<S>>(isa), data, tokens.row_stride);
    return;
  }
  storage_kernels<T, KernelScalar<S>>(isa).gather(data, tokens.row_stride, tokens.col_stride, nullptr, n, tokens.cols,
                                                  scratch.rows, tokens.cols);
  run(route_kernels<T, T>(isa), scratch.rows, tokens.cols);
}

/// sqrt(radius^2 - ||k||^2) of n keys, 0 for a longer one.
template <class T, class S>
void lift_rows(const ConstView<S>& keys, Index first, Index n, T radius, T* extra) {
  for (Index j = 0; j < n; ++j) {
    T rest = radius * radius;
    for (Index c = 0; c < keys.cols; ++c) {
      const T x = static_cast<T>(keys(first + j, c));
      rest -= x * x;
    }
    extra[j] = rest > 0 ? std::sqrt(rest) : T(0);
  }
}

/// Threads worth waking for routing: one for about ten microseconds of it.
inline int route_threads(double flops, int threads) {
  return static_cast<int>(std::clamp(flops / 2e5, 1.0, static_cast<double>(threads)));
}

/// Routes the tokens of all jobs. They share a width.
template <class T, class S>
void route_all(std::span<const RouteJob<T, S>> jobs, Workspace::Frame& frame, int threads) {
  Index n_tasks = 0;
  double flops = 0;
  for (const RouteJob<T, S>& job : jobs) {
    n_tasks += (job.n_tokens + route_rows - 1) / route_rows;
    flops += route_flops(*job.router, job.n_tokens);
  }
  threads = route_threads(flops, threads);
  Scratch measure;
  const Index width = jobs.front().tokens.cols;
  RouteScratch<T>(measure, width);
  std::byte* memory = frame.template take<std::byte>(measure.used() * static_cast<std::size_t>(threads));
  parallel_tasks(n_tasks, threads, [&](int thread) {
    Scratch block(memory + measure.used() * static_cast<std::size_t>(thread));
    return [jobs, scratch = RouteScratch<T>(block, width)](Index task) {
      const RouteJob<T, S>* job = jobs.data();
      for (Index own = 0; task >= (own = (job->n_tokens + route_rows - 1) / route_rows); ++job) task -= own;
      const Router<T>& router = *job->router;
      const Index first = task * route_rows, n = std::min(route_rows, job->n_tokens - first);
      const bool lifts = router.lift != nullptr && job->role == TokenRole::key;
      if (lifts) lift_rows(job->tokens, first, n, router.radius, scratch.extra);
      with_rows(job->tokens, first, n, scratch, [&](const auto& kernels, const auto* rows, Index stride) {
        kernels.route(rows, stride, n, router.d, router.planes, router.stride, router.biases,
                      lifts ? router.lift : nullptr, scratch.extra, router.height, job->leaf + first);
      });
    };
  });
}

/// Biases under which every node of `router` sends half of those of the first n_real `keys` that reach it to each child, the
/// larger half to the second where they are odd, all equal products to one side. NaN products count as the least number.
/// `counts`: n_real flags, false for keys that do not count; null: all do.
template <class T, class S>
const T* median_biases(const Router<T>& router, const ConstView<S>& keys, Index n_real, const bool* counts,
                       Workspace::Frame& frame, int threads) {
  const Index n_nodes = router.n_nodes();
  T* biases = frame.take<T>(n_nodes);
  Index* node = frame.take<Index>(n_real);
  Index* end = frame.take<Index>(n_nodes + 1);
  T* z = frame.take<T>(n_real);
  T* sorted = frame.take<T>(n_real);
  threads =
      route_threads(route_flops(router, n_real) / static_cast<double>(std::max<Index>(1, router.height)), threads);
  Scratch measure;
  RouteScratch<T>(measure, keys.cols);
  std::byte* memory = frame.template take<std::byte>(measure.used() * static_cast<std::size_t>(threads));
  std::fill_n(node, n_real, Index(0));
  std::fill_n(biases, n_nodes, T(0));
  for (Index level = 0; level < router.height; ++level) {
    parallel_tasks((n_real + route_rows - 1) / route_rows, threads, [&](int thread) {
      Scratch block(memory + measure.used() * static_cast<std::size_t>(thread));
      return [=, &router, &keys, scratch = RouteScratch<T>(block, keys.cols)](Index task) {
        const Index first = task * route_rows, n = std::min(route_rows, n_real - first);
        with_rows(keys, first, n, scratch, [&](const auto& kernels, const auto* rows, Index stride) {
          kernels.project(rows, stride, n, router.d, router.planes, router.stride, node + first, z + first);
        });
        if (router.lift != nullptr) lift_rows(keys, first, n, router.radius, scratch.extra);
        for (Index j = 0; j < n; ++j) {
          T& product = z[first + j];
          if (router.lift != nullptr) product += router.lift[node[first + j]] * scratch.extra[j];
          // No order holds NaN, and minus an infinite median would be no bias.
          if (!is_finite(product)) product = std::numeric_limits<T>::lowest();
        }
      };
    });
    const Index first_node = (Index(1) << level) - 1, n_here = Index(1) << level;
    std::fill_n(end, n_here + 1, Index(0));  // counting sort of the products by node
    Index n_counted = 0;
    for (Index j = 0; j < n_real; ++j) {
      if (counts != nullptr && !counts[j]) continue;
      ++end[node[j] - first_node + 1];
      ++n_counted;
    }
    for (Index v = 0; v < n_here; ++v) end[v + 1] += end[v];
    for (Index j = n_real - 1; j >= 0; --j) {
      if (counts == nullptr || counts[j]) sorted[--end[node[j] - first_node + 1]] = z[j];
    }
    for (Index v = 0; v < n_here; ++v) {  // end[v + 1] is now where node v begins
      T* begin = sorted + end[v + 1];
      T* stop = sorted + (v + 2 <= n_here ? end[v + 2] : n_counted);
      if (begin == stop) continue;
      T* middle = begin + (stop - begin) / 2;
      std::nth_element(begin, middle, stop);
      biases[first_node + v] = *middle == std::numeric_limits<T>::lowest() ? T(0) : -*middle;
    }
    for (Index j = 0; j < n_real; ++j) {
      const bool second = z[j] + biases[node[j]] >= 0;
      node[j] = 2 * node[j] + (second ? 2 : 1);
    }
  }
  return biases;
}

}  // namespace detail
}  // namespace heed
