// A sparse pattern of your own in a few lines: which queries see which keys, written as tiles. It runs through the same
// engine as everything else, under every mask: on its own, as a method, or united with other patterns.
#include <cstdio>
#include <vector>

#include <Eigen/Core>

#include <heed/heed.hpp>

using heed::Index;

/// Strided attention: query i sees every stride-th key, those with j % stride == i % stride.
class StridedPattern {
 public:
  StridedPattern(Index n_q, Index n_k, Index stride) : stride_(stride) {
    for (Index first = 0; first < stride; ++first) {
      for (Index i = first; i < n_q; i += stride) queries_.push_back(i);
      query_end_.push_back(static_cast<Index>(queries_.size()));
      for (Index j = first; j < n_k; j += stride) keys_.push_back(j);
      key_end_.push_back(static_cast<Index>(keys_.size()));
    }
  }

  // The four functions of a KeyPattern. A TokenSet is a range {first, size} or, as here, part of a sorted list.
  Index n_groups() const { return stride_; }
  heed::TokenSet queries(Index group) const { return part(queries_, query_end_, group); }
  Index n_segments(Index) const { return 1; }
  heed::TokenSet keys(Index group, Index) const { return part(keys_, key_end_, group); }

 private:
  static heed::TokenSet part(const std::vector<Index>& list, const std::vector<Index>& end, Index group) {
    const auto g = static_cast<std::size_t>(group);
    const Index first = group == 0 ? 0 : end[g - 1];
    return {0, end[g] - first, list.data() + first};
  }

  Index stride_;
  std::vector<Index> queries_, keys_, query_end_, key_end_;
};

/// The last few keys, by a rule: the one tile holds every pair, and `sees` keeps those that are meant.
struct LastKeys {
  static constexpr bool refines = true;
  Index n_q, n_k, width;

  Index n_groups() const { return 1; }
  heed::TokenSet queries(Index) const { return {0, n_q}; }
  Index n_segments(Index) const { return 1; }
  heed::TokenSet keys(Index, Index) const { return {0, n_k}; }
  bool sees(Index i, Index j) const { return j <= i && i - j < width; }
};

int main() {
  const Index n = 400, d = 32, stride = 16, width = 10;
  const Eigen::MatrixXf q = Eigen::MatrixXf::Random(n, d), k = Eigen::MatrixXf::Random(n, d),
                        v = Eigen::MatrixXf::Random(n, d);
  const heed::AttentionOptions causal{.mask = {.causal = heed::Causal::square}};

  // On its own.
  heed::FlopCounter flops;
  const auto strided = heed::attend_over(StridedPattern(n, n, stride), q, k, v, causal, {.flops = &flops});
  std::printf("strided: %.0f pairs of %.0f\n", flops.exponentials(), 0.5 * static_cast<double>(n * (n + 1)));

  // As a method, wherever one is taken: heads, caches, benchmarks.
  const heed::PatternAttention method{[=](Index n_q, Index n_k) { return StridedPattern(n_q, n_k, stride); }};
  const auto as_method = heed::attend(q, k, v, causal, method);

  // United with another pattern; pairs that both have count once.
  flops.reset();
  const auto united = heed::attend_over(heed::PatternUnion{StridedPattern(n, n, stride), LastKeys{n, n, width}}, q, k,
                                        v, causal, {.flops = &flops});

  // The same in the slow way: exact attention under a matrix of bool.
  Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> allowed(n, n);
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < n; ++j) allowed(i, j) = i % stride == j % stride || (j <= i && i - j < width);
  }
  heed::AttentionOptions by_matrix = causal;
  by_matrix.mask.allowed = allowed;
  heed::FlopCounter flops_by_matrix;
  const auto want = heed::attend(q, k, v, by_matrix, heed::ExactAttention{}, {.flops = &flops_by_matrix});
  const float difference = (united.out - want.out).cwiseAbs().maxCoeff();
  std::printf("united with the last %td keys: %.0f pairs, difference from a boolean mask %.1e\n", width,
              flops.exponentials(), difference);

  const bool good =
      strided.out == as_method.out && difference < 1e-5f && flops.exponentials() == flops_by_matrix.exponentials();
  return good ? 0 : 1;
}
