#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "heed/approx/bigbird_attention.hpp"
#include "heed/approx/pattern_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_over.hpp"
#include "heed/exact/reference.hpp"
#include "support/conformance.hpp"
#include "support/places.hpp"
#include "support/trees.hpp"

namespace heed::test {
namespace {

constexpr auto window = [](const auto&) { return WindowAttention(12, 4); };
constexpr auto whole_window = [](const auto&) { return WindowAttention(100000, 100000); };
constexpr auto in_window = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return pairs_where(in.q.rows(), in.k.rows(), options.mask,
                     [](const Place& p) { return p.key >= p.diagonal - 12 && p.key <= p.diagonal + 4; });
};
INSTANTIATE_METHOD_SUITE(WindowAttention,
                         {.make = window, .exact_when = whole_window, .keeps = in_window, .positional = true});

constexpr BigBirdOptions no_chance{.block = 8, .n_near = 1, .n_global = 2, .n_random = 0};
constexpr auto bigbird = [](const auto&) { return BigBirdAttention(no_chance); };
constexpr auto all_blocks = [](const auto&) { return BigBirdAttention({.block = 8, .n_random = 100000}); };
constexpr auto near_or_global = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return pairs_where(in.q.rows(), in.k.rows(), options.mask, [](const Place& p) {
    const Index mine = p.diagonal >= 0 ? p.diagonal / 8 : -((7 - p.diagonal) / 8), block = p.key / 8;
    return mine < 2 || block < 2 || std::abs(mine - block) <= 1;
  });
};
INSTANTIATE_METHOD_SUITE(BigBirdAttention,
                         {.make = bigbird, .exact_when = all_blocks, .keeps = near_or_global, .positional = true});

/// Which blocks of `size` keys each query sees, from its weights alone: 1 where every key of the block that the mask
/// keeps has one, 0 where none has; anything else is a mistake of the pattern.
Eigen::MatrixXi blocks_seen(const BigBirdOptions& options, const Mask& mask, Index n, Index size) {
  const auto in = random_inputs<double>({.n_q = n, .n_k = n, .d = 2, .d_v = 1});
  const Matrix<double> identity = Matrix<double>::Identity(n, n);
  const Matrix<double> weights = attend(in.q, in.k, identity, {.mask = mask}, BigBirdAttention(options)).out;
  Eigen::MatrixXi seen = Eigen::MatrixXi::Zero(n, (n + size - 1) / size);
  for (Index i = 0; i < n; ++i) {
    for (Index b = 0; b < seen.cols(); ++b) {
      Index n_seen = 0, n_kept = 0;
      for (Index j = b * size; j < std::min(n, (b + 1) * size); ++j) {
        n_seen += weights(i, j) > 0 ? 1 : 0;
        n_kept += heed::detail::reference_pair(mask, i, j, n, n, 0).kept ? 1 : 0;
      }
      EXPECT_TRUE(n_seen == 0 || n_seen == n_kept) << "query " << i << ", block " << b;
      seen(i, b) = n_seen > 0 ? 1 : 0;
    }
  }
  return seen;
}

TEST(BigBirdAttention, DrawsItsBlocksAnewForEachSeedAndBlockAndNeverTwice) {
  std::set<std::vector<int>> choices;
  for (const std::uint64_t seed : {1, 2}) {
    const auto seen = blocks_seen({.block = 4, .n_random = 5, .seed = seed}, {}, 400, 4);
    for (Index i = 0; i < 400; ++i) {
      const Index mine = i / 4;
      EXPECT_EQ(seen.row(i), seen.row(mine * 4)) << "queries of a block see the same blocks";
      if (mine < 2) {
        EXPECT_EQ(seen.row(i).sum(), 100) << "the first see all";
        continue;
      }
      for (const Index b : {Index(0), Index(1), mine - 1, mine, std::min<Index>(mine + 1, 99)})
        EXPECT_EQ(seen(i, b), 1);
      std::set<Index> fixed{0, 1, mine - 1, mine, std::min<Index>(mine + 1, 99)};
      EXPECT_EQ(seen.row(i).sum(), static_cast<int>(fixed.size()) + 5) << "five further ones";
      const Eigen::RowVectorXi row = seen.row(i);
      choices.insert({row.data(), row.data() + row.size()});
    }
  }
  EXPECT_GT(choices.size(), 190u);
}

TEST(BigBirdAttention, DrawsFromThePastWhereItIsCausal) {
  Mask mask;
  mask.causal = Causal::square;
  const auto seen = blocks_seen({.block = 4, .n_random = 5}, mask, 400, 4);
  for (Index i = 0; i < 400; ++i) {
    const Index mine = i / 4, free = std::max<Index>(0, mine - 3);  // neither global nor next to the query's
    EXPECT_EQ(seen.row(i).tail(99 - mine).sum(), 0);
    const Index fixed = std::min<Index>(mine + 1, mine >= 3 ? 4 : mine + 1);
    EXPECT_EQ(seen.row(i).sum(), fixed + std::min<Index>(5, free))
        << "query " << i << ": no draw is lost to the future";
  }
}

