#include "heed/exact/multi_head.hpp"

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/core/heads.hpp"
#include "heed/exact/attend.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

TEST(MultiHeadAttend, QueryHeadsShareKeyHeadsInOrder) {
  const Matrix<float> q = random_matrix<float>(20, 6 * 4, 1), k = random_matrix<float>(30, 2 * 4, 2),
                      v = random_matrix<float>(30, 2 * 5, 3);
  const auto all = multi_head_attend(q, k, v, {.n_heads = 6, .n_kv_heads = 2});
  ASSERT_EQ(all.out.cols(), 6 * 5);
  ASSERT_EQ(all.lse.cols(), 6);
  const auto q_heads = split_heads(q, 6);
  const auto k_heads = split_heads(k, 2), v_heads = split_heads(v, 2);
  for (std::size_t h = 0; h < 6; ++h) {
    const auto one = attend(q_heads[h], k_heads[h / 3], v_heads[h / 3]);
    EXPECT_SAME_BITS(all.out.middleCols(static_cast<Index>(h) * 5, 5).eval(), one.out);
    EXPECT_SAME_BITS(all.lse.col(static_cast<Index>(h)).eval(), one.lse);
  }
}

TEST(MultiHeadAttend, WorksOnFeaturesByTokens) {
  // (heads * d) x n, column-major: one token after the other, as convolution libraries keep them.
  const Matrix<float> q = random_matrix<float>(20, 12, 1), k = random_matrix<float>(30, 12, 2),
                      v = random_matrix<float>(30, 12, 3);
  const Matrix<float> q_t = q.transpose(), k_t = k.transpose(), v_t = v.transpose();
  Matrix<float> out_t(12, 20), lse_t(3, 20);
  multi_head_attend_into(out_t.transpose(), lse_t.transpose(), q_t.transpose(), k_t.transpose(), v_t.transpose(),
                         {.n_heads = 3});
  const auto want = multi_head_attend(q, k, v, {.n_heads = 3});
  EXPECT_SAME_BITS(out_t.transpose().eval(), want.out);
  EXPECT_SAME_BITS(lse_t.transpose().eval(), want.lse);
}

TEST(MultiHeadAttend, TakesOneMethodPerHead) {
  const Matrix<float> q = random_matrix<float>(20, 8, 1), k = random_matrix<float>(30, 8, 2),
                      v = random_matrix<float>(30, 8, 3);
  struct Slope {
    float slope;
    float operator()(float s, Index i, Index j) const { return s - slope * static_cast<float>(std::abs(i - j)); }
  };
  const std::vector<ExactAttention<Slope>> methods{{Slope{0.5f}}, {Slope{0.1f}}};
  const auto all = multi_head_attend(q, k, v, {.n_heads = 2}, {}, methods);
  for (Index h = 0; h < 2; ++h) {
    const auto one = attend(q.middleCols(4 * h, 4), k.middleCols(4 * h, 4), v.middleCols(4 * h, 4), {},
                            methods[static_cast<std::size_t>(h)]);
    EXPECT_SAME_BITS(all.out.middleCols(4 * h, 4).eval(), one.out);
  }
  EXPECT_THROW(multi_head_attend(q, k, v, {.n_heads = 4}, {}, methods), OptionError);
}

TEST(MultiHeadAttend, NanInAKeyThatOnlyOtherHeadsSeeGoesNowhere) {
  for (const Index n_q : {1, 3, 20}) {
    const Matrix<float> q = random_matrix<float>(n_q, 16, 1);
    Matrix<float> k = random_matrix<float>(300, 4, 2), v = random_matrix<float>(300, 4, 3);
    Matrix<bool> allowed = Matrix<bool>::Constant(4 * n_q, 300, true);
    allowed.middleRows(n_q, n_q).col(77).setConstant(false);  // head 1 does not see key 77
    const auto clean = multi_head_attend(q, k, v, {.n_heads = 4, .n_kv_heads = 1}, {.mask = {.allowed = allowed}});
    k.row(77).setConstant(nan_of<float>());
    v.row(77).setConstant(nan_of<float>());
    const auto got = multi_head_attend(q, k, v, {.n_heads = 4, .n_kv_heads = 1}, {.mask = {.allowed = allowed}});
    EXPECT_SAME_BITS(got.out.middleCols(4, 4).eval(), clean.out.middleCols(4, 4).eval());
    for (const Index h : {0, 2, 3}) EXPECT_TRUE(is_nan(got.out(0, 4 * h)));
  }
}

TEST(MultiHeadAttend, OutputsOfTheWrongShapeAreRefusedAndUntouched) {
  const Matrix<float> q = random_matrix<float>(20, 8, 1), k = random_matrix<float>(30, 8, 2),
                      v = random_matrix<float>(30, 6, 3);
  const auto said = [&](Matrix<float> out, Matrix<float> lse, const AttentionOptions& options = {}) {
    out.setConstant(7.0f);
    lse.setConstant(7.0f);
    std::string text = "nothing";
    try {
      multi_head_attend_into(out, lse, q, k, v, {.n_heads = 2}, options);
    } catch (const std::invalid_argument& error) {
      text = error.what();
    }
    return (out.array() == 7.0f).all() && (lse.array() == 7.0f).all() ? text : "outputs were written: " + text;
  };
  const std::vector<float> slopes{0.5f, 0.25f, 0.125f};
  EXPECT_EQ(said(Matrix<float>(20, 6), Matrix<float>(20, 2)), "outputs were written: nothing");
  EXPECT_EQ(said(Matrix<float>(20, 5), Matrix<float>(20, 2)).find("heed: out is 20 x 5"), 0u);
  EXPECT_EQ(said(Matrix<float>(19, 6), Matrix<float>(20, 2)).find("heed: out is 19 x 6"), 0u);
  EXPECT_EQ(said(Matrix<float>(20, 6), Matrix<float>(20, 3)).find("heed: lse is 20 x 3"), 0u);
  EXPECT_EQ(said(Matrix<float>(20, 6), Matrix<float>(2, 20)).find("heed: lse is 2 x 20"), 0u);
  EXPECT_NE(
      said(Matrix<float>(20, 6), Matrix<float>(20, 2), {.mask = {.alibi_slope = slopes}}).find("one per head (2)"),
      std::string::npos);
}

TEST(MultiHeadAttend, NoTokensNoResult) {
  const Matrix<float> none(0, 8), some = random_matrix<float>(5, 8, 1);
  EXPECT_EQ(multi_head_attend(none, some, some, {.n_heads = 2}).out.rows(), 0);
  const auto no_keys = multi_head_attend(some, none, none, {.n_heads = 2});
  EXPECT_EQ(no_keys.out.cwiseAbs().maxCoeff(), 0.0f);
  EXPECT_TRUE(same_bits(no_keys.lse(4, 1), minus_infinity_of<float>()));
}

}  // namespace
}  // namespace heed::test
