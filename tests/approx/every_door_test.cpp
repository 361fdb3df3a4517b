// Whatever attend refuses, every other door refuses: one table of calls that cannot be run goes through all of them.
// Each answers with the same class of error, names the argument, its value and what it must be, and leaves outputs
// alone.
#include <functional>
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

struct Door {
  std::string name;
  unsigned takes;
  std::function<void(Operands&)> run;
};
using Doors = std::vector<Door>;
constexpr unsigned cached = scales | scores | masks | contexts | heads, weighed = cached | operands,
                   everything = weighed | values;

DecisionTree<float> tree_for(Index d) { return random_tree<float>(2, d, 5); }
TcAttention<float> coarse(const DecisionTree<float>& tree) { return {tree, Eigen::VectorXf::Zero(3)}; }
constexpr MonteCarloOptions constant{.budget = Budget::constant};

KeyValueCache<float> cache_of(const Operands& o) {
  KeyValueCache<float> cache(4, 3);
  cache.append(o.k, o.v);
  return cache;
}
ProjectedValues<float> projected(const Operands& o, const ProjectionOptions& options = {}) {
  return {o.v, o.weights, options};
}
MonteCarloValues<float> sampled(const Operands& o, const MonteCarloOptions& options = {}) {
  return {o.v, o.weights, options};
}
DensePattern dense(const Operands& o) { return {o.q.rows(), o.k.rows()}; }
PatternUnion<DensePattern, DensePattern> twice(const Operands& o) { return {dense(o), dense(o)}; }
HeadMap<float> column(Vector<float>& lse) { return {lse.data(), lse.rows(), 1, {1, 1}}; }

/// What a forward call gave, as far as its shape goes, and a gradient that comes in.
struct Passed {
  explicit Passed(const Operands& o)
      : d_out(Matrix<float>::Zero(o.q.rows(), 3)), out(d_out), lse(Vector<float>::Zero(o.q.rows())) {}
  Matrix<float> d_out, out;
  Vector<float> lse;
};
struct Gradients {
  Matrix<float>&d_q, &d_k, &d_v;
};
/// Exact attention and patterns have a backward pass.
template <class Method>
inline constexpr bool has_gradient = false;
template <>
inline constexpr bool has_gradient<ExactAttention<>> = true;
template <class PatternFor>
inline constexpr bool has_gradient<PatternAttention<PatternFor>> = true;

