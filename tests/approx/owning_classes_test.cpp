// What owns memory stays what it was where an allocation fails, and may be used again after it was moved from.
#include <utility>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/tc_attention.hpp"
#include "heed/approx/tc_state.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_over.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/leaf_pattern.hpp"
#include "support/allocations.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/trees.hpp"

namespace heed::test {
namespace {

/// Assigns `from` to a copy of `to` with each allocation failing; answer(object) must be that of `to` until it is that
/// of `from`.
template <class T, class AnswerOf>
void expect_assignment_is_all_or_nothing(const T& to, const T& from, const AnswerOf& answer_of) {
  if (!counts_allocations()) GTEST_SKIP() << "allocations cannot be made to fail here";
  const auto before = answer_of(to), after = answer_of(from);
  T object = to;
  const int failed =
      with_each_allocation_failing([&] { object = from; }, [&] { EXPECT_SAME_BITS(answer_of(object), before); });
  EXPECT_GE(failed, 2);
  EXPECT_SAME_BITS(answer_of(object), after);
  T moved = std::move(object);
  EXPECT_SAME_BITS(answer_of(moved), after);
  object = to;
  EXPECT_SAME_BITS(answer_of(object), before);
}

DecisionTree<float> low_tree() { return random_tree<float>(1, 4, 3); }
DecisionTree<float> high_tree() {
  return random_tree<float>(3, 4, 4, {.lift = TreeLift<float>{5, Vector<float>::Constant(7, 0.5f)}});
}

TEST(OwningClasses, ATreeIsAssignedAsAWhole) {
  const Matrix<float> tokens = random_matrix<float>(50, 4, 1);
  const auto leaves = [&](const DecisionTree<float>& tree) {
    Matrix<double> both(50, 2);
    both << tree.leaf_of(tokens).cast<double>(), tree.leaf_of_keys(tokens).cast<double>();
    return both;
  };
  expect_assignment_is_all_or_nothing(low_tree(), high_tree(), leaves);
  expect_assignment_is_all_or_nothing(high_tree(), low_tree(), leaves);
  DecisionTree<float> tree = high_tree();
  const DecisionTree<float> moved = std::move(tree);
  EXPECT_EQ(moved.height(), 3);
  EXPECT_EQ(tree.height(), 0) << "one leaf";
  EXPECT_TRUE((tree.leaf_of(tokens).array() == 0).all());
}

TEST(OwningClasses, AMethodWithATreeIsAssignedAsAWhole) {
  const auto in = random_inputs<float>({.n_q = 20, .n_k = 30, .d = 4, .d_v = 3});
  const auto answer = [&](const auto& method) { return attend(in.q, in.k, in.v, {}, method).out; };
  expect_assignment_is_all_or_nothing(TcAttention<float>(low_tree(), Eigen::VectorXf::LinSpaced(2, 0, 1)),
                                      TcAttention<float>(high_tree(), Eigen::VectorXf::LinSpaced(4, 1, 0)), answer);
  expect_assignment_is_all_or_nothing(TfAttention<float>(low_tree(), {.n_sinks = 2}), TfAttention<float>(high_tree()),
                                      answer);
}

TEST(OwningClasses, ALeafPatternThatWasMovedFromHasNoGroups) {
  const auto in = random_inputs<float>({.n_q = 20, .n_k = 30, .d = 4, .d_v = 3});
  LeafPattern pattern(high_tree(), in.q, in.k);
  const auto want = attend_over(pattern, in.q, in.k, in.v).out;
  LeafPattern moved = std::move(pattern);
  EXPECT_EQ(pattern.n_groups(), 0);
  EXPECT_SAME_BITS(attend_over(moved, in.q, in.k, in.v).out, want);
  pattern = std::move(moved);
  EXPECT_EQ(moved.n_groups(), 0);
  EXPECT_SAME_BITS(attend_over(pattern, in.q, in.k, in.v).out, want);
}

TEST(OwningClasses, AFailedAppendLeavesAStateAsItWas) {
  if (!counts_allocations()) GTEST_SKIP() << "allocations cannot be made to fail here";
  const auto in = random_inputs<float>({.n_q = 20, .n_k = 30, .d = 4, .d_v = 3});
  const TcAttention<float> method(high_tree(), Eigen::VectorXf::Zero(4));
  TcState<float> state(method, 3), fresh(method, 3);
  state.append(in.k.topRows(10), in.v.topRows(10));
  fresh.append(in.k.topRows(10), in.v.topRows(10));
  const Matrix<float> before = state.attend(in.q);
  const int failed = with_each_allocation_failing([&] { state.append(in.k.bottomRows(5), in.v.bottomRows(5)); },
                                                  [&] {
                                                    EXPECT_EQ(state.size(), 10);
                                                    EXPECT_SAME_BITS(state.attend(in.q), before);
                                                  });
  EXPECT_GE(failed, 1);
  fresh.append(in.k.bottomRows(5), in.v.bottomRows(5));
  EXPECT_SAME_BITS(state.attend(in.q), fresh.attend(in.q));
}

}  // namespace
}  // namespace heed::test
