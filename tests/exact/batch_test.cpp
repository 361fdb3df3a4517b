#include "heed/exact/batch.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/pattern_attention.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/approx/tc_state.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/tensor_view.hpp"
#include "heed/exact/attend_over.hpp"
#include "heed/exact/attention_weights.hpp"
#include "heed/exact/batch_backward.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/reference.hpp"
#include "heed/exact/reference_backward.hpp"
#include "heed/trees/fit_tree.hpp"
#include "support/allocations.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"

namespace heed::test::batch {
namespace {

using BoolMatrix = OptionStore::BoolMatrix;

// A batch in memory of its own, in one of the layouts that other libraries have.
template <class S>
struct Batch {
  Index n_entries, n_heads, n_kv_heads, n_q, n_k, d, d_v;
  std::vector<S> q_numbers, k_numbers, v_numbers;
  TensorView<const S> q, k, v;

  Matrix<double> head(const TensorView<const S>& t, Index b, Index h) const {
    Matrix<double> rows(t.tokens(), t.width());
    for (Index i = 0; i < rows.rows(); ++i) {
      for (Index c = 0; c < rows.cols(); ++c) {
        rows(i, c) =
            static_cast<double>(t.data[b * t.strides[0] + h * t.strides[1] + i * t.strides[2] + c * t.strides[3]]);
      }
    }
    return rows;
  }
};

enum class Layout { heads_first, tokens_first, column_major };

template <class S>
TensorView<const S> tensor(Layout layout, std::vector<S>& numbers, Index batch, Index heads, Index tokens, Index width,
                           std::uint64_t seed) {
  const Matrix<S> drawn = random_matrix<S>(batch * heads * tokens, width, seed);
  numbers.assign(drawn.data(), drawn.data() + drawn.size());
  switch (layout) {
    case Layout::heads_first: return heads_first<const S>(numbers.data(), batch, heads, tokens, width);
    case Layout::tokens_first: return tokens_first<const S>(numbers.data(), batch, tokens, heads, width);
    case Layout::column_major: break;  // (heads * width) x (tokens * batch), features side by side
  }
  return {numbers.data(), {batch, heads, tokens, width}, {heads * width, width, batch * heads * width, 1}};
}

template <class S = float>
Batch<S> batch_of(Layout layout, Index n_q, Index n_k, Index n_entries = 3, Index n_heads = 4, Index n_kv_heads = 2) {
  Batch<S> made{n_entries, n_heads, n_kv_heads, n_q, n_k, 8, 6, {}, {}, {}, {}, {}, {}};
  made.q = tensor(layout, made.q_numbers, n_entries, n_heads, n_q, 8, 11);
  made.k = tensor(layout, made.k_numbers, n_entries, n_kv_heads, n_k, 8, 12);
  made.v = tensor(layout, made.v_numbers, n_entries, n_kv_heads, n_k, 6, 13);
  return made;
}

// Masks of pairs given as tensors.
struct PairTensors {
  const TensorView<const float>* bias = nullptr;
  const TensorView<const bool>* allowed = nullptr;
};

// The rows of all heads of one entry, stacked; a size of 1 stands for any.
template <class M, class T>
M stacked_rows(const TensorView<T>& t, Index b, Index n_heads, Index n_q) {
  M rows(n_heads * n_q, t.width());
  const auto at = [&](std::size_t dimension, Index i) {
    return t.sizes[dimension] == 1 ? 0 : i * t.strides[dimension];
  };
  for (Index h = 0; h < n_heads; ++h) {
    for (Index i = 0; i < n_q; ++i) {
      for (Index j = 0; j < t.width(); ++j)
        rows(h * n_q + i, j) = t.data[at(0, b) + at(1, h) + at(2, i) + j * t.strides[3]];
    }
  }
  return rows;
}

// Options of one entry, made by hand: what the library makes of lengths, rows and tensors is not asked.
struct EntryMasks {
  BoolMatrix keys, allowed;
  Matrix<float> bias;
  std::vector<Index> key_length, query_length;
  AttentionOptions of(const AttentionOptions& given, Index b, const PairTensors& tensors = {}, Index n_heads = 1,
                      Index n_q = 0) {
    AttentionOptions own = given;
    if (tensors.bias != nullptr) own.mask.bias = bias = stacked_rows<Matrix<float>>(*tensors.bias, b, n_heads, n_q);
    if (tensors.allowed != nullptr)
      own.mask.allowed = allowed = stacked_rows<BoolMatrix>(*tensors.allowed, b, n_heads, n_q);
    if (given.mask.keys.given()) {
      keys.resize(1, given.mask.keys.cols());
      for (Index j = 0; j < keys.cols(); ++j)
        keys(0, j) = given.mask.keys.at(given.mask.keys.rows() == 1 ? 0 : b, j) != 0.0;
      own.mask.keys = keys;
    }
    const auto e = static_cast<std::size_t>(b);
    if (!given.mask.key_lengths.empty()) own.mask.key_lengths = key_length = {given.mask.key_lengths[e]};
    if (!given.mask.query_lengths.empty()) own.mask.query_lengths = query_length = {given.mask.query_lengths[e]};
    return own;
  }
};

template <class S>
void expect_batch(const Batch<S>& in, const AttentionOptions& options, double tolerance = 2e-5,
                  const PairTensors& tensors = {}) {
  for (const Index threads : {1, 2, 3}) {
    SCOPED_TRACE("threads = " + std::to_string(threads));
    const auto got = batch_attend(in.q, in.k, in.v, options, ExactAttention<>{}, {.threads = threads});
    ASSERT_EQ(got.out.rows(), in.n_entries * in.n_q);
    ASSERT_EQ(got.lse.cols(), in.n_heads);
    for (Index b = 0; b < in.n_entries; ++b) {
      EntryMasks masks;
      const AttentionOptions own = masks.of(options, b, tensors, in.n_heads, in.n_q);
      for (Index h = 0; h < in.n_heads; ++h) {
        const Index kv = h / (in.n_heads / in.n_kv_heads);
        const auto want =
            reference_attention(in.head(in.q, b, h), in.head(in.k, b, kv), in.head(in.v, b, kv), own, NoScoreMod{}, h);
        const Matrix<double> out = got.out.block(b * in.n_q, h * in.d_v, in.n_q, in.d_v).template cast<double>();
        EXPECT_LE((out - want.out).cwiseAbs().maxCoeff(), tolerance) << "entry " << b << " head " << h;
        for (Index i = 0; i < in.n_q; ++i) {
          const auto lse = static_cast<double>(got.lse(b * in.n_q + i, h));
          if (std::isinf(want.lse(i)) || std::isinf(lse)) {
            EXPECT_EQ(lse, want.lse(i));
          } else {
            EXPECT_NEAR(lse, want.lse(i), tolerance);
          }
        }
      }
    }
  }
}

TEST(Batch, EveryLayoutGivesEachHeadItsAnswer) {
  for (const Layout layout : {Layout::heads_first, Layout::tokens_first, Layout::column_major}) {
    expect_batch(batch_of(layout, 37, 53), {});
    expect_batch(batch_of<double>(layout, 5, 130, 2, 3, 1), {}, 1e-12);
  }
}

TEST(Batch, ColumnMajorBoards) {  // features x (tokens x batch), boards one after the other
  std::vector<float> numbers;
  Batch<float> in = batch_of(Layout::heads_first, 19, 19, 2, 2, 2);
  const Index width = 2 * 8;
  in.q.strides = in.k.strides = {19 * width, 8, width, 1};
  in.v.strides = {19 * 12, 6, 12, 1};
  expect_batch(in, {});
}

TEST(Batch, EveryOptionMeansForEachEntryWhatItMeansAlone) {
  const Batch<float> in = batch_of(Layout::tokens_first, 37, 53);
  const OptionStore store(37, 53, 4);
  for (const OptionKind& kind : option_kinds(store)) {
    if (kind.name == "key_length" || kind.name == "query_length") continue;  // below, one an entry
    SCOPED_TRACE(kind.name);
    expect_batch(in, options_of(store, kind), 1e-4);
  }
}

// Three entries whose keys, lengths, masks and biases all differ.
struct Padded {
  std::vector<Index> key_lengths{53, 20, 31}, query_lengths{37, 11, 0};
  BoolMatrix keys{3, 53};
  std::vector<float> bias;
  bool allowed[3 * 37 * 53];
  Padded() {
    NumberStream numbers(3);
    for (Index i = 0; i < 3 * 53; ++i) keys.data()[i] = numbers.uniform() < 0.4;
    for (Index i = 0; i < 3 * 4 * 37 * 53; ++i) bias.push_back(static_cast<float>(numbers.uniform()));
    for (bool& one : allowed) one = numbers.uniform() < 0.8;
  }
};

TEST(Batch, EntriesHaveKeysLengthsMasksAndBiasesOfTheirOwn) {
  const Batch<float> in = batch_of(Layout::heads_first, 37, 53);
  const Padded masks;
  const TensorView<const float> whole{masks.bias.data(), {3, 4, 37, 53}, {4 * 37 * 53, 37 * 53, 53, 1}};
  AttentionOptions options;
  options.mask.keys = masks.keys;
  expect_batch(in, options);
  options.mask.key_lengths = masks.key_lengths;
  expect_batch(in, options);
  options.mask.query_lengths = masks.query_lengths;
  options.sinks = 0.3;
  expect_batch(in, options);
  options.mask.causal = Causal::bottom_right;
  expect_batch(in, options);
  options.mask.bias = whole;
  options.mask.alibi_slope = 0.1;
  expect_batch(in, options, 2e-5, {&whole});
  const TensorView<const bool> allowed{masks.allowed, {3, 1, 37, 53}, {37 * 53, 0, 53, 1}};
  options.mask.allowed = allowed;
  expect_batch(in, options, 2e-5, {&whole, &allowed});
  for (const Index ones : {0, 1, 2}) {
    TensorView<const float> some = whole;
    some.sizes[static_cast<std::size_t>(ones)] = 1;
    options.mask.bias = some;
    expect_batch(in, options, 2e-5, {&some, &allowed});
  }
}

TEST(Batch, OnnxOffsetsForAPast) {  // queries continue a past of 16 keys: shift is its length, the future hidden
  AttentionOptions options;
  options.mask.causal = Causal::top_left;
  options.mask.shift = 16;
  expect_batch(batch_of(Layout::heads_first, 37, 53), options);
}

TEST(Batch, FlashAttentionsWindowsWithoutACausalMask) {  // centred on i + n_k - n_q
  AttentionOptions options;
  options.mask.shift = 53 - 37;
  options.mask.window_left = 5;
  options.mask.window_right = 2;
  expect_batch(batch_of(Layout::tokens_first, 37, 53), options);
}

TEST(Batch, PaddedCachesHaveACornerAnEntry) {  // each entry's last query sees its own last key
  const std::vector<Index> key_lengths{53, 20, 40};
  AttentionOptions options;
  options.mask.causal = Causal::bottom_right;
  options.mask.key_lengths = key_lengths;
  const Batch<float> in = batch_of(Layout::heads_first, 4, 53);
  expect_batch(in, options);
  const auto got = batch_attend(in.q, in.k, in.v, options);
  const auto alone =
      attention_weights(in.head(in.q, 1, 0).cast<float>().eval(), in.head(in.k, 1, 0).topRows(20).cast<float>().eval(),
                        {.mask = {.causal = Causal::bottom_right}});
  EXPECT_EQ(alone(0, 17), 0.0f);
  EXPECT_GT(alone(0, 16), 0.0f);
  const Matrix<float> out = alone * in.head(in.v, 1, 0).topRows(20).cast<float>();
  EXPECT_LE((got.out.block(4, 0, 4, 6) - out).cwiseAbs().maxCoeff(), 1e-5f);
}

TEST(Batch, AbsentKeysMayHoldAnything) {
  Batch<float> in = batch_of(Layout::heads_first, 37, 53, 2, 2, 2);
  BoolMatrix keys = BoolMatrix::Constant(1, 53, true);
  for (Index j = 0; j < 53; j += 3) {
    keys(0, j) = false;
    for (Index bh = 0; bh < 4; ++bh) {
      for (Index c = 0; c < 8; ++c) in.k_numbers[static_cast<std::size_t>((bh * 53 + j) * 8 + c)] = nan_of<float>();
      for (Index c = 0; c < 6; ++c) in.v_numbers[static_cast<std::size_t>((bh * 53 + j) * 6 + c)] = nan_of<float>();
    }
  }
  AttentionOptions options;
  options.mask.keys = keys;
  expect_batch(in, options);
  const auto tree = fit_tree(random_matrix<float>(53, 8, 1), random_matrix<float>(37, 8, 2), {.height = 2});
  const auto r = batch_attend(in.q, in.k, in.v, options, TfAttention<float>(tree));
  EXPECT_TRUE(r.out.allFinite());
  const auto gradients = batch_attend_backward(r.out, in.q, in.k, in.v, r, options, TfAttention<float>(tree));
  EXPECT_TRUE(gradients.d_q.allFinite() && gradients.d_k.allFinite() && gradients.d_v.allFinite());
  EXPECT_TRUE(gradients.d_tree.planes.allFinite());
  KeyValueCache<float> cache(8, 6);
  cache.append(in.head(in.k, 0, 0).cast<float>().eval(), in.head(in.v, 0, 0).cast<float>().eval());
  const Matrix<float> one = in.head(in.q, 0, 0).topRows(1).cast<float>();
  const auto decoded = attend(one, cache, options);
  const auto want = reference_attention(one, in.head(in.k, 0, 0).cast<float>().eval(),
                                        in.head(in.v, 0, 0).cast<float>().eval(), options);
  EXPECT_LE((decoded.out - want.out).cwiseAbs().maxCoeff(), 1e-5f);
}

TEST(Batch, WorkFallsWithTheKeysAndQueriesLeft) {
  const Batch<float> in = batch_of(Layout::heads_first, 37, 53);
  const Padded masks;
  AttentionOptions options;
  options.mask.keys = masks.keys;
  options.mask.key_lengths = masks.key_lengths;
  options.mask.query_lengths = masks.query_lengths;
  double pairs = 0;
  for (Index b = 0; b < 3; ++b) {
    const auto e = static_cast<std::size_t>(b);
    for (Index j = 0; j < masks.key_lengths[e]; ++j)
      pairs += masks.keys(b, j) ? 4.0 * static_cast<double>(masks.query_lengths[e]) : 0.0;
  }
  for (const Index threads : {1, 2, 5}) {
    FlopCounter flops;
    batch_attend(in.q, in.k, in.v, options, ExactAttention<>{}, {.flops = &flops, .threads = threads});
    EXPECT_EQ(flops.products(Phase::scores), 2 * 8 * pairs);
    EXPECT_EQ(flops.exponentials(), pairs);
  }
}

TEST(Batch, ThreadsThatShareOutHeadsChangeNoBitAndNoCount) {  // enough work to wake them
  const Batch<float> in = batch_of(Layout::tokens_first, 190, 230, 6);
  const std::vector<Index> key_lengths{230, 1, 100, 229, 0, 77}, query_lengths{190, 190, 3, 0, 64, 189};
  BoolMatrix keys(6, 230);
  NumberStream numbers(8);
  for (Index t = 0; t < keys.size(); ++t) keys.data()[t] = numbers.uniform() < 0.7;
  AttentionOptions options;
  options.mask.keys = keys;
  options.mask.key_lengths = key_lengths;
  options.mask.query_lengths = query_lengths;
  const auto check = [&](const auto& method) {
    Workspace workspace;
    FlopCounter want_flops;
    const auto want = batch_attend(in.q, in.k, in.v, options, method, {.flops = &want_flops, .threads = 1});
    for (const Index threads : {2, 3, 4, 5, 2}) {
      FlopCounter flops;
      const auto got = batch_attend(in.q, in.k, in.v, options, method,
                                    {.flops = &flops, .workspace = &workspace, .threads = threads});
      EXPECT_EQ(got.out, want.out);
      EXPECT_TRUE((got.lse.array() == want.lse.array()).all());
      EXPECT_EQ(flops.products(), want_flops.products());
      EXPECT_EQ(flops.real_tokens(), want_flops.real_tokens());
    }
  };
  check(ExactAttention<>{});
  check(TfAttention<float>(fit_tree(random_matrix<float>(99, 8, 1), random_matrix<float>(99, 8, 2), {.height = 2})));
  check(std::vector<WindowAttention>(2, WindowAttention(30, 5)));
}

TEST(Batch, MethodsAreOneOrOneAHead) {
  const Batch<float> in = batch_of(Layout::heads_first, 37, 37);
  const std::vector<WindowAttention> windows{WindowAttention(1), WindowAttention(20), WindowAttention(3),
                                             WindowAttention(0)};
  const auto got = batch_attend(in.q, in.k, in.v, {}, windows, {.threads = 2});
  for (Index h = 0; h < 4; ++h) {
    const auto want = attend(in.head(in.q, 2, h).cast<float>().eval(), in.head(in.k, 2, h / 2).cast<float>().eval(),
                             in.head(in.v, 2, h / 2).cast<float>().eval(), {}, windows[static_cast<std::size_t>(h)]);
    const Matrix<float> out = got.out.block(2 * 37, h * 6, 37, 6);
    EXPECT_EQ(out, want.out) << "the bits of one head alone";
  }
}

TEST(Batch, IntoWritesAnyLayoutAndNoLse) {
  const Batch<float> in = batch_of(Layout::heads_first, 37, 53);
  const auto want = batch_attend(in.q, in.k, in.v);
  std::vector<float> out(3 * 4 * 37 * 6, -1.0f), lse(3 * 4 * 37, -1.0f);
  batch_attend_into(heads_first(out.data(), 3, 4, 37, 6), nullptr, in.q, in.k, in.v);
  batch_attend_into(heads_first(out.data(), 3, 4, 37, 6), heads_first(lse.data(), 3, 4, 37, 1), in.q, in.k, in.v);
  for (Index b = 0; b < 3; ++b) {
    for (Index h = 0; h < 4; ++h) {
      for (Index i = 0; i < 37; ++i) {
        EXPECT_EQ(lse[static_cast<std::size_t>((b * 4 + h) * 37 + i)], want.lse(b * 37 + i, h));
        EXPECT_EQ(out[static_cast<std::size_t>(((b * 4 + h) * 37 + i) * 6 + 5)], want.out(b * 37 + i, h * 6 + 5));
      }
    }
  }
}

TEST(Batch, TheSecondCallWithAWorkspaceAllocatesNothing) {
  if (!counts_allocations()) GTEST_SKIP() << "allocations are not counted here";
  const Batch<float> in = batch_of(Layout::heads_first, 37, 53);
  const Padded masks;
  AttentionOptions options;
  options.mask.keys = masks.keys;
  options.mask.key_lengths = masks.key_lengths;
  std::vector<float> out(3 * 4 * 37 * 6);
  Workspace workspace;
  const auto run = [&] {
    batch_attend_into(heads_first(out.data(), 3, 4, 37, 6), nullptr, in.q, in.k, in.v, options, ExactAttention<>{},
                      {.workspace = &workspace, .threads = 1});
  };
  run();
  const std::uint64_t before = allocations();
  run();
  EXPECT_EQ(allocations(), before);
}

TEST(Batch, SaysWhatDoesNotFitAndWritesNothing) {
  const Batch<float> in = batch_of(Layout::heads_first, 37, 53);
  std::vector<float> out(3 * 4 * 37 * 6, 7.0f);
  const auto expect = [&](const std::vector<std::string>& words, const auto& change) {
    Batch<float> wrong = in;
    AttentionOptions options;
    change(wrong, options);
    try {
      batch_attend_into(heads_first(out.data(), 3, 4, 37, 6), nullptr, wrong.q, wrong.k, wrong.v, options);
      ADD_FAILURE() << "nothing thrown for " << words.front();
    } catch (const std::invalid_argument& error) {
      for (const std::string& word : words)
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
    for (const float one : out) ASSERT_EQ(one, 7.0f);
  };
  using B = Batch<float>;
  using O = AttentionOptions;
  const std::vector<Index> two{1, 2}, long_ones{53, 54, 1}, offsets{0, 37}, three{1, 2, 3};
  const BoolMatrix column = BoolMatrix::Constant(53, 1, true), four = BoolMatrix::Constant(4, 53, true);
  expect({"batch of k = 2", "3"}, [](B& w, O&) { w.k.sizes[0] = 2; });
  expect({"heads of q = 3", "multiple", "2"}, [](B& w, O&) { w.q.sizes[1] = 3; });
  expect({"heads of v = 1", "2"}, [](B& w, O&) { w.v.sizes[1] = 1; });
  expect({"cols(q) = 7", "cols(k) = 8"}, [](B& w, O&) { w.q.sizes[3] = 7; });
  expect({"rows(k) = 53", "52"}, [](B& w, O&) { w.v.sizes[2] = 52; });
  expect({"q.data is null"}, [](B& w, O&) { w.q.data = nullptr; });
  expect({"q has a tokens size of -1"}, [](B& w, O&) { w.q.sizes[2] = -1; });
  expect({"tokens of out = 37", "36"}, [](B& w, O&) { w.q.sizes[2] = 36; });
  expect({"Mask::key_lengths has 2 entries", "3"}, [&](B&, O& o) { o.mask.key_lengths = two; });
  expect({"Mask::key_lengths[1] = 54", "rows(k) = 53"}, [&](B&, O& o) { o.mask.key_lengths = long_ones; });
  expect({"Mask::query_lengths[0] = 53", "rows(q) = 37"}, [&](B&, O& o) { o.mask.query_lengths = long_ones; });
  expect({"cols(mask.keys) = 1", "rows(k) = 53", "transpose"}, [&](B&, O& o) { o.mask.keys = column; });
  expect({"cols(mask.allowed) = 1", "transpose"}, [&](B&, O& o) { o.mask.allowed = column; });
  expect({"rows(mask.keys) = 4", "(3)"}, [&](B&, O& o) { o.mask.keys = four; });
  expect({"Mask::sequence_offsets", "Mask::key_lengths"}, [&](B&, O& o) {
    o.mask.sequence_offsets = offsets;
    o.mask.key_lengths = three;
  });
  expect({"Mask::shift = 3", "Causal::top_left"}, [](B&, O& o) {
    o.mask.causal = Causal::bottom_right;
    o.mask.shift = 3;
  });
  expect({"Mask::shift", "2^40"}, [](B&, O& o) { o.mask.shift = std::numeric_limits<Index>::min(); });
  expect({"mask.bias has 2 heads", "n_heads = 4"}, [&](B& w, O& o) {
    o.mask.bias = TensorView<const float>{w.q_numbers.data(), {1, 2, 1, 53}, {0, 0, 0, 0}};
  });
}

TEST(Batch, GradientsAreThoseOfEachEntry) {
  const Batch<double> in = batch_of<double>(Layout::tokens_first, 37, 53);
  const Padded masks;
  AttentionOptions options;
  options.mask.keys = masks.keys;
  options.mask.key_lengths = masks.key_lengths;
  options.mask.query_lengths = masks.query_lengths;
  options.mask.causal = Causal::bottom_right;
  options.sinks = 0.3;
  const auto r = batch_attend(in.q, in.k, in.v, options);
  const Matrix<double> d_out = random_matrix<double>(3 * 37, 4 * 6, 5), d_lse = random_matrix<double>(3 * 37, 4, 6);
  const auto got =
      batch_attend_backward(d_out, in.q, in.k, in.v, r, options, ExactAttention<>{}, {.threads = 2}, {.d_lse = d_lse});
  const auto also = batch_attend_backward(tokens_first<const double>(d_out.data(), 3, 37, 4, 6), in.q, in.k, in.v, r,
                                          options, ExactAttention<>{}, {.threads = 1}, {.d_lse = d_lse});
  EXPECT_EQ(got.d_q, also.d_q);
  EXPECT_EQ(got.d_k, also.d_k);
  Matrix<double> d_k = Matrix<double>::Zero(3 * 53, 2 * 8), d_v = Matrix<double>::Zero(3 * 53, 2 * 6);
  Vector<double> d_sinks = Vector<double>::Zero(4);
  for (Index b = 0; b < 3; ++b) {
    EntryMasks entry;
    const AttentionOptions own = entry.of(options, b);
    for (Index h = 0; h < 4; ++h) {
      const Matrix<double> g = d_out.block(b * 37, h * 6, 37, 6), from_lse = d_lse.block(b * 37, h, 37, 1);
      const auto want =
          reference_attention_backward(g, in.head(in.q, b, h), in.head(in.k, b, h / 2), in.head(in.v, b, h / 2), own,
                                       NoScoreMod{}, {.d_lse = from_lse}, 0);
      EXPECT_LE((got.d_q.block(b * 37, h * 8, 37, 8) - want.d_q).cwiseAbs().maxCoeff(), 1e-11);
      d_k.block(b * 53, h / 2 * 8, 53, 8) += want.d_k;
      d_v.block(b * 53, h / 2 * 6, 53, 6) += want.d_v;
      d_sinks(h) += want.d_sinks(0);
    }
  }
  EXPECT_LE((got.d_k - d_k).cwiseAbs().maxCoeff(), 1e-11);
  EXPECT_LE((got.d_v - d_v).cwiseAbs().maxCoeff(), 1e-11);
  EXPECT_LE((got.d_sinks - d_sinks).cwiseAbs().maxCoeff(), 1e-11);
}

TEST(Batch, GradientsOfATreeAreSummedOverEntries) {
  const Batch<double> in = batch_of<double>(Layout::heads_first, 37, 53, 2, 2, 2);
  const auto tree = fit_tree(random_matrix<double>(53, 8, 1), random_matrix<double>(37, 8, 2), {.height = 2});
  const TfAttention<double> tf(tree);
  const auto r = batch_attend(in.q, in.k, in.v, {}, tf);
  const Matrix<double> d_out = random_matrix<double>(2 * 37, 2 * 6, 5);
  const auto got = batch_attend_backward(d_out, in.q, in.k, in.v, r, {}, tf);
  Matrix<double> planes = Matrix<double>::Zero(3, 8);
  for (Index b = 0; b < 2; ++b) {
    for (Index h = 0; h < 2; ++h) {
      const auto q = in.head(in.q, b, h), k = in.head(in.k, b, h), v = in.head(in.v, b, h);
      const Matrix<double> g = d_out.block(b * 37, h * 6, 37, 6);
      planes += attend_backward(g, q, k, v, attend(q, k, v, {}, tf), {}, tf).d_tree.planes;
    }
  }
  EXPECT_GT(planes.norm(), 0.0);
  EXPECT_LE((got.d_tree.planes - planes).cwiseAbs().maxCoeff(), 1e-11);
}

TEST(Batch, EmptyBatchesAndEntriesHaveGradientsOfTheirSizes) {
  const auto tree = fit_tree(random_matrix<double>(53, 8, 1), random_matrix<double>(37, 8, 2), {.height = 2});
  const Matrix<double> bias = Matrix<double>::Zero(37, 53);
  for (const auto& [n_entries, n_q] : {std::pair<Index, Index>{0, 37}, {2, 0}}) {
    const Batch<double> in = batch_of<double>(Layout::heads_first, n_q, 53, n_entries, 4, 2);
    AttentionOptions options;
    options.sinks = 0.5;
    const Matrix<double> own_bias = bias.topRows(n_q);
    options.mask.bias = own_bias;
    const auto r = batch_attend(in.q, in.k, in.v, options, TfAttention<double>(tree));
    const auto g =
        batch_attend_backward(r.out, in.q, in.k, in.v, r, options, TfAttention<double>(tree), {}, {.bias = true});
    EXPECT_EQ(g.d_k, Matrix<double>::Zero(n_entries * 53, 16));
    EXPECT_EQ(g.d_sinks, Vector<double>::Zero(4));
    EXPECT_EQ(g.d_bias, Matrix<double>::Zero(n_q, 53));
    EXPECT_EQ(g.d_tree.planes, Matrix<double>::Zero(3, 8));
  }
}

// Two groups of queries, made for the padded length: each sees every third key.
struct Halves {
  Index n_q, n_k;
  std::vector<Index> keys_{};
  Halves(Index queries, Index keys) : n_q(queries), n_k(keys) {
    for (Index j = 0; j < n_k; j += 3) keys_.push_back(j);
  }
  Index n_groups() const { return 2; }
  TokenSet queries(Index g) const { return {g * (n_q / 2), g == 0 ? n_q / 2 : n_q - n_q / 2}; }
  Index n_segments(Index) const { return 1; }
  TokenSet keys(Index, Index) const { return {0, static_cast<Index>(keys_.size()), keys_.data()}; }
};

TEST(Batch, PatternsKnowQueriesThatArePadding) {
  const Batch<float> in = batch_of(Layout::heads_first, 37, 53);
  const std::vector<Index> lengths{37, 11, 0};
  AttentionOptions options;
  options.mask.query_lengths = lengths;
  const PatternAttention pattern([](Index n_q, Index n_k) {
    EXPECT_EQ(n_q, 37);
    return Halves(n_q, n_k);
  });
  const auto got = batch_attend(in.q, in.k, in.v, options, pattern);
  for (Index b = 0; b < 3; ++b) {
    const std::vector<Index> one{lengths[static_cast<std::size_t>(b)]};
    AttentionOptions own;
    own.mask.query_lengths = one;
    const auto want =
        attend_over(Halves(37, 53), in.head(in.q, b, 3).cast<float>().eval(), in.head(in.k, b, 1).cast<float>().eval(),
                    in.head(in.v, b, 1).cast<float>().eval(), own);
    EXPECT_EQ((got.out.block(b * 37, 3 * 6, 37, 6)).eval(), want.out);
  }
}

TEST(Lengths, MeanTheSameToAPlanOfSamplesAndAreNoneOfAGrowingState) {
  const Matrix<float> q = random_matrix<float>(9, 8, 1), k = random_matrix<float>(12, 8, 2),
                      x = random_matrix<float>(12, 16, 3), w_v = random_matrix<float>(16, 5, 4);
  const MonteCarloValues<float> values(x, w_v, {.alpha = 3});
  const std::vector<Index> key_lengths{6}, query_lengths{4};
  AttentionOptions by_lengths, by_hand;
  by_lengths.mask.key_lengths = key_lengths;
  by_lengths.mask.query_lengths = query_lengths;
  by_lengths.mask.causal = Causal::bottom_right;
  by_hand.mask = {.causal = Causal::top_left, .shift = 2, .n_real_keys = 6};
  const auto got = values.plan(q, k, by_lengths), want = values.plan(q.topRows(4), k, by_hand);
  EXPECT_EQ(got.importance, want.importance);
  EXPECT_EQ(got.counts, want.counts);
  const TcAttention<float> tc(fit_tree(k, q, {.height = 1}), Vector<float>::Zero(2));
  Mask masks[4];
  masks[0].key_lengths = key_lengths;
  masks[1].query_lengths = query_lengths;
  masks[2].shift = 1;
  const OptionStore store(1, 1);
  masks[3].keys = store.keys;
  for (const Mask& mask : masks) EXPECT_THROW(TcState<float>(tc, 5, 0, {.mask = mask}), OptionError);
}

TEST(Tensors, WithoutDataOrInThePlaceOfAMatrixAreRefused) {
  EXPECT_THROW(BoolView(heads_first<const bool>(nullptr, 1, 1, 3, 4)), ShapeError);
  EXPECT_THROW(BiasView(heads_first<const float>(nullptr, 1, 1, 3, 4)), ShapeError);
  const Inputs<double> in = random_inputs<double>({.n_q = 7, .n_k = 9, .d = 5, .d_v = 3});
  const auto r = attend(in.q, in.k, in.v);
  const std::vector<double> d_lse(7);
  EXPECT_THROW(attend_backward(r.out, in.q, in.k, in.v, r, {}, ExactAttention<>{}, {},
                               {.d_lse = heads_first(d_lse.data(), 1, 1, 7, 1)}),
               ShapeError);
}

TEST(AttentionWeights, AreWhatValuesAreSummedBy) {
  const Inputs<double> in = random_inputs<double>({.n_q = 7, .n_k = 9, .d = 5, .d_v = 3});
  AttentionOptions options;
  options.mask.causal = Causal::bottom_right;
  options.sinks = 1.0;
  const Matrix<double> weights = attention_weights(in.q, in.k, options);
  EXPECT_LE((weights * in.v - reference_attention(in.q, in.k, in.v, options).out).cwiseAbs().maxCoeff(), 1e-12);
  EXPECT_EQ(weights(0, 3), 0.0);
  EXPECT_LT(weights.row(6).sum(), 1.0);
}

}  // namespace
}  // namespace heed::test::batch