/// Every door that runs a method; the method may be anything attend takes.
template <class Method>
Doors doors_of(const std::string& name, const Method& method, bool has_weights = true) {
  using O = Operands;
  const std::vector<Method> list(1, method);
  Doors doors{
      {"attend", everything, [=](O& o) { attend(o.q, o.k, o.v, o.options, method, o.context); }},
      {"attend_into", everything,
       [=](O& o) { attend_into(o.out, o.lse, o.q, o.k, o.v, o.options, method, o.context); }},
      {"multi_head_attend", everything,
       [=](O& o) { multi_head_attend(o.q, o.k, o.v, {}, o.options, method, o.context); }},
      {"multi_head_attend_into", everything,
       [=](O& o) { multi_head_attend_into(o.out, column(o.lse), o.q, o.k, o.v, {}, o.options, method, o.context); }},
      {"a list of methods", everything,
       [=](O& o) { multi_head_attend_into(o.out, column(o.lse), o.q, o.k, o.v, {}, o.options, list, o.context); }},
      {"cache", cached, [=](O& o) { attend(o.q, cache_of(o), o.options, method, o.context); }},
      {"cache into", cached,
       [=](O& o) { attend_into(o.out, column(o.lse), o.q, cache_of(o), o.options, list, o.context); }},
      {"projected", everything, [=](O& o) { attend(o.q, o.k, projected(o), o.options, method, o.context); }},
      {"projected into", everything,
       [=](O& o) { attend_into(o.out, o.lse, o.q, o.k, projected(o), o.options, method, o.context); }},
      {"projected afterwards", everything,
       [=](O& o) {
         const auto source = projected(o, {.order = ProjectionOrder::attend_first});
         attend_into(o.out, o.lse, o.q, o.k, source, o.options, method, o.context);
       }},
      {"heads projected", everything,
       [=](O& o) { multi_head_attend(o.q, o.k, projected(o), {}, o.options, list, o.context); }},
      {"sampled", everything, [=](O& o) { attend(o.q, o.k, sampled(o, constant), o.options, method, o.context); }},
      {"heads sampled into", everything,
       [=](O& o) {
         multi_head_attend_into(o.out, column(o.lse), o.q, o.k, sampled(o, constant), {}, o.options, list, o.context);
       }},
      {"plan", everything, [=](O& o) { sampled(o, constant).plan(o.q, o.k, o.options, method, o.context); }},
      {"sampled rows", everything,
       [=](O& o) {
         Matrix<float> rows(o.v.rows(), 3);
         sampled(o, constant).value_rows_into(rows, o.q, o.k, o.options, method, o.context);
       }},
  };
  if constexpr (has_gradient<Method>) {
    doors.push_back({"backward", everything, [=](O& o) {
                       const Passed passed(o);
                       attend_backward(passed.d_out, o.q, o.k, o.v, passed, o.options, method, o.context);
                     }});
    doors.push_back({"backward into", everything, [=](O& o) {
                       const Passed passed(o);
                       attend_backward_into(Gradients{o.d_q, o.d_k, o.d_v}, passed.d_out, o.q, o.k, o.v, passed.out,
                                            passed.lse, o.options, method, o.context);
                     }});
    doors.push_back({"heads backward", everything, [=](O& o) {
                       const Passed passed(o);
                       multi_head_attend_backward(passed.d_out, o.q, o.k, o.v, passed, {}, o.options, list, o.context);
                     }});
  }
  if constexpr (requires(O & o) { key_importance(o.q, o.k, o.options, method, o.context); }) {
    if (has_weights) {
      doors.push_back({"importance", weighed, [=](O& o) { key_importance(o.q, o.k, o.options, method, o.context); }});
      doors.push_back({"sampled by weight", everything,
                       [=](O& o) { attend_into(o.out, o.lse, o.q, o.k, sampled(o), o.options, method, o.context); }});
    }
  }
  for (Door& door : doors) door.name = name + ", " + door.name;
  return doors;
}

/// Doors that take no method.
Doors other_doors() {
  using O = Operands;
  return {
      {"cache without a method", cached, [](O& o) { attend(o.q, cache_of(o), o.options, o.context); }},
      {"cache into, without a method", cached,
       [](O& o) { attend_into(o.out, column(o.lse), o.q, cache_of(o), o.options, o.context); }},
      {"attend_over", everything, [](O& o) { attend_over(dense(o), o.q, o.k, o.v, o.options, o.context); }},
      {"attend_over a union", everything, [](O& o) { attend_over(twice(o), o.q, o.k, o.v, o.options, o.context); }},
      {"attend_over, projected", everything,
       [](O& o) { attend_over(dense(o), o.q, o.k, projected(o), o.options, o.context); }},
      {"attend_over, sampled", everything,
       [](O& o) { attend_over(dense(o), o.q, o.k, sampled(o), o.options, o.context); }},
      {"importance over a pattern", weighed,
       [](O& o) { key_importance_over(dense(o), o.q, o.k, o.options, o.context); }},
      {"importance over a union", weighed, [](O& o) { key_importance_over(twice(o), o.q, o.k, o.options, o.context); }},
      {"LeafPattern", masks | operands | heads, [](O& o) { LeafPattern(tree_for(4), o.q, o.k, o.options.mask); }},
      {"leaf_of", contexts, [](O& o) { static_cast<void>(tree_for(4).leaf_of(o.q, o.context)); }},
      {"leaf_of_keys", contexts, [](O& o) { static_cast<void>(tree_for(4).leaf_of_keys(o.k, o.context)); }},
      {"TcState", scales, [](O& o) { TcState<float>(coarse(tree_for(4)), 3, 4, o.options); }},
      {"projected rows", contexts,
       [](O& o) {
         Matrix<float> rows(9, 3);
         projected(o).value_rows_into(rows, o.context);
       }},
      {"reference", scales | scores | masks | operands | values,
       [](O& o) { reference_attention(o.q, o.k, o.v, o.options); }},
      {"reference backward", scales | scores | masks | operands | values,
       [](O& o) { reference_attention_backward(Passed(o).d_out, o.q, o.k, o.v, o.options); }},
  };
}

