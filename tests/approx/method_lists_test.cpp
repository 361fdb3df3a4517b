// A list of methods is asked as a whole before the first of them writes, and a wrong pattern is found before anything
// is written.
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/heed.hpp"
#include "support/trees.hpp"
#include "support/wrong_calls.hpp"

namespace heed::test {
namespace {

/// Two heads of 6 queries, 9 keys, d = 4, d_v = 3.
struct TwoHeads {
  Matrix<float> q = random_matrix<float>(6, 8, 1), k = random_matrix<float>(9, 8, 2), v = random_matrix<float>(9, 6, 3);
  Matrix<float> out = Matrix<float>::Constant(6, 6, nan_of<float>()),
                lse = Matrix<float>::Constant(6, 2, nan_of<float>());
  Matrix<float> x = random_matrix<float>(9, 5, 4), w = random_matrix<float>(5, 6, 5);
};

/// Refuses every call, or none.
struct Moody {
  static constexpr bool has_softmax = false;
  bool refuses = false;
  void check_heads(const CallShape& shape, const AttentionOptions&) const {
    if (refuses) throw OptionError("heed: not in the mood for " + std::to_string(shape.n_q) + " queries");
  }
  template <class Call>
  void attend_heads(std::span<const Call> calls, Index, const AttentionOptions& options, const Context&) const {
    check_heads({.n_q = calls.front().q.rows}, options);
    for (const Call& call : calls) call.out(0, 0) = static_cast<typename Call::Out>(1.0f);
  }
};

/// Runs two methods over every door for several heads.
template <class Method>
void expect_the_second_is_asked_before_the_first_writes(const std::vector<Method>& methods, const char* said) {
  const HeadOptions two{.n_heads = 2};
  TwoHeads o;
  KeyValueCache<float> cache(4, 3, 2);
  cache.append(o.k, o.v);
  const ProjectedValues<float> projected(o.x, o.w), afterwards(o.x, o.w, {.order = ProjectionOrder::attend_first});
  const MonteCarloValues<float> sampled(o.x, o.w, {.budget = Budget::constant});
  const std::vector<std::pair<const char*, std::function<void()>>> asked{
      {"packed", [&] { multi_head_attend_into(o.out, o.lse, o.q, o.k, o.v, two, {}, methods); }},
      {"cache", [&] { attend_into(o.out, o.lse, o.q, cache, {}, methods); }},
      {"projected", [&] { multi_head_attend_into(o.out, o.lse, o.q, o.k, projected, two, {}, methods); }},
      {"projected afterwards", [&] { multi_head_attend_into(o.out, o.lse, o.q, o.k, afterwards, two, {}, methods); }},
      {"sampled", [&] { multi_head_attend_into(o.out, o.lse, o.q, o.k, sampled, two, {}, methods); }},
  };
  for (const auto& [name, run] : asked) {
    SCOPED_TRACE(name);
    std::string answer = "nothing";
    try {
      run();
    } catch (const std::exception& error) {
      answer = error.what();
    }
    EXPECT_NE(answer.find(said), std::string::npos) << answer;
    EXPECT_TRUE(untouched(o.out) && untouched(o.lse));
  }
}

/// Keys in the order given, whatever that is.
struct OneList {
  std::vector<Index> list;
  Index n_q;
  Index n_groups() const { return 1; }
  TokenSet queries(Index) const { return {0, n_q}; }
  Index n_segments(Index) const { return 1; }
  TokenSet keys(Index, Index) const { return {0, static_cast<Index>(list.size()), list.data()}; }
};
using MakeList = std::function<OneList(Index, Index)>;
PatternAttention<MakeList> listed(std::vector<Index> list) {
  return PatternAttention<MakeList>([list](Index n_q, Index) { return OneList{list, n_q}; });
}

TEST(MethodLists, AskAllOfThemBeforeTheFirstWrites) {
  expect_the_second_is_asked_before_the_first_writes<TfAttention<float>>(
      {TfAttention<float>(random_tree<float>(2, 4, 5)), TfAttention<float>(random_tree<float>(2, 5, 5))},
      "planes of 5 entries");
  expect_the_second_is_asked_before_the_first_writes<PatternAttention<MakeList>>({listed({1, 2}), listed({1, 100, 3})},
                                                                                 "pattern.keys(0)[2] = 3");
  expect_the_second_is_asked_before_the_first_writes<PatternAttention<MakeList>>({listed({1, 2}), listed({1, 9})},
                                                                                 "names token 9");
  expect_the_second_is_asked_before_the_first_writes<Moody>({{false}, {true}}, "not in the mood for 6 queries");
  const PatternAttention<MakeList> throws(
      [](Index, Index) -> OneList { throw std::runtime_error("no pattern today"); });
  expect_the_second_is_asked_before_the_first_writes<PatternAttention<MakeList>>({listed({1, 2}), throws},
                                                                                 "no pattern today");
}

TEST(PatternAttention, LeavesOutputsAloneWhereItsPatternIsWrong) {
  const PatternAttention<MakeList> throws(
      [](Index, Index) -> OneList { throw std::runtime_error("no pattern today"); });
  for (const auto& method : {listed({3, 100, 4}), listed({-1, 3}), throws}) {
    Operands o(6);
    EXPECT_ANY_THROW(attend_into(o.out, o.lse, o.q, o.k, o.v, {}, method));
    EXPECT_TRUE(untouched(o.out) && untouched(o.lse));
    EXPECT_ANY_THROW(key_importance(o.q, o.k, {}, method));
    EXPECT_ANY_THROW(attend(o.q, o.k, MonteCarloValues<float>(o.v, o.weights), {}, method));
  }
}

/// As a call names an argument only where the caller gave it.
TEST(HeadOptions, AreNamedAsTheyWereGiven) {
  TwoHeads o;
  const ProjectedValues<float> projected(o.x, o.w);
  const auto said = [](const auto& run) {
    try {
      run();
    } catch (const ShapeError& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  const Matrix<float> odd = random_matrix<float>(9, 7, 1);
  const std::string of_q = "heed: cols(q) = 8 must be a multiple of n_heads = 5",
                    of_k = "heed: cols(k) = 7 must be a multiple of n_heads = 2";
  EXPECT_EQ(said([&] { multi_head_attend(o.q, o.k, o.v, {.n_heads = 5}); }), of_q);
  EXPECT_EQ(said([&] { multi_head_attend_into(o.out, o.lse, o.q, o.k, o.v, {.n_heads = 5}); }), of_q);
  EXPECT_EQ(said([&] { multi_head_attend(o.q, o.k, projected, {.n_heads = 5}); }), of_q);
  EXPECT_EQ(said([&] { multi_head_attend(o.q, odd, o.v, {.n_heads = 2}); }), of_k);
  EXPECT_EQ(said([&] { multi_head_attend(o.q, odd, projected, {.n_heads = 2}); }), of_k);
  EXPECT_EQ(said([&] { multi_head_attend(o.q, odd, o.v, {.n_heads = 2, .n_kv_heads = 2}); }),
            "heed: cols(k) = 7 must be a multiple of n_kv_heads = 2");
}

}  // namespace
}  // namespace heed::test
