#pragma once
#include <cstddef>
#include <string>

#include <benchmark/benchmark.h>

#include "heed/core/types.hpp"
#include "heed/trees/decision_tree.hpp"
#include "support/heads.hpp"
#include "support/inputs.hpp"

namespace heed_bench {

/// One timed call of tree attention: one head of n tokens, leaves of about `leaf` keys.
struct TreeCase {
  heed::Index n = 0;
  heed::Index leaf = 256;
  bool causal = false;
  int threads = 1;
  heed::Index d = 64;

  [[nodiscard]] heed::Index height() const {
    heed::Index h = 0;
    while ((leaf << (h + 1)) <= n) ++h;
    return h;
  }
  [[nodiscard]] double pairs() const { return double(n) * double(causal ? n + 1 : 2 * n) / 2; }
};

/// A tree that spreads the keys of one head evenly: random planes, biases at the medians.
inline heed::DecisionTree<float> balanced_tree(const PackedHeads<float>& head, heed::Index height) {
  const heed::Index n_nodes = (heed::Index(1) << height) - 1;
  heed::Matrix<float> planes(n_nodes, head.d);
  fill_random({planes.data(), static_cast<std::size_t>(planes.size())}, 99);
  const heed::DecisionTree<float> tree(planes, heed::Vector<float>::Zero(n_nodes).eval(),
                                       {.biases = heed::TreeBiases::key_medians});
  return tree.with_biases_of(head.k);
}

/// Registers a body under a name; its time is the one it sets.
template <class Body>
void add(const std::string& name, const Body& body) {
  benchmark::RegisterBenchmark(name.c_str(), body)->UseManualTime()->Unit(benchmark::kMillisecond);
}

inline std::string text(const TreeCase& one) {
  return std::string(one.causal ? "/causal" : "/none") + "/n:" + std::to_string(one.n) +
         "/leaf:" + std::to_string(one.leaf) + "/threads:" + std::to_string(one.threads);
}

}  // namespace heed_bench
