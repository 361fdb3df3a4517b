// What stands in the place of v: matrices, stored values and sources of one's own, through every door.
#include "heed/exact/call_values.hpp"

#include <span>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/exact/attend_over.hpp"
#include "heed/exact/multi_head.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test::call_values {
namespace {

/// What a source was given, and how often.
struct Seen {
  int calls = 0;
  bool workspace = false;
  Index heads_per_kv = 0;
};

/// Twice a matrix, made during the call.
template <class S>
class Doubled {
 public:
  using Scalar = S;
  static constexpr bool computes_rows = true;
  static constexpr const char *rows_from = "halves", *columns_from = "halves of heads";

  Doubled(const Matrix<S>& v, Seen& seen) : v_(v), seen_(seen) {}
  Index n_keys() const { return v_.rows(); }
  Index width() const { return v_.cols(); }

  template <class Call, class Run>
  void attend_heads(std::span<Call> calls, Index heads_per_kv, const AttentionOptions& options, const Run& run,
                    const Context& context) const {
    ++seen_.calls;
    seen_.workspace = context.workspace != nullptr;
    seen_.heads_per_kv = heads_per_kv;
    const Matrix<S> rows = S(2) * v_;
    const Index n_calls = static_cast<Index>(calls.size()), d_v = width() * heads_per_kv / n_calls;
    for (Index c = 0; c < n_calls; ++c) {
      const S* first = rows.data() + c / heads_per_kv * d_v;
      calls[static_cast<std::size_t>(c)].v = {first, n_keys(), d_v, width(), 1};
    }
    run.run(std::span<const Call>(calls), heads_per_kv, options, context);
  }

 private:
  const Matrix<S>& v_;
  Seen& seen_;
};

static_assert(ComputedValues<Doubled<float>> && ValueSource<Doubled<float>>);
static_assert(!ComputedValues<StoredValues<float>> && !ComputedValues<Matrix<float>>);

struct Operands {
  Index n_q = 41, n_k = 77, d = 8, d_v = 5;
  HeadOptions heads{.n_heads = 6, .n_kv_heads = 2};
  Matrix<float> q = random_matrix<float>(n_q, 6 * d, 1), k = random_matrix<float>(n_k, 2 * d, 2),
                v = random_matrix<float>(n_k, 2 * d_v, 3);
  Matrix<float> q_one = q.leftCols(d), k_one = k.leftCols(d), v_one = v.leftCols(d_v);
  AttentionOptions options{.mask = {.causal = Causal::bottom_right, .n_real_keys = 70}};
};

/// Every door gives the same bits for `values(v)` as for the matrix `same(v)`.
template <class Values, class Same>
void expect_same_everywhere(const Values& values, const Same& same) {
  const Operands in;
  const Matrix<float> one = same(in.v_one), all = same(in.v);
  const auto want = attend(in.q_one, in.k_one, one, in.options);
  const auto got = attend(in.q_one, in.k_one, values(in.v_one), in.options);
  EXPECT_SAME_BITS(got.out, want.out);
  EXPECT_SAME_BITS(got.lse, want.lse);
  Matrix<float> out(in.n_q, in.d_v);
  Vector<float> lse(in.n_q);
  attend_into(out, lse, in.q_one, in.k_one, values(in.v_one), in.options);
  EXPECT_SAME_BITS(out, want.out);
  EXPECT_SAME_BITS(lse, want.lse);
  const DensePattern dense{in.n_q, in.n_k};
  EXPECT_SAME_BITS(attend_over(dense, in.q_one, in.k_one, values(in.v_one), in.options).out,
                   attend_over(dense, in.q_one, in.k_one, one, in.options).out);

  const auto all_heads = multi_head_attend(in.q, in.k, all, in.heads, in.options);
  const auto heads = multi_head_attend(in.q, in.k, values(in.v), in.heads, in.options);
  EXPECT_SAME_BITS(heads.out, all_heads.out);
  EXPECT_SAME_BITS(heads.lse, all_heads.lse);
  const std::vector<ExactAttention<>> list(2);
  EXPECT_SAME_BITS(multi_head_attend(in.q, in.k, values(in.v), in.heads, in.options, list).out, all_heads.out);
  Matrix<float> packed_out(in.n_q, 6 * in.d_v), packed_lse(in.n_q, 6);
  multi_head_attend_into(packed_out, packed_lse, in.q, in.k, values(in.v), in.heads, in.options);
  EXPECT_SAME_BITS(packed_out, all_heads.out);
  EXPECT_SAME_BITS(packed_lse, all_heads.lse);
}

TEST(CallValues, StoredOnesGoWhereverAMatrixGoes) {
  expect_same_everywhere([](const Matrix<float>& v) { return StoredValues(v); },
                         [](const Matrix<float>& v) { return v; });
}

TEST(CallValues, OfASourceOfOnesOwnGoWhereverAMatrixGoes) {
  Seen seen;
  expect_same_everywhere([&](const Matrix<float>& v) { return Doubled<float>(v, seen); },
                         [](const Matrix<float>& v) { return Matrix<float>(2.0f * v); });
  EXPECT_EQ(seen.calls, 6);  // once a call
  EXPECT_EQ(seen.heads_per_kv, 3);
  EXPECT_TRUE(seen.workspace);  // though the caller brought none
}

TEST(CallValues, OfASourceAreNotAskedForWithoutQueries) {
  const Operands in;
  Seen seen;
  const Doubled<float> values(in.v, seen);
  const Matrix<float> no_q = in.q.topRows(0), no_q_one = in.q_one.topRows(0);
  EXPECT_EQ(multi_head_attend(no_q, in.k, values, in.heads).out.rows(), 0);
  EXPECT_EQ(attend(no_q_one, in.k_one, Doubled<float>(in.v_one, seen)).out.rows(), 0);
  EXPECT_EQ(seen.calls, 0);
}

template <class Call>
std::string said(const Call& call) {
  try {
    call();
  } catch (const ShapeError& error) {
    return error.what();
  }
  return "nothing";
}

TEST(CallValues, NameTheArgumentsTheyComeFrom) {
  const Operands in;
  const Matrix<float> short_one = in.v_one.topRows(9), seven = random_matrix<float>(in.n_k, 7, 4);
  Seen seen;
  const auto one = [&](const auto& values) { return said([&] { attend(in.q_one, in.k_one, values); }); };
  EXPECT_EQ(one(Doubled<float>(short_one, seen)), "heed: rows(k) = 77 but rows(halves) = 9: they must be equal");
  EXPECT_EQ(one(StoredValues(short_one)), "heed: rows(k) = 77 but rows(v) = 9: they must be equal");
  EXPECT_EQ(one(short_one), "heed: rows(k) = 77 but rows(v) = 9: they must be equal");
  const auto all = [&](const auto& values) { return said([&] { multi_head_attend(in.q, in.k, values, in.heads); }); };
  EXPECT_EQ(all(Doubled<float>(seven, seen)), "heed: cols(halves of heads) = 7 must be a multiple of n_kv_heads = 2");
  EXPECT_EQ(all(StoredValues(seven)), "heed: cols(v) = 7 must be a multiple of n_kv_heads = 2");
  EXPECT_EQ(seen.calls, 0);
}

}  // namespace
}  // namespace heed::test::call_values
