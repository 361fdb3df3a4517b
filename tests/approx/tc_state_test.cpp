#include "heed/approx/tc_state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "heed/exact/attend.hpp"
#include "support/allocations.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/tc_formula.hpp"
#include "support/trees.hpp"

namespace heed::test::tc_state {
namespace {

template <class T>
Vector<T> some_logits(Index height) {
  Vector<T> logits(height + 1);
  for (Index t = 0; t <= height; ++t) logits(t) = static_cast<T>(0.3 * static_cast<double>(t * t) - 0.7);
  return logits;
}

template <class S>
TcAttention<S> some_tc(Index height, Index d, bool lifted, bool by_query) {
  using T = Accumulator<S>;
  const TreeOptions<T> options{.lift = lifted ? std::optional(random_lift<S>(height, d)) : std::nullopt};
  return {random_tree<S>(height, d, 1, options), some_logits<T>(height), {.by_query = by_query}};
}

/// A state that is given tokens a few at a time, against a causal call over all of them, and that against its formula.
template <class S>
void expect_rows_of_the_causal_call() {
  constexpr Index n = 90, d = 9, d_v = 7;
  const auto in = random_inputs<S>({.n_q = n, .n_k = n, .d = d, .d_v = d_v});
  const std::optional<double> scales[] = {{}, 0.0, -1.5, 4.0};
  for (const Index height : {0, 1, 3, 6}) {
    for (const bool lifted : {false, true}) {
      for (const bool by_query : {false, true}) {
        const TcAttention<S> tc = some_tc<S>(height, d, lifted, by_query);
        for (const std::optional<double>& scale : scales) {
          SCOPED_TRACE("height " + std::to_string(height) + (lifted ? ", lifted" : "") +
                       (by_query ? ", by query" : "") + ", scale " + std::to_string(scale.value_or(1.0 / 3.0)));
          AttentionOptions options{.scale = scale, .mask = {.causal = Causal::bottom_right}};
          const auto want = attend(in.q, in.k, in.v, options, tc, {.threads = 1});
          if (std::is_same_v<S, double>) {
            EXPECT_MATRIX_NEAR(want.out, tc_formula(tc, in, options).out, 1e-13);
          }
          TcState<S> state(tc, d_v, d, options);
          for (Index first = 0, step = 0; first < n; first += step) {
            step = std::min<Index>(first % 5 == 3 ? 7 : 1, n - first);
            state.append(in.k.middleRows(first, step), in.v.middleRows(first, step));
            const Index last = first + step - 1;
            ASSERT_EQ(state.size(), last + 1);
            EXPECT_SAME_BITS(state.attend(in.q.row(last)), want.out.row(last).eval());
          }
          // The last queries of many keys, and what all queries see of them.
          const auto decoded = attend(in.q.bottomRows(1), in.k, in.v, options, tc);
          EXPECT_SAME_BITS(state.attend(in.q.bottomRows(1)), decoded.out);
          const Matrix<S> all = state.attend(in.q);
          for (Index i = 0; i < n; ++i) EXPECT_SAME_BITS(all.row(i).eval(), state.attend(in.q.row(i)));
          state.clear();
          EXPECT_EQ(state.size(), 0);
          EXPECT_MATRIX_NEAR(state.attend(in.q), Matrix<double>::Zero(n, d_v).eval(), 0.0);
        }
      }
    }
  }
}

TEST(TcState, GivesTheRowsOfTheCausalCallBitForBit) {
  expect_rows_of_the_causal_call<double>();
  expect_rows_of_the_causal_call<float>();
  expect_rows_of_the_causal_call<Eigen::bfloat16>();
}

template <class Run>
std::string said(const Run& run) {
  try {
    run();
  } catch (const ShapeError& error) {
    return std::string("shape: ") + error.what();
  } catch (const OptionError& error) {
    return std::string("option: ") + error.what();
  }
  return "nothing";
}

const std::vector<Index> one_token{0, 1};  // offsets that would fit

/// What a state must refuse, by the words its message must have. Masks and numbers live in `store`.
std::vector<std::pair<std::vector<std::string>, AttentionOptions>> bad_options(const OptionStore& store) {
  const double nan = nan_of<double>(), inf = infinity_of<double>();
  return {
      {{"AttentionOptions::scale = nan", "must be finite"}, {.scale = nan}},
      {{"AttentionOptions::scale = inf", "must be finite"}, {.scale = inf}},
      {{"AttentionOptions::scale = -inf", "must be finite"}, {.scale = -inf}},
      {{"Mask::n_real_keys"}, {.mask = {.n_real_keys = 3}}},
      {{"Mask::n_real_keys"}, {.mask = {.n_real_keys = -3}}},
      {{"Mask::n_real_keys"}, {.mask = {.n_real_keys = 0}}},
      {{"Mask::keys", "TcState"}, {.mask = {.keys = store.keys}}},
      {{"Mask::window_left"}, {.mask = {.window_left = 5}}},
      {{"Mask::window_left"}, {.mask = {.window_left = -5}}},
      {{"Mask::window_right"}, {.mask = {.window_right = 0}}},
      {{"Mask::allowed"}, {.mask = {.allowed = store.allowed}}},
      {{"Mask::bias"}, {.mask = {.bias = store.bias}}},
      {{"Mask::alibi_slope"}, {.mask = {.alibi_slope = 0.5}}},
      {{"Mask::sequence_offsets"}, {.mask = {.sequence_offsets = store.query_offsets}}},
      {{"Mask::sequence_offsets", "TcState"}, {.mask = {.sequence_offsets = one_token}}},
      {{"Mask::key_sequence_offsets"}, {.mask = {.key_sequence_offsets = store.key_offsets}}},
      {{"AttentionOptions::softcap"}, {.softcap = 2.0}},
      {{"AttentionOptions::softcap"}, {.softcap = nan}},
      {{"AttentionOptions::sinks"}, {.sinks = 1.0}},
  };
}

TEST(TcState, RefusesByNameWhatItCannotHonour) {
  const OptionStore store(9, 9);
  for (const Index height : {0, 2}) {
    for (const bool by_query : {false, true}) {
      const TcAttention<float> tc = some_tc<float>(height, 4, false, by_query);
      for (const auto& [words, options] : bad_options(store)) {
        const AttentionOptions& wrong = options;
        const std::string message = said([&] { TcState<float>(tc, 3, 4, wrong); });
        EXPECT_EQ(message.substr(0, 14), "option: heed: ") << words.front();
        for (const std::string& word : words)
          EXPECT_NE(message.find(word), std::string::npos) << word << ": " << message;
      }
      for (const Causal causal : {Causal::none, Causal::square, Causal::top_left, Causal::bottom_right})
        EXPECT_NO_THROW(TcState<float>(tc, 3, 4, {.scale = -0.5, .mask = {.causal = causal}}));
    }
  }
  const DecisionTree<float> medians = random_tree<float>(2, 4, 1, {.biases = TreeBiases::key_medians});
  EXPECT_NE(said([&] { TcState<float>({medians, some_logits<float>(2)}, 3); }).find("key_medians"), std::string::npos);
}

/// Numbers that are finite in double alone are refused where sums are kept in float.
TEST(TcState, JudgesTheScaleInTheScalarOfItsSums) {
  for (const double scale : {1e39, -1e39, 1e-50}) {
    EXPECT_NE(said([&] {
                TcState<float>(some_tc<float>(2, 4, false, true), 3, 4, {.scale = scale});
              }).find("AttentionOptions::scale = "),
              std::string::npos)
        << scale;
    EXPECT_NE(said([&] {
                TcState<Eigen::half>(some_tc<Eigen::half>(2, 4, false, true), 3, 4, {.scale = scale});
              }).find("AttentionOptions::scale = "),
              std::string::npos)
        << scale;
    EXPECT_NO_THROW(TcState<double>(some_tc<double>(2, 4, false, true), 3, 4, {.scale = scale}));
  }
}

TEST(TcState, RefusesWidthsThatAreNotTheTrees) {
  const TcAttention<float> tc = some_tc<float>(2, 4, false, true), flat = some_tc<float>(0, 4, false, true);
  EXPECT_EQ(said([&] { TcState<float>(tc, 3, 5); }), "shape: heed: d = 5 must be that of the tree's planes, 4");
  EXPECT_EQ(said([&] { TcState<float>(tc, 3, -1); }), "shape: heed: d = -1 must be >= 0");
  EXPECT_EQ(said([&] { TcState<float>(tc, -3); }), "shape: heed: d_v = -3 must be >= 0");
  EXPECT_EQ(said([&] { TcState<float>(flat, 3); }),
            "shape: heed: d = 0 must be >= 1: the width of the keys, which no plane of the tree tells");
  for (const Index huge : {std::numeric_limits<Index>::max(), Index(1) << 62, Index(1) << 41}) {
    EXPECT_NE(said([&] { TcState<float>(tc, huge); }).find("heed: d_v = "), std::string::npos);
    EXPECT_NE(said([&] { TcState<float>(flat, 3, huge); }).find("heed: d = "), std::string::npos);
  }
  const TcAttention<float> tall = some_tc<float>(20, 1, false, true);
  EXPECT_NE(said([&] { TcState<float>(tall, Index(1) << 40); }).find("2^(height + 1) * (d_v + d) = "),
            std::string::npos);
  EXPECT_NO_THROW(TcState<float>(flat, 3, 0, {.scale = 1.0}));
  EXPECT_NO_THROW(TcState<float>(tc, 0));
}

TEST(TcState, ARefusedCallLeavesItAsItWas) {
  const auto in = random_inputs<float>({.n_q = 5, .n_k = 30, .d = 4, .d_v = 3});
  TcState<float> state(some_tc<float>(3, 4, true, true), 3);
  state.append(in.k, in.v);
  const Matrix<float> before = state.attend(in.q);
  Matrix<float> wide = random_matrix<float>(30, 5, 1);
  EXPECT_EQ(said([&] { state.append(wide, in.v); }), "shape: heed: cols(k_new) = 5 must be 4 as in the state");
  EXPECT_EQ(said([&] { state.append(in.k, wide); }), "shape: heed: cols(v_new) = 5 must be 3 as in the state");
  EXPECT_EQ(said([&] { state.append(in.k.topRows(2), in.v); }),
            "shape: heed: rows(k_new) = 2 but rows(v_new) = 30: they must be equal");
  EXPECT_EQ(said([&] { state.attend(wide); }), "shape: heed: cols(q) = 5 must be 4 as in the state");
  EXPECT_EQ(state.size(), 30);
  EXPECT_SAME_BITS(state.attend(in.q), before);
}

TEST(TcState, AnAllocationThatFailsLeavesItAsItWas) {
  if (!counts_allocations()) GTEST_SKIP() << "a sanitizer owns malloc";
  const auto in = random_inputs<float>({.n_q = 5, .n_k = 30, .d = 4, .d_v = 3});
  TcState<float> state(some_tc<float>(3, 4, true, true), 3);
  state.append(in.k.topRows(20), in.v.topRows(20));
  const Matrix<float> before = state.attend(in.q);
  const Matrix<float> k = in.k.bottomRows(10), v = in.v.bottomRows(10);
  TcState<float> other(some_tc<float>(2, 4, false, false), 3);
  const auto expect_unchanged = [&] {
    EXPECT_EQ(state.size(), 20);
    EXPECT_SAME_BITS(state.attend(in.q), before);
  };
  EXPECT_GT(with_each_allocation_failing([&] { state.attend(in.q); }, expect_unchanged), 0);
  EXPECT_GT(with_each_allocation_failing([&] { other = state; }, expect_unchanged), 0);
  EXPECT_GT(with_each_allocation_failing([&] { state.append(k, v); }, expect_unchanged), 0);
  EXPECT_EQ(state.size(), 30);
  TcState<float> whole(some_tc<float>(3, 4, true, true), 3);
  whole.append(in.k, in.v);
  EXPECT_SAME_BITS(state.attend(in.q), whole.attend(in.q));
  EXPECT_SAME_BITS(other.attend(in.q), before);
  // A state that was to become a copy and could not is what it was.
  TcState<float> kept = other;
  EXPECT_GT(with_each_allocation_failing([&] { kept = whole; }, [&] { EXPECT_SAME_BITS(kept.attend(in.q), before); }),
            0);
}

TEST(TcState, ACopyGoesItsOwnWayAndOneMovedFromSaysSo) {
  const auto in = random_inputs<float>({.n_q = 5, .n_k = 30, .d = 4, .d_v = 3});
  for (const bool by_query : {false, true}) {
    TcState<float> state(some_tc<float>(3, 4, true, by_query), 3);
    state.append(in.k.topRows(20), in.v.topRows(20));
    const Matrix<float> before = state.attend(in.q);
    TcState<float> copy = state;
    copy.append(in.k.bottomRows(10), in.v.bottomRows(10));
    EXPECT_EQ(copy.size(), 30);
    EXPECT_EQ(state.size(), 20);
    EXPECT_SAME_BITS(state.attend(in.q), before);
    const Matrix<float> after = copy.attend(in.q);
    TcState<float> moved = std::move(state);
    EXPECT_SAME_BITS(moved.attend(in.q), before);
    EXPECT_EQ(state.size(), 0);  // NOLINT(bugprone-use-after-move)
    state.clear();
    EXPECT_NE(said([&] { state.append(in.k, in.v); }).find("moved from"), std::string::npos);
    EXPECT_NE(said([&] { state.attend(in.q); }).find("moved from"), std::string::npos);
    EXPECT_SAME_BITS(moved.attend(in.q), before);
    state = std::move(copy);
    EXPECT_SAME_BITS(state.attend(in.q), after);
  }
}

}  // namespace
}  // namespace heed::test::tc_state