const Doors& all_doors() {
  static const Doors doors = [] {
    const DecisionTree<float> tree = tree_for(4);
    const auto dense_of = [](Index n_q, Index n_k) { return DensePattern{n_q, n_k}; };
    Doors all = other_doors();
    for (const Doors& some : {
             doors_of("exact", ExactAttention{}),
             doors_of("functor", ExactAttention{[](float s, Index, Index) { return s; }}),
             doors_of("tf", TfAttention<float>(tree)),
             doors_of("tf of height 0", TfAttention<float>(DecisionTree<float>())),
             doors_of("tf united and capped", TfAttention<float>(tree, {.window_left = 2, .n_sinks = 1, .leaf_cap = 2}),
                      false),
             doors_of("tc", coarse(tree)),
             doors_of("window", WindowAttention(2, 1)),
             doors_of("bigbird", BigBirdAttention({.block = 2})),
             doors_of("pattern", PatternAttention(dense_of)),
         })
      all.insert(all.end(), some.begin(), some.end());
    return all;
  }();
  return doors;
}

struct Answer {
  std::string kind = "nothing", said = "nothing";
};
Answer answer_of(const Door& door, Operands& o) {
  try {
    door.run(o);
  } catch (const ShapeError& error) {
    return {"ShapeError", error.what()};
  } catch (const OptionError& error) {
    return {"OptionError", error.what()};
  } catch (const std::exception& error) {
    return {"another error", error.what()};
  }
  return {};
}

TEST(EveryDoor, OpensForACallThatCanBeRun) {
  for (const Door& door : all_doors()) {
    for (const Index n_q : {6, 0}) {
      Operands o(n_q);
      EXPECT_EQ(answer_of(door, o).said, "nothing") << door.name << ", queries: " << n_q;
    }
  }
}

TEST(EveryDoor, RefusesWhatAttendRefuses) {
  for (const Index n_q : {6, 0}) {
    for (const WrongCall& wrong : wrong_calls()) {
      for (const Door& door : all_doors()) {
        if ((wrong.parts & door.takes) != wrong.parts) continue;
        SCOPED_TRACE(testing::Message() << door.name << ", queries: " << n_q << ": " << wrong.said.front());
        Operands o(n_q);
        wrong.make_wrong(o);
        const Answer answer = answer_of(door, o);
        EXPECT_EQ(answer.kind, wrong.thrown == Thrown::shape ? "ShapeError" : "OptionError");
        EXPECT_EQ(answer.said.substr(0, 6), "heed: ");
        for (const std::string& part : wrong.said)
          EXPECT_NE(answer.said.find(part), std::string::npos) << "'" << part << "' is not in: " << answer.said;
        EXPECT_TRUE(untouched(o));
      }
    }
  }
}

TEST(EveryDoor, RefusesATreeOfAnotherWidthAlsoWithoutQueries) {
  Doors doors = doors_of("tf", TfAttention<float>(tree_for(5)));
  const Doors tc = doors_of("tc", coarse(tree_for(5)));
  doors.insert(doors.end(), tc.begin(), tc.end());
  doors.push_back({"LeafPattern", everything, [](Operands& o) { LeafPattern(tree_for(5), o.q, o.k); }});
  for (const Index n_q : {6, 0}) {
    for (const Door& door : doors) {
      SCOPED_TRACE(testing::Message() << door.name << ", queries: " << n_q);
      Operands o(n_q);
      const Answer answer = answer_of(door, o);
      EXPECT_EQ(answer.kind, "ShapeError");
      EXPECT_NE(answer.said.find("= 4 but the tree has planes of 5 entries"), std::string::npos) << answer.said;
      EXPECT_TRUE(untouched(o));
    }
  }
}

}  // namespace
}  // namespace heed::test
