#pragma once
#include <algorithm>
#include <cstddef>
#include <limits>

#include "heed/core/context.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/trees/route.hpp"

namespace heed::detail {

/// A product as medians order it: the finite number that goes the same way as `product` under every bias they give. NaN
/// and -inf go to the first child and +inf to the second, whatever the bias.
template <class T>
T ordered_product(T product) {
  if (is_finite(product)) return product;
  return is_minus_infinity(-product) ? std::numeric_limits<T>::max() : std::numeric_limits<T>::lowest();
}

/// Minus the upper median of the products [first, last) of a node, which is not empty. The least number may stand for
/// one that no bias moves, so the least of the others takes its place; 0 where there is none.
template <class T>
T median_bias(T* first, T* last) {
  constexpr T least = std::numeric_limits<T>::lowest();
  T* middle = first + (last - first) / 2;
  std::nth_element(first, middle, last);
  if (*middle != least) return -*middle;
  T next = std::numeric_limits<T>::max();
  bool found = false;
  for (const T* product = middle; product != last; ++product) {
    if (*product == least) continue;
    next = std::min(next, *product);
    found = true;
  }
  return found ? -next : T(0);
}

/// Biases under which every node of `router` sends half of those of the first n_real `keys` that reach it to each
/// child, the larger half to the second where they are odd, all equal products to one side. Keys no bias can send to
/// the second child, those of NaN or -inf, go to the first also where they are more than half. `counts`: n_real flags,
/// false for keys that do not count; null: all do.
template <class T, class S>
const T* median_biases(const Router<T>& router, const ConstView<S>& keys, Index n_real, const bool* counts,
                       Workspace::Frame& frame, int threads) {
  const Index n_nodes = router.n_nodes();
  T* biases = frame.take<T>(n_nodes);
  Index* node = frame.take<Index>(n_real);
  Index* end = frame.take<Index>(n_nodes + 1);
  T* z = frame.take<T>(n_real);
  T* sorted = frame.take<T>(n_real);
  T* extra = router.lift == nullptr ? nullptr : frame.take<T>(padded_width(n_real));
  const double flops = route_flops(router, n_real, TokenRole::key);
  threads = route_threads(flops / static_cast<double>(std::max<Index>(1, router.height)), threads);
  std::fill_n(node, n_real, Index(0));
  std::fill_n(biases, n_nodes, T(0));
  for (Index level = 0; level < router.height; ++level) {
    Workspace::Frame inside = frame.nested();
    for_each_task((n_real + route_rows - 1) / route_rows, threads, inside,
                  [&](Scratch& scratch) { return RouteScratch<T>(scratch, keys.cols); },
                  [&](const RouteScratch<T>& scratch, Index task) {
                    const Index first = task * route_rows, n = std::min(route_rows, n_real - first);
                    if (extra != nullptr && level == 0) lift_rows(keys, first, n, router.radius, extra + first);
                    with_rows(keys, first, n, scratch, [&](const auto& kernels, const auto* rows, Index stride) {
                      kernels.project(rows, stride, n, router.d, router.planes, router.stride, router.lift,
                                      extra == nullptr ? nullptr : extra + first, node + first, z + first);
                    });
                    for (Index j = first; j < first + n; ++j) z[j] = ordered_product(z[j]);
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
      if (begin != stop) biases[first_node + v] = median_bias(begin, stop);
    }
    for (Index j = 0; j < n_real; ++j) {
      const bool second = z[j] + biases[node[j]] >= 0;
      node[j] = 2 * node[j] + (second ? 2 : 1);
    }
  }
  return biases;
}

}  // namespace heed::detail
