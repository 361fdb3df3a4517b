// Mask::keys in the methods that sum keys up: a call whose absent keys hold anything at all is the call without them.
#include <cstddef>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/linear_attention.hpp"
#include "heed/approx/linformer_attention.hpp"
#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/performer_attention.hpp"
#include "heed/approx/projected_values.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/batch_backward.hpp"
#include "heed/exact/importance.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/multi_head.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/method_case.hpp"
#include "support/option_kinds.hpp"
#include "support/trees.hpp"

namespace heed::test::absent_keys {
namespace {

using Mat = Matrix<double>;
using Row = OptionStore::BoolMatrix;

constexpr Index d = 9, d_v = 7;
/// Sums of some hundred numbers of size 1.
constexpr double close = 1e-13;

/// Rows of keys that are there: some, one, the first ones, none, all.
std::vector<Row> some_keys(Index n_k) {
  std::vector<Row> rows(5, Row::Constant(1, n_k, false));
  NumberStream numbers(17);
  for (Index j = 0; j < n_k; ++j) {
    rows[0](0, j) = numbers.uniform() < 0.5 && j % 29 < 20;
    rows[1](0, j) = j == n_k / 2;
    rows[2](0, j) = j < n_k / 3;
    rows[4](0, j) = true;
  }
  return rows;
}
std::vector<Index> present(const Row& keys) {
  std::vector<Index> list;
  for (Index j = 0; j < keys.cols(); ++j) {
    if (keys(0, j)) list.push_back(j);
  }
  return list;
}
/// Rows of keys that are not there, filled with what must not be read.
Mat spoiled(Mat rows, const Row& keys, double with) {
  for (Index j = 0; j < rows.rows(); ++j) {
    if (!keys(0, j)) fill(rows.row(j), with);
  }
  return rows;
}
void expect_rows(const Mat& got, const Mat& want, const Row& keys) {
  ASSERT_EQ(got.rows(), keys.cols());
  for (Index j = 0, at = 0; j < got.rows(); ++j) {
    if (keys(0, j)) {
      EXPECT_MATRIX_NEAR(got.row(j).eval(), want.row(at).eval(), close);
      ++at;
    } else {
      EXPECT_EQ(got.row(j).cwiseAbs().maxCoeff(), 0.0) << "absent key " << j;
    }
  }
}

/// Runs check(method for n_k keys, the same for those of a list) for all of them.
template <class Check>
void for_methods(Index n_k, const Check& check) {
  const auto alike = [&](const auto& method, const char* name) {
    SCOPED_TRACE(name);
    check(method, [&](const std::vector<Index>&) { return method; });
  };
  alike(LinearAttention(), "linear");
  alike(PerformerAttention<double>({.n_features = 21, .seed = 3}), "Performer");
  const Vector<double> logits = random_matrix<double>(4, 1, 5);
  const DecisionTree<double> tree = random_tree<double>(3, d);
  alike(TcAttention<double>(tree, logits), "TC");
  alike(TcAttention<double>(tree, logits, {.by_query = true}), "TC by query");
  const auto medians = random_tree<double>(3, d, 2, {.biases = TreeBiases::key_medians});
  alike(TcAttention<double>(medians, logits), "TC with medians");
  SCOPED_TRACE("Linformer");
  const Mat e = random_matrix<double>(13, n_k, 6), f = random_matrix<double>(13, n_k, 7);
  check(LinformerAttention<double>(e, f), [&](const std::vector<Index>& list) {
    return LinformerAttention<double>(e(Eigen::all, list).eval(), f(Eigen::all, list).eval());
  });
}

template <class Got, class Want>
void expect_same_parameters(const Got& got, const Want& want, const Row& keys) {
  if constexpr (requires { got.d_level_logits; }) {
    EXPECT_MATRIX_NEAR(got.d_level_logits, want.d_level_logits, close);
    EXPECT_MATRIX_NEAR(got.d_tree.planes, want.d_tree.planes, 10 * close);
  }
  if constexpr (requires { got.d_key_projection; }) {
    expect_rows(got.d_key_projection.transpose(), want.d_key_projection.transpose(), keys);
    expect_rows(got.d_value_projection.transpose(), want.d_value_projection.transpose(), keys);
  }
}

TEST(AbsentKeys, AreAsIfTheirRowsWereNeverThere) {
  const auto in = random_inputs<double>({.n_q = 113, .n_k = 203, .d = d, .d_v = d_v});
  const Mat d_out = random_matrix<double>(113, d_v, 77);
  for_methods(203, [&](const auto& method, const auto& method_of) {
    for (const Row& keys : some_keys(203)) {
      const std::vector<Index> list = present(keys);
      SCOPED_TRACE(std::to_string(list.size()) + " keys");
      const Mat k = spoiled(in.k, keys, nan_of<double>()), v = spoiled(in.v, keys, infinity_of<double>());
      const Mat own_k = in.k(list, Eigen::all), own_v = in.v(list, Eigen::all);
      const AttentionOptions options{.mask = {.keys = keys}};
      const auto without = method_of(list);
      FlopCounter flops, fewer;
      const auto want = attend(in.q, own_k, own_v, {}, without, {.flops = &fewer});
      const auto d_want = attend_backward(d_out, in.q, own_k, own_v, want, {}, without, {.flops = &fewer});
      const auto r = attend(in.q, k, v, options, method, {.flops = &flops, .threads = 1});
      const auto got = attend_backward(d_out, in.q, k, v, r, options, method, {.flops = &flops, .threads = 1});
      EXPECT_MATRIX_NEAR(r.out, want.out, close);
      EXPECT_MATRIX_NEAR(r.lse, want.lse, close);
      EXPECT_MATRIX_NEAR(got.d_q, d_want.d_q, close);
      expect_rows(got.d_k, d_want.d_k, keys);
      expect_rows(got.d_v, d_want.d_v, keys);
      expect_same_parameters(got, d_want, keys);
      EXPECT_EQ(flops.products(), fewer.products());
      EXPECT_EQ(flops.exponentials(), fewer.exponentials());
      const auto again = attend_backward(d_out, in.q, k, v, attend(in.q, k, v, options, method, {.threads = 3}),
                                         options, method, {.threads = 3});
      EXPECT_SAME_BITS(again.d_q, got.d_q);
      EXPECT_SAME_BITS(again.d_k, got.d_k);
      EXPECT_SAME_BITS(again.d_v, got.d_v);
    }
  });
}

/// Positions stay what they are, so that no call without the rows is the same: but what the rows hold is never seen.
TEST(AbsentKeys, MayHoldAnythingUnderCausalMasksAndPackedSequences) {
  const auto in = random_inputs<double>({.n_q = 113, .n_k = 203, .d = d, .d_v = d_v});
  const Mat d_out = random_matrix<double>(113, d_v, 77);
  const OptionStore store(113, 203);
  for_methods(203, [&](const auto& method, const auto&) {
    for (const char* name : {"top_left", "bottom_right", "sequences", "shifted", "padding"}) {
      SCOPED_TRACE(name);
      for (const Row& keys : some_keys(203)) {
        AttentionOptions options;
        for (const OptionKind& kind : option_kinds(store)) {
          if (kind.name == name) options = options_of(store, kind);
        }
        options.mask.keys = keys;
        const bool positions = options.mask.n_real_keys == Mask::unlimited;
        if constexpr (requires { method.key_projection(); }) {
          if (positions) continue;
        }
        if constexpr (requires { method.tree(); }) {
          if (positions && method.tree().bias_rule() == TreeBiases::key_medians) continue;
        }
        const Mat k = spoiled(in.k, keys, nan_of<double>()), v = spoiled(in.v, keys, infinity_of<double>());
        const auto want = attend(in.q, in.k, in.v, options, method), r = attend(in.q, k, v, options, method);
        EXPECT_SAME_BITS(r.out, want.out);
        const auto d_want = attend_backward(d_out, in.q, in.k, in.v, want, options, method);
        const auto got = attend_backward(d_out, in.q, k, v, r, options, method);
        EXPECT_SAME_BITS(got.d_q, d_want.d_q);
        EXPECT_SAME_BITS(got.d_k, d_want.d_k);
        EXPECT_SAME_BITS(got.d_v, d_want.d_v);
        if constexpr (requires { got.d_tree; }) {
          EXPECT_SAME_BITS(got.d_tree.planes, d_want.d_tree.planes);
        }
      }
    }
  });
}

/// Heads that share keys, and a batch whose entries have keys of their own: as one call each.
TEST(AbsentKeys, OfPackedHeadsAndOfBatches) {
  constexpr Index n_q = 37, n_k = 53, n_entries = 5;
  const Mat q = random_matrix<double>(n_entries * n_q, 4 * d, 1), k = random_matrix<double>(n_entries * n_k, 2 * d, 2),
            v = random_matrix<double>(n_entries * n_k, 2 * d_v, 3),
            d_out = random_matrix<double>(n_entries * n_q, 4 * d_v, 4);
  Row keys(n_entries, n_k);
  for (Index b = 0; b < n_entries; ++b) keys.row(b) = some_keys(n_k)[static_cast<std::size_t>(b)];
  const HeadOptions heads{.n_heads = 4, .n_kv_heads = 2};
  for_methods(n_k, [&](const auto& method, const auto&) {
    const AttentionOptions options{.mask = {.keys = keys}};
    const auto q_heads = tokens_first(q.data(), n_entries, n_q, Index(4), d),
               k_heads = tokens_first(k.data(), n_entries, n_k, Index(2), d),
               v_heads = tokens_first(v.data(), n_entries, n_k, Index(2), d_v);
    const auto r = batch_attend(q_heads, k_heads, v_heads, options, method, {.threads = 2});
    const auto got = batch_attend_backward(d_out, q_heads, k_heads, v_heads, r, options, method);
    for (Index b = 0; b < n_entries; ++b) {
      const Row own = keys.row(b);
      const AttentionOptions of_entry{.mask = {.keys = own}};
      const Mat own_q = q.middleRows(b * n_q, n_q), own_k = spoiled(k.middleRows(b * n_k, n_k), own, nan_of<double>()),
                own_v = spoiled(v.middleRows(b * n_k, n_k), own, nan_of<double>());
      const auto packed = multi_head_attend(own_q, own_k, own_v, heads, of_entry, method);
      EXPECT_SAME_BITS(packed.out, r.out.middleRows(b * n_q, n_q).eval());
      const auto grads = multi_head_attend_backward(d_out.middleRows(b * n_q, n_q).eval(), own_q, own_k, own_v, packed,
                                                    heads, of_entry, method);
      EXPECT_SAME_BITS(grads.d_k, got.d_k.middleRows(b * n_k, n_k).eval());
      for (Index h = 0; h < 4; ++h) {
        const Mat one_k = own_k.middleCols(h / 2 * d, d), one_v = own_v.middleCols(h / 2 * d_v, d_v);
        const auto one = attend(own_q.middleCols(h * d, d).eval(), one_k, one_v, of_entry, method);
        EXPECT_SAME_BITS(one.out, packed.out.middleCols(h * d_v, d_v).eval());
      }
    }
  });
}

/// Queries that are the keys are routed with them: those of absent keys too.
TEST(AbsentKeys, AreStillQueries) {
  const auto in = random_inputs<double>({.n_q = 113, .d = d, .d_v = d_v});
  const Mat q = in.k;
  for_methods(113, [&](const auto& method, const auto&) {
    for (const Row& keys : some_keys(113)) {
      const AttentionOptions options{.mask = {.keys = keys}};
      EXPECT_SAME_BITS(attend(in.k, in.k, in.v, options, method).out, attend(q, in.k, in.v, options, method).out);
    }
  });
}

TEST(AbsentKeys, OfACache) {
  const auto in = random_inputs<double>({.n_q = 5, .n_k = 203, .d = d, .d_v = d_v});
  for_methods(203, [&](const auto& method, const auto&) {
    const Row keys = some_keys(203).front();
    KeyValueCache<double> cache(d, d_v);
    cache.append(spoiled(in.k, keys, nan_of<double>()), spoiled(in.v, keys, nan_of<double>()));
    const AttentionOptions options{.mask = {.keys = keys}};
    EXPECT_MATRIX_NEAR(attend(in.q, cache, options, method).out, attend(in.q, in.k, in.v, options, method).out, close);
  });
}

/// TC over values that are made: rows of x of absent keys are not seen either, nor moved.
TEST(AbsentKeys, OfValuesThatAreMadeForTheCall) {
  const auto in = random_inputs<double>({.n_q = 113, .n_k = 203, .d = d, .d_v = 64});
  const Mat w_v = random_matrix<double>(64, 48, 9), d_out = random_matrix<double>(113, 48, 77);
  const Vector<double> logits = random_matrix<double>(4, 1, 5);
  for (const bool by_query : {false, true}) {
    const TcAttention<double> tc(random_tree<double>(3, d), logits, {.by_query = by_query});
    for (const Row& keys : some_keys(203)) {
      const AttentionOptions options{.mask = {.keys = keys}};
      const std::vector<Index> list = present(keys);
      const Mat k = spoiled(in.k, keys, nan_of<double>()), x = spoiled(in.v, keys, nan_of<double>());
      const Mat own_k = in.k(list, Eigen::all), own_x = in.v(list, Eigen::all);
      const ProjectedValues<double> values(x, w_v), own(own_x, w_v);
      const auto r = attend(in.q, k, values, options, tc), want = attend(in.q, own_k, own, {}, tc);
      EXPECT_MATRIX_NEAR(r.out, want.out, 100 * close);
      const auto got = attend_backward(d_out, in.q, k, values, r, options, tc),
                 d_want = attend_backward(d_out, in.q, own_k, own, want, {}, tc);
      EXPECT_MATRIX_NEAR(got.d_w_v, d_want.d_w_v, 1000 * close);
      for (std::size_t t = 0; t < list.size(); ++t) {
        EXPECT_MATRIX_NEAR(got.d_x.row(list[t]).eval(), d_want.d_x.row(static_cast<Index>(t)).eval(), 1000 * close);
      }
      const MonteCarloOptions often{.alpha = 0.5, .seed = 3, .path = ValuePath::sampled};
      const MonteCarloValues<double> sampled(x, w_v, often), clean(in.v, w_v, often);
      const auto some = attend(in.q, k, sampled, options, tc), same = attend(in.q, in.k, clean, options, tc);
      EXPECT_SAME_BITS(some.out, same.out);
      const auto d_some = attend_backward(d_out, in.q, k, sampled, some, options, tc);
      EXPECT_SAME_BITS(d_some.d_x, attend_backward(d_out, in.q, in.k, clean, same, options, tc).d_x);
      const auto weights = key_importance(in.q, k, options, tc), fewer = key_importance(in.q, own_k, {}, tc);
      expect_rows(weights.largest, fewer.largest, keys);
      expect_rows(weights.norm, fewer.norm, keys);
    }
  }
}

}  // namespace
}  // namespace heed::test::absent_keys
