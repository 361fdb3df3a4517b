#include "heed/engine/page_look.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/attend_within.hpp"
#include "heed/core/flops.hpp"
#include "heed/engine/tolerance_row.hpp"
#include "heed/engine/tolerance_scan.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/reference.hpp"
#include "heed/io/cache_file.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test::page_look {
namespace {

constexpr Index page = detail::Int8Layout::keys, first = detail::Int8Rows::n_first;
constexpr Index n_taught = 40;  // queries after which there are enough probes to leave out pages

TEST(PageLook, IsItsFormulaInPlainLoops) {
  for (const Index d : {5, 12, 64}) {
    SCOPED_TRACE(d);
    const Index n = 700, d_v = 7;
    const float centre = d == 12 ? 20.0f : 0.0f;  // far from 0 values are much alike, and share is of the denominator
    KeyValueCache<Int8> cache(d, d_v);
    // Columns that follow one another: the queries' direction is one that keys vary along.
    Matrix<float> keys = random_matrix<float>(n + 90, d, 1);
    for (Index c = 0; c < d; ++c)
      keys.col(c) += 0.5f * std::sin(static_cast<float>(c + 1)) * random_matrix<float>(n + 90, 1, 3);
    cache.append(keys, (random_matrix<float>(n + 90, d_v, 2).array() + centre).matrix().eval());
    cache.truncate(n);
    const detail::Int8Rows tokens = cache.heads()[0].rows();
    Workspace workspace;
    Workspace::Frame frame(workspace);
    const auto memory = frame.take<std::byte>(1 << 20);
    detail::Scratch scratch(memory);
    const Isa isa = active_isa();
    detail::PageScan scan(scratch, 1, tokens.n_pages - 2, d_v);
    detail::PageLook look(scratch, tokens.n_pages, tokens.layout, isa);
    std::vector<float> q(static_cast<std::size_t>(tokens.layout.d_padded + 16));
    for (Index c = 0; c < d; ++c) q[static_cast<std::size_t>(c)] = std::sin(static_cast<float>(c + 1));
    std::vector<std::int8_t> bytes(q.size());
    const float scale = 0.7f;
    const detail::ScanQuery query{detail::quantised_query(q.data(), d, tokens.layout.d_padded, bytes.data()),
                                  scale / std::log(2.0f)};
    detail::SoftmaxState<float> exact(scratch, 1, 16);
    exact.clear();
    exact.factor = query.factor;
    exact.m[0] = 1.5f;
    exact.l[0] = 2;
    for (Index c = 0; c < d_v; ++c) exact.out[c] = 0.3f * static_cast<float>(c);
    look.run(tokens, query, scale, exact, scan);

    const Index n_pages = scan.end - scan.first;
    std::vector<double> mean(static_cast<std::size_t>(n_pages)), variance(mean), spread(mean), guess(mean);
    double top = 1.5, whole = 0, along = 0, alone = 0;
    const Index width = detail::Int8Rows::moment_width(d), stride = width + 16;
    for (Index c = 0; c < d; ++c) {
      const auto of_query = [&](Index e) { return static_cast<double>(q[static_cast<std::size_t>(e)]); };
      for (Index e = 0; e < d; ++e)
        along += of_query(c) * static_cast<double>(tokens.moments[c * stride + e]) * of_query(e);
      alone += of_query(c) * static_cast<double>(tokens.moments[c * stride + c]) * of_query(c);
    }
    const double correlation = std::clamp(along / alone, 1.0, 16.0);
    Matrix<double> out = Matrix<double>::Zero(1, d_v), values(n_pages, d_v);
    for (Index p = 0; p < n_pages; ++p) {
      const auto at = static_cast<std::size_t>(p);
      Matrix<float> k(page, d), v(page, d_v);
      for (Index j = 0; j < page; ++j) {
        tokens.widen_key(first + (1 + p) * page + j, k.row(j).data());
        tokens.widen_value(first + (1 + p) * page + j, v.row(j).data());
      }
      values.row(p) = v.cast<double>().colwise().mean();
      spread[at] = (v.cast<double>().rowwise() - values.row(p)).squaredNorm() / page;
      for (Index c = 0; c < d; ++c) {
        const auto column = k.col(c).cast<double>().eval();
        const double of_query = static_cast<double>(q[static_cast<std::size_t>(c)]), of_column = column.mean();
        mean[at] += of_query * of_column;
        variance[at] += correlation * std::pow(static_cast<double>(scale) * of_query, 2) *
                        (column.array() - of_column).square().mean();
      }
      top = std::max(top, mean[at]);
    }
    EXPECT_NEAR(static_cast<double>(scan.guess_top), top, 0.02);
    for (Index p = 0; p < n_pages; ++p) {
      const auto at = static_cast<std::size_t>(p);
      guess[at] = page * std::exp(scale * (mean[at] - top) + std::min(variance[at] / 2, 3.0));
      out += guess[at] * values.row(p);
      whole += guess[at];
    }
    whole += 2 * std::exp(scale * (1.5 - top));
    for (Index c = 0; c < d_v; ++c) out(0, c) += 0.3 * static_cast<double>(c) * std::exp(scale * (1.5 - top));
    for (Index p = 0; p < n_pages; ++p) {
      const auto at = static_cast<std::size_t>(p);
      const double sigma = std::sqrt(variance[at]);
      const double share = std::exp(scale * (mean[at] - top) + 4 * sigma) * std::min(1.0, sigma) *
                           std::max(std::sqrt(page * spread[at]) / out.norm(), 1 / whole);
      EXPECT_NEAR(static_cast<double>(scan.variance[p]), variance[at], 0.01 * variance[at]);
      EXPECT_NEAR(static_cast<double>(scan.guess[p]), guess[at], 0.02 * guess[at]);
      EXPECT_NEAR(static_cast<double>(scan.share[p]), share, 0.06 * share);
    }

    // Nothing is scanned: all that is left out is in the budget.
    scan.want(1e30);
    EXPECT_EQ(scan.n_scanned(), 0);
    detail::PageScan* scans[] = {&scan};
    detail::PageScanner scanner(scratch, isa);
    for (Index chunk = 0; chunk < scan.n_chunks(); ++chunk) scanner.run(tokens, &query, 1, chunk, scans);
    detail::ToleranceRow row(scratch, tokens.n_pages, tokens.layout, isa);
    row.begin(tokens, query, scale, exact, {}, scan);
    const detail::SoftmaxState<float> now = row.answer();
    double square = 0, budget = 0, mass = 2 * std::exp(scale * (1.5 - top));
    for (Index c = 0; c < d_v; ++c) square += std::pow(static_cast<double>(now.out[c]), 2);
    for (Index p = 0; p < n_pages; ++p) {
      const auto at = static_cast<std::size_t>(p);
      mass += guess[at];
      budget += guess[at] * guess[at] * std::min(std::expm1(variance[at]), page - 1.0) / page * spread[at] / square;
    }
    EXPECT_NEAR(static_cast<double>(now.l[0]), mass, 0.02 * mass);
    EXPECT_NEAR(row.cut_for(0).budget, budget, 0.05 * budget);
  }
}

/// Keys of which those of a page are the same.
Matrix<float> stairs(Index n, Index d, std::uint64_t seed) {
  Matrix<float> keys = random_matrix<float>(n, d, seed);
  for (Index j = first; j < n; ++j) keys.row(j) = keys.row(j - (j - first) % page);
  return keys;
}

TEST(PageLook, PagesOfOneKeyAreKnownWithoutAScan) {
  const Index n = 4000, d = 64, n_q = 80;
  const Matrix<float> k = stairs(n, d, 1), v = random_matrix<float>(n, d, 2), q = random_matrix<float>(n_q, d, 3);
  KeyValueCache<Int8> cache(d);
  cache.append(k, v);
  Index scans = 0;
  for (Index i = 0; i < n_q; ++i) {
    FlopCounter flops;
    const auto got = attend_within(0.05, q.row(i), cache, {}, {.flops = &flops});
    if (i < n_taught || got.path(0, 0) != TolerancePath::scan) continue;
    ++scans;
    EXPECT_LT(flops.products(Phase::scores), 0.2 * 2 * n * d) << "query " << i;
    const auto want =
        reference_attention(q.row(i).cast<double>().eval(), k.cast<double>().eval(), v.cast<double>().eval());
    EXPECT_LT((got.out.cast<double>() - want.out).norm() / want.out.norm(), 0.02);
  }
  EXPECT_GT(scans, (n_q - n_taught) * 3 / 4);
}

/// Four heads over two of keys: of each pair one query looks at the newest keys alone, the other at all.
struct LocalHeads {
  static constexpr Index n = 6000, n_q = 80, d = 32;
  Matrix<float> q{n_q, 4 * d}, k = random_matrix<float>(n, 2 * d, 1), v = random_matrix<float>(n, 2 * d, 2);
  LocalHeads() {
    v.array() += 0.5f;
    for (Index j = 0; j < n; ++j) {
      const float age = static_cast<float>(n - j) / 60;
      k(j, 0) = k(j, d) = -std::min(age, 30.0f);
    }
    const Matrix<float> all = random_matrix<float>(n_q, 4 * d, 3);
    q = 0.5f * all;
    for (Index i = 0; i < n_q; ++i) {
      for (Index h = 0; h < 4; ++h) q(i, h * d) = h % 2 == 0 ? 3.0f : 0.0f;
    }
  }
};

TEST(PageLook, LeavesOutPagesThatAQueryDoesNotLookAt) {
  const LocalHeads heads;
  KeyValueCache<Int8> cache(LocalHeads::d);
  cache.append(heads.k.leftCols(LocalHeads::d), heads.v.leftCols(LocalHeads::d));
  Index scans = 0, honest = 0, few = 0;
  for (Index i = 0; i < LocalHeads::n_q; ++i) {
    const Matrix<float> q = heads.q.block(i, 0, 1, LocalHeads::d);
    FlopCounter flops;
    const auto got = attend_within(0.05, q, cache, {}, {.flops = &flops});
    if (i < n_taught || got.path(0, 0) != TolerancePath::scan) continue;
    ++scans;
    if (flops.products(Phase::scores) < 0.5 * 2 * LocalHeads::n * LocalHeads::d) ++few;
    const auto want =
        reference_attention(q.cast<double>().eval(), heads.k.leftCols(LocalHeads::d).cast<double>().eval(),
                            heads.v.leftCols(LocalHeads::d).cast<double>().eval());
    const double error = (got.out.cast<double>() - want.out).norm() / want.out.norm();
    EXPECT_LT(error, 0.08) << "query " << i;
    if (error <= 1.5 * got.reported(0, 0)) ++honest;
  }
  EXPECT_GT(scans, (LocalHeads::n_q - n_taught) / 2);
  EXPECT_GE(few, scans / 2);
  EXPECT_GE(honest, scans * 95 / 100);
}

TEST(PageLook, SameBitsForThreadsSplitsOfAppendsAndFiles) {
  const LocalHeads heads;
  KeyValueCache<Int8> one(LocalHeads::d, LocalHeads::d, 2), two(one);
  one.append(heads.k, heads.v);
  for (Index j = 0; j < LocalHeads::n; j += 999) {
    const Index more = std::min<Index>(999, LocalHeads::n - j);
    two.append(heads.k.middleRows(j, more), heads.v.middleRows(j, more));
  }
  const std::string path = ::testing::TempDir() + "page_look.safetensors";
  save_cache(path, one);
  KeyValueCache<Int8> loaded = load_cache(path);
  std::remove(path.c_str());
  const auto want = attend_within(0.05, heads.q, one);
  const auto threaded = attend_within(0.05, heads.q, two, {}, {.threads = 3});
  const auto read = attend_within(0.05, heads.q, loaded);
  EXPECT_SAME_BITS(threaded.out, want.out);
  EXPECT_SAME_BITS(threaded.reported, want.reported);
  EXPECT_SAME_BITS(read.out, want.out);
  EXPECT_SAME_BITS(read.reported, want.reported);
  EXPECT_EQ(read.paths, want.paths);
}

TEST(PageLook, SameBitsWhateverAWorkspaceHeldBefore) {
  const LocalHeads heads;
  for (const float held : {3.0f, 40.0f, std::numeric_limits<float>::quiet_NaN()}) {
    KeyValueCache<Int8> one(LocalHeads::d, LocalHeads::d, 2), two(one);
    for (auto* cache : {&one, &two}) cache->append(heads.k, heads.v);
    Workspace workspace;
    for (Index i = 0; i < LocalHeads::n_q; ++i) {
      {
        Workspace::Frame frame(workspace);
        std::fill_n(frame.take<float>(600000), 600000, held);
      }
      const auto a = attend_within(0.05, heads.q.row(i), one, {}, {.workspace = &workspace});
      const auto b = attend_within(0.05, heads.q.row(i), two);
      EXPECT_SAME_BITS(a.out, b.out) << held << ", query " << i;
      EXPECT_SAME_BITS(a.reported, b.reported) << held << ", query " << i;
    }
  }
}

}  // namespace
}  // namespace heed::test::page_look
