#include "heed/io/tree_file.hpp"

#include <string>

#include <gtest/gtest.h>

#include "io/files.hpp"
#include "support/matrices.hpp"
#include "support/trees.hpp"

namespace heed::test {
namespace {

TEST(TreeFile, GivesBackWhatWasSaved) {
  const heed_test::TemporaryFolder folder;
  const std::string path = folder.path("tree.safetensors");
  for (const Index height : {0, 1, 4}) {
    const Index n_nodes = (Index(1) << height) - 1;
    TreeOptions<float> options{.biases = TreeBiases::key_medians};
    if (height == 4) options.lift = TreeLift<float>{2.5f, random_matrix<float>(n_nodes, 1, 3)};
    const DecisionTree<float> tree = random_tree<float>(height, 5, 1, options);
    save_tree(path, tree);
    const auto back = load_tree<float>(path);
    EXPECT_EQ(back.height(), height);
    EXPECT_SAME_BITS(back.planes(), tree.planes());
    EXPECT_SAME_BITS(back.biases(), tree.biases());
    EXPECT_EQ(back.bias_rule(), TreeBiases::key_medians);
    ASSERT_EQ(back.lift().has_value(), tree.lift().has_value());
    if (tree.lift()) {
      EXPECT_EQ(back.lift()->radius, 2.5f);
      EXPECT_SAME_BITS(back.lift()->weights, tree.lift()->weights);
    }
    EXPECT_SAME_BITS(load_tree<double>(path).planes(), tree.planes().cast<double>().eval());
  }
}

/// A tree is worth where it sends tokens: lifts and medians too must come back.
template <class S>
void expect_same_leaves() {
  using T = Accumulator<S>;
  const heed_test::TemporaryFolder folder;
  const std::string path = folder.path("tree.safetensors");
  const Matrix<S> tokens = random_matrix<S>(203, 9, 5);
  for (const TreeBiases biases : {TreeBiases::stored, TreeBiases::key_medians}) {
    for (const bool lifted : {false, true}) {
      TreeOptions<T> options{.biases = biases};
      if (lifted) options.lift = random_lift<S>(4, 9);
      const DecisionTree<S> tree = random_tree<S>(4, 9, 1, options);
      save_tree(path, tree);
      const auto back = load_tree<S>(path);
      EXPECT_SAME_BITS(back.leaf_of(tokens), tree.leaf_of(tokens));
      EXPECT_SAME_BITS(back.leaf_of_keys(tokens), tree.leaf_of_keys(tokens));
      EXPECT_SAME_BITS(back.with_biases_of(tokens).biases(), tree.with_biases_of(tokens).biases());
      // The same tree in another scalar reads the same numbers.
      if (sizeof(T) == sizeof(float)) {
        const auto wide = load_tree<double>(path);
        ASSERT_EQ(wide.lift().has_value(), lifted);
        EXPECT_EQ(wide.bias_rule(), biases);
        if (lifted) {
          EXPECT_SAME_BITS(wide.lift()->weights, tree.lift()->weights.template cast<double>().eval());
        }
      }
    }
  }
}

TEST(TreeFile, ASavedTreeSendsTokensToTheSameLeaves) {
  expect_same_leaves<float>();
  expect_same_leaves<double>();
  expect_same_leaves<Eigen::half>();
  expect_same_leaves<Eigen::bfloat16>();
}

TEST(TreeFile, RefusesWhatIsNoTree) {
  const heed_test::TemporaryFolder folder;
  const std::string path = folder.path("tree.safetensors");
  const Matrix<float> planes = random_matrix<float>(3, 4, 1);
  write_safetensors(path, {{"planes", Tensor::of(planes)}});
  EXPECT_THROW(load_tree<float>(path), FormatError);
  write_safetensors(path, {{"planes", Tensor::of(planes)}, {"biases", Tensor({3}, TensorDtype::f32)}},
                    {{"bias_rule", "other"}});
  EXPECT_THROW(load_tree<float>(path), FormatError);
  write_safetensors(path, {{"planes", Tensor({3}, TensorDtype::f32)}, {"biases", Tensor({3}, TensorDtype::f32)}});
  EXPECT_THROW(load_tree<float>(path), FormatError);
  write_safetensors(path, {{"planes", Tensor::of(planes)}, {"biases", Tensor({2}, TensorDtype::f32)}});
  EXPECT_THROW(load_tree<float>(path), ShapeError);
}

}  // namespace
}  // namespace heed::test