// Over seeds every free block comes equally often, and every two of them together.
TEST(BigBirdAttention, DrawsEveryFreeBlockEquallyOften) {
  constexpr int n_seeds = 3000, n_blocks = 12;
  Mask mask;
  for (const Causal causal : {Causal::none, Causal::square}) {
    mask.causal = causal;
    Eigen::MatrixXd together = Eigen::MatrixXd::Zero(n_blocks, n_blocks);
    const Index mine = 9;
    for (int seed = 0; seed < n_seeds; ++seed) {
      const BigBirdOptions options{
          .block = 2, .n_near = 1, .n_global = 1, .n_random = 3, .seed = static_cast<std::uint64_t>(seed)};
      const auto seen = blocks_seen(options, mask, 2 * n_blocks, 2);
      const Eigen::RowVectorXd row = seen.row(2 * mine).cast<double>();
      together += row.transpose() * row;
    }
    std::vector<Index> free;
    for (Index b = 1; b < (causal == Causal::none ? n_blocks : mine); ++b) {
      if (std::abs(b - mine) > 1) free.push_back(b);
    }
    const auto n_free = static_cast<double>(free.size());
    const double one = 3 / n_free, two = one * 2 / (n_free - 1);  // of 3 out of n_free
    for (const Index a : free) {
      EXPECT_NEAR(together(a, a), n_seeds * one, 5 * std::sqrt(n_seeds * one * (1 - one))) << "block " << a;
      for (const Index b : free) {
        if (b > a) {
          EXPECT_NEAR(together(a, b), n_seeds * two, 5 * std::sqrt(n_seeds * two * (1 - two))) << a << " and " << b;
        }
      }
    }
  }
}

TEST(BigBirdAttention, RefusesWhatIsNoNumberOfBlocks) {
  EXPECT_THROW(BigBirdAttention({.block = 0}), OptionError);
  EXPECT_THROW(BigBirdAttention({.n_near = -1}), OptionError);
  EXPECT_THROW(BigBirdAttention({.n_global = -1}), OptionError);
  EXPECT_THROW(BigBirdAttention({.n_random = -1}), OptionError);
  EXPECT_THROW(WindowAttention(-1), OptionError);
  EXPECT_THROW(WindowAttention(1, -1), OptionError);
}

/// Queries i with i % n_classes = c see the keys with j % (c + 2) = 0, by lists.
struct ClassPattern {
  Index n_classes;
  std::vector<std::vector<Index>> query_lists, key_lists;

  ClassPattern(Index classes, Index n_q, Index n_k) : n_classes(classes) {
    for (Index c = 0; c < classes; ++c) {
      query_lists.emplace_back();
      key_lists.emplace_back();
      for (Index i = c; i < n_q; i += classes) query_lists.back().push_back(i);
      for (Index j = 0; j < n_k; j += c + 2) key_lists.back().push_back(j);
    }
  }
  static TokenSet set_of(const std::vector<Index>& list) { return {0, static_cast<Index>(list.size()), list.data()}; }
  Index n_groups() const { return n_classes; }
  TokenSet queries(Index g) const { return set_of(query_lists[static_cast<std::size_t>(g)]); }
  Index n_segments(Index) const { return 1; }
  TokenSet keys(Index g, Index) const { return set_of(key_lists[static_cast<std::size_t>(g)]); }
  static bool has(Index classes, Index i, Index j) { return j % (i % classes + 2) == 0; }
};

/// Tiles that cover more than the pattern: keys before the query that are a multiple of 5 away.
struct FifthPattern {
  static constexpr bool refines = true;
  Index n_q, n_k;
  Index n_groups() const { return 1; }
  TokenSet queries(Index) const { return {0, n_q}; }
  Index n_segments(Index) const { return 1; }
  TokenSet keys(Index, Index) const { return {0, n_k}; }
  bool sees(Index i, Index j) const { return j <= i && (i - j) % 5 == 0; }
};

constexpr auto union_of_three = [](const auto&) {
  return PatternAttention{[](Index n_q, Index n_k) {
    return PatternUnion{PatternUnion{ClassPattern(3, n_q, n_k), FifthPattern{n_q, n_k}}, ClassPattern(4, n_q, n_k)};
  }};
};
constexpr auto in_one_of_three = []<class S>(const Inputs<S>& in, const AttentionOptions&) {
  PairMatrix pairs(in.q.rows(), in.k.rows());
  for (Index i = 0; i < pairs.rows(); ++i) {
    for (Index j = 0; j < pairs.cols(); ++j) {
      pairs(i, j) = ClassPattern::has(3, i, j) || (j <= i && (i - j) % 5 == 0) || ClassPattern::has(4, i, j);
    }
  }
  return pairs;
};
constexpr auto dense_twice = [](const auto&) {
  return PatternAttention{[](Index n_q, Index n_k) {
    return PatternUnion{DensePattern{n_q, n_k}, DensePattern{n_q, n_k}};
  }};
};
INSTANTIATE_METHOD_SUITE(PatternUnion, {.make = union_of_three,
                                        .exact_when = dense_twice,
                                        .keeps = in_one_of_three,
                                        .positional = true,
                                        .reuses_workspace = false});  // the patterns hold vectors

TEST(PatternUnion, RunsThroughAttendOver) {
  const auto in = random_inputs<double>({.n_q = 65, .n_k = 113, .d = 9, .d_v = 7});
  const PatternUnion both{ClassPattern(3, 65, 113), FifthPattern{65, 113}};
  PairMatrix allowed(65, 113);
  for (Index i = 0; i < 65; ++i) {
    for (Index j = 0; j < 113; ++j) allowed(i, j) = ClassPattern::has(3, i, j) || (j <= i && (i - j) % 5 == 0);
  }
  FlopCounter flops;
  const auto got = attend_over(both, in.q, in.k, in.v, {}, {.flops = &flops});
  const auto want = reference_attention(in.q, in.k, in.v, {.mask = {.allowed = allowed}});
  EXPECT_MATRIX_NEAR(got.out, want.out, 1e-14);
  EXPECT_MATRIX_NEAR(got.lse, want.lse, 1e-14);
  EXPECT_EQ(flops.exponentials(), static_cast<double>(allowed.count()));
  EXPECT_THROW(attend_over(PatternUnion{DensePattern{65, 113}, DensePattern{65, 114}}, in.q, in.k, in.v), OptionError);
}

}  // namespace
}  // namespace heed::test
