// Gradients of TF-attention in turn with those of exact attention. See bench/README.md.
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <heed/heed.hpp>

#include "support/gradient_oracle.hpp"
#include "support/heads.hpp"
#include "support/timing.hpp"
#include "support/tree_case.hpp"

namespace heed_bench {
namespace {

using heed::Index;
using heed::RoutingGradient;
using Rows = heed::Matrix<float>;

/// The rows of a matrix that a list names.
Rows rows_of(const Rows& all, const std::vector<Index>& list) {
  Rows some(static_cast<Index>(list.size()), all.cols());
  for (std::size_t t = 0; t < list.size(); ++t) some.row(static_cast<Index>(t)) = all.row(list[t]);
  return some;
}

/// Error of gradients inside one leaf, that of the first key: without a gradient of routing it is exact attention of
/// the leaf's own queries and keys.
template <class Gradients>
double error_of_a_leaf(const PackedHeads<float>& head, const Rows& d_out, const Gradients& grads,
                       const heed::DecisionTree<float>& tree) {
  const auto query_leaf = tree.leaf_of(head.q), key_leaf = tree.leaf_of_keys(head.k);
  std::vector<Index> queries, keys;
  for (Index i = 0; i < head.n_q; ++i) {
    if (query_leaf(i) == key_leaf(0)) queries.push_back(i);
    if (key_leaf(i) == key_leaf(0)) keys.push_back(i);
  }
  const Rows in[] = {rows_of(d_out, queries), rows_of(head.q, queries), rows_of(head.k, keys), rows_of(head.v, keys)};
  const Rows got[] = {rows_of(grads.d_q, queries), rows_of(grads.d_k, keys), rows_of(grads.d_v, keys)};
  const auto rows = [&](const Rows& m) { return HeadRows<float>{m.data(), head.d}; };
  return gradient_error(rows(in[0]), rows(in[1]), rows(in[2]), rows(in[3]), rows(got[0]), rows(got[1]), rows(got[2]),
                        in[1].rows(), in[2].rows(), head.d, [](auto, auto, double s) { return s; });
}

/// In turn with exact gradients of so few of the last queries that a call stays short; their time and products are
/// scaled to all queries by kept pairs.
void tf_backward(benchmark::State& state, const TreeCase& one, RoutingGradient routing) {
  const PackedHeads<float> head(one.n, one.n, one.d, 1);
  const Rows d_out = PackedHeads<float>(one.n, 1, one.d, 1, 9).q;
  const auto tree = balanced_tree(head, one.height());
  const heed::TfAttention<float> method{tree};
  const heed::BackwardOptions options{.routing = routing};
  const auto result = heed::attend(head.q, head.k, head.v, {}, method);
  auto grads = heed::attend_backward(d_out, head.q, head.k, head.v, result, {}, method, {}, options);
  heed::Workspace workspace, of_exact;
  heed::FlopCounter flops;
  const auto backward = [&](heed::FlopCounter* counter) {
    heed::attend_backward_into(grads, d_out, head.q, head.k, head.v, result.out, result.lse, {}, method,
                               {.flops = counter, .workspace = &workspace, .threads = one.threads}, options);
  };
  backward(&flops);

  const Index n_slice = std::min<Index>(one.n, (Index(1) << 24) / one.n);
  const Rows q = head.q.bottomRows(n_slice), d_slice = d_out.bottomRows(n_slice);
  const auto exact = heed::attend(q, head.k, head.v);
  auto exact_grads = heed::attend_backward(d_slice, q, head.k, head.v, exact);
  const Timing timing = time_against(
      state, [&] { backward(nullptr); },
      [&] {
        heed::attend_backward_into(exact_grads, d_slice, q, head.k, head.v, exact.out, exact.lse, {},
                                   heed::ExactAttention{}, {.workspace = &of_exact, .threads = one.threads});
      });
  const double scale = double(one.n) / double(n_slice), exact_flops = 10 * one.pairs() * double(one.d);
  const double fewer = exact_flops / flops.products(), times = scale * timing.baseline_median / timing.median;
  state.counters["GFLOP/s"] = flops.products() / timing.median * 1e-9;
  state.counters["flops_fewer"] = fewer;
  state.counters["times_exact"] = times;
  state.counters["kept_share"] = times / fewer;
  state.counters["allocs"] = timing.allocations;
  if (routing == RoutingGradient::none) state.counters["error"] = error_of_a_leaf(head, d_out, grads, tree);
}

const bool registered = [] {
  const struct {
    const char* name;
    RoutingGradient routing;
  } kinds[] = {{"none", RoutingGradient::none}, {"flip", RoutingGradient::flip}, {"all", RoutingGradient::all_leaves}};
  for (const int threads : {1, 2}) {
    for (const Index n : {2048, 4096, 16384}) {
      for (const Index leaf : {64, 256}) {
        for (const auto& kind : kinds) {
          const TreeCase one{n, leaf, false, threads};
          add(std::string("tf_backward/routing:") + kind.name + text(one),
              [=](benchmark::State& state) { tf_backward(state, one, kind.routing); });
        }
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace heed_bench
