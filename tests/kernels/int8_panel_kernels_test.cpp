// Kernels on panels and tiles of 8 bits against plain loops, over sizes off every grid. They need a CPU that multiplies
// bytes, whatever set is active.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/kernels/int8_panel_kernels.hpp"
#include "heed/kernels/select.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test::int8_panel {
namespace {

using heed::detail::Int8KeyRows;
using heed::detail::Int8Panel;
using heed::detail::Int8PanelKernels;
using heed::detail::Int8ValueWords;
using heed::detail::Size;

constexpr Size lanes = 16;

class Int8PanelKernelsTest : public testing::Test {
 protected:
  void SetUp() override {
    kernels_ = heed::detail::int8_panel_kernels(Isa::avx512);
    if (kernels_ == nullptr || !heed::detail::has_isa(Isa::avx512)) GTEST_SKIP() << "the CPU does not multiply bytes";
  }
  const Int8PanelKernels& kernels() const { return *kernels_; }

 private:
  const Int8PanelKernels* kernels_ = nullptr;
};

/// A panel of `vectors` vectors of queries, packed, and the numbers its bytes stand for.
struct Queries {
  Queries(const Int8PanelKernels& kernels, Index d, Index vectors, std::uint64_t seed)
      : panel(vectors * lanes), rows(random_matrix<float>(d, panel, seed)) {
    bytes.assign(static_cast<std::size_t>((d + 3) / 4 * 4 * panel), 7);
    scale.assign(static_cast<std::size_t>(panel), -1.0f);
    kernels.pack_queries(rows.data(), d, panel, view());
  }
  Int8Panel view() { return {bytes.data(), scale.data()}; }
  double number(Index i, Index c) const {
    const auto byte = bytes[static_cast<std::size_t>(c / 4 * 4 * panel + 4 * i + c % 4)];
    return static_cast<double>(scale[static_cast<std::size_t>(i)]) * (byte - 128);
  }

  Index panel;
  Matrix<float> rows;  // d x panel
  std::vector<unsigned char> bytes;
  std::vector<float> scale;
};

/// Rows of keys, packed, and the numbers their bytes stand for.
struct Keys {
  Keys(const Int8PanelKernels& kernels, const Matrix<float>& k, const std::vector<float>& share)
      : stride((k.cols() + 3) / 4 * 4) {
    const auto n = static_cast<std::size_t>(k.rows() + 2);
    bytes.assign(n * static_cast<std::size_t>(stride), 7);
    offset.assign(n, 0);
    scale.assign(n, -1.0f);
    of_mean.assign(n, -1.0f);
    std::vector<float> mean(static_cast<std::size_t>(k.cols() + lanes)), top(n);
    kernels.largest(k.data(), k.cols(), k.rows(), k.cols(), top.data());
    kernels.pack_keys(k.data(), k.cols(), k.rows(), k.cols(), top.data(), share.data(), mean.data(), view());
  }
  Int8KeyRows view() { return {bytes.data(), stride, offset.data(), scale.data(), of_mean.data()}; }
  double byte(Index row, Index c) const { return bytes[static_cast<std::size_t>(row * stride + c)]; }
  double mean(Index c) const { return static_cast<double>(scale[0]) * (256 * byte(0, c) + byte(1, c)); }
  double number(Index j, Index c) const {
    const auto row = static_cast<std::size_t>(2 + j);
    return static_cast<double>(of_mean[row]) * mean(c) + static_cast<double>(scale[row]) * byte(2 + j, c);
  }

  Index stride;
  std::vector<std::int8_t> bytes;
  std::vector<std::int32_t> offset;
  std::vector<float> scale, of_mean;
};

std::vector<float> shares(Index n) { return std::vector<float>(static_cast<std::size_t>(n), 1.0f / float(n)); }

TEST_F(Int8PanelKernelsTest, QueriesAreWithinHalfAStepOfTheirBytes) {
  for (const Index d : {1, 3, 4, 7, 64, 65}) {
    const Queries queries(kernels(), d, 3, 1);
    for (Index i = 0; i < queries.panel; ++i) {
      const double step = static_cast<double>(queries.rows.col(i).cwiseAbs().maxCoeff()) / 127;
      for (Index c = 0; c < d; ++c)
        EXPECT_NEAR(queries.number(i, c), static_cast<double>(queries.rows(c, i)), 0.5001 * step);
      for (Index c = d; c < (d + 3) / 4 * 4; ++c) EXPECT_EQ(queries.number(i, c), 0.0);
    }
  }
}

TEST_F(Int8PanelKernelsTest, KeysAreWithinHalfAStepOfTheirBytesAndTheirMean) {
  for (const Index d : {1, 3, 16, 17, 66}) {
    Matrix<float> k = random_matrix<float>(37, d, 2);
    k.rowwise() += 9.0f * random_matrix<float>(1, d, 3).row(0);
    std::vector<float> share = shares(37);
    share[5] = 0;  // does not count for the mean
    k.row(5) *= 1000.0f;
    const Keys keys(kernels(), k, share);
    for (Index c = 0; c < d; ++c) {
      double mean = 0;
      for (Index j = 0; j < 37; ++j)
        mean += static_cast<double>(share[static_cast<std::size_t>(j)]) * static_cast<double>(k(j, c));
      EXPECT_NEAR(keys.mean(c), mean, 40.0 / 32258);
    }
    for (Index j = 0; j < 37; ++j) {
      double apart = 0;
      for (Index c = 0; c < d; ++c) apart = std::max(apart, std::abs(static_cast<double>(k(j, c)) - keys.mean(c)));
      const double most = std::min(apart, static_cast<double>(k.row(j).cwiseAbs().maxCoeff()));
      for (Index c = 0; c < d; ++c)
        EXPECT_NEAR(keys.number(j, c), static_cast<double>(k(j, c)), 0.501 * most / 127 + 1e-4) << j << ' ' << c;
    }
  }
}

TEST_F(Int8PanelKernelsTest, LargestTellsWhatIsNotFinite) {
  for (const Index d : {1, 15, 16, 33}) {
    Matrix<float> k = random_matrix<float>(9, d, 4);
    k(3, d - 1) = nan_of<float>();
    k(7, 0) = -infinity_of<float>();
    std::vector<float> largest(9);
    kernels().largest(k.data(), d, 9, d, largest.data());
    for (Index j = 0; j < 9; ++j) {
      const float got = largest[static_cast<std::size_t>(j)];
      EXPECT_EQ(got, j == 3 || j == 7 ? infinity_of<float>() : k.row(j).cwiseAbs().maxCoeff());
    }
  }
}

TEST_F(Int8PanelKernelsTest, ScoresAreTheProductsOfWhatBytesStandFor) {
  for (const Index d : {1, 4, 17, 64}) {
    for (const Index n : {1, 7, 8, 29}) {
      const Matrix<float> k = random_matrix<float>(n + 3, d, 5);
      Keys keys(kernels(), k, shares(n + 3));
      Queries queries(kernels(), d, 3, 6);
      for (const auto& [first, count] : std::vector<std::pair<Index, Index>>{{0, 3}, {0, 1}, {1, 2}, {2, 1}}) {
        Matrix<float> s = Matrix<float>::Constant(n, 48, 77.0f);
        std::vector<float> top(48, -1.0f);
        kernels().scores(keys.view(), 3, n, queries.view(), d, 48, first, count, s.data(), top.data());
        for (Index i = 0; i < 48; ++i) {
          const bool visited = i / lanes >= first && i / lanes < first + count;
          float largest = -1.0f;
          for (Index j = 0; j < n; ++j) {
            double want = 0;
            for (Index c = 0; c < d; ++c) want += queries.number(i, c) * keys.number(3 + j, c);
            EXPECT_NEAR(static_cast<double>(s(j, i)), visited ? want : 77.0, 1e-5 * static_cast<double>(d));
            largest = std::max(largest, s(j, i));
          }
          EXPECT_EQ(top[static_cast<std::size_t>(i)], visited ? largest : -1.0f);
        }
      }
    }
  }
}

TEST_F(Int8PanelKernelsTest, WeightsAreStepsOfTheLargest) {
  for (const Index n : {1, 2, 3, 4, 5, 63, 64}) {
    Matrix<float> s = 4.0f * random_matrix<float>(n, 48, 7);
    s.col(20).setConstant(minus_infinity_of<float>());
    s(n - 1, 3) = n > 1 ? minus_infinity_of<float>() : s(n - 1, 3);
    const float factor = 1.5f;
    std::vector<float> base(48), l(48, 2.0f), gain(48), value_scale(static_cast<std::size_t>(n));
    for (std::size_t j = 0; j < value_scale.size(); ++j) value_scale[j] = 0.1f + static_cast<float>(j % 3);
    for (Index i = 0; i < 48; ++i)
      base[static_cast<std::size_t>(i)] = i == 20 ? 0.0f : s.col(i).maxCoeff() + 0.1f * float(i % 5);
    Matrix<float> words = s;
    kernels().weigh(n, 48, 0, 3, factor, base.data(), value_scale.data(), words.data(), words.data(), l.data(),
                    gain.data());
    for (Index i = 0; i < 48; ++i) {
      const auto at = static_cast<std::size_t>(i);
      double sum = 2, most = 0;
      for (Index j = 0; j < n; ++j) {
        const double weight = std::exp2(static_cast<double>(factor) * static_cast<double>(s(j, i) - base[at]));
        const auto word = std::bit_cast<std::uint32_t>(words(j / 4, i));
        const double byte = word >> (8 * (j % 4)) & 255u;
        const double part = weight * static_cast<double>(value_scale[static_cast<std::size_t>(j)]);
        EXPECT_NEAR(byte * static_cast<double>(gain[at]), part, 0.54 * static_cast<double>(gain[at])) << j << ' ' << i;
        most = std::max(most, part);
        sum += weight;
      }
      EXPECT_NEAR(static_cast<double>(gain[at]), most / 255, 2e-4 * most / 255 + 1e-38);
      EXPECT_NEAR(static_cast<double>(l[at]), sum, 2e-4 * sum);
      for (Index j = n; j < (n + 3) / 4 * 4; ++j)
        EXPECT_EQ(std::bit_cast<std::uint32_t>(words(j / 4, i)) >> (8 * (j % 4)) & 255u, 0u);
    }
  }
}

TEST_F(Int8PanelKernelsTest, ValuesAreSumsOfWhatBytesStandFor) {
  for (const Index d_v : {1, 7, 8, 9, 24, 31}) {
    for (const Index n : {1, 4, 6, 64, 77}) {
      Matrix<float> v = random_matrix<float>(n, d_v, 8);
      const Index block_stride = ((n + 3) / 4 + 1) * 8;
      std::vector<std::int32_t> packed(static_cast<std::size_t>((d_v + 15) / 16 * 2 * block_stride), 7);
      std::vector<float> scale(static_cast<std::size_t>(n));
      const Int8ValueWords to{packed.data(), block_stride, scale.data()};
      EXPECT_TRUE(kernels().pack_values(v.data(), d_v, n, d_v, to));
      const auto byte = [&](Index j, Index c) {
        const auto word =
            static_cast<std::uint32_t>(packed[static_cast<std::size_t>(c / 8 * block_stride + j / 4 * 8 + c % 8)]);
        return static_cast<double>(static_cast<std::int8_t>(word >> (8 * (j % 4)) & 255u));
      };
      const Index n_first = std::min<Index>(n, 64);
      for (Index j = 0; j < n; ++j) {
        const double step = static_cast<double>(v.row(j).cwiseAbs().maxCoeff()) / 127;
        EXPECT_NEAR(static_cast<double>(scale[static_cast<std::size_t>(j)]), step, 1e-6 * step);
        for (Index c = 0; c < d_v; ++c)
          EXPECT_NEAR(byte(j, c) * step, static_cast<double>(v(j, c)), 0.5001 * step) << j << ' ' << c;
      }
      NumberStream numbers(9);
      std::vector<std::uint32_t> weights(static_cast<std::size_t>((n_first + 3) / 4 * 48));
      for (auto& word : weights) word = static_cast<std::uint32_t>(numbers.bits());
      std::vector<float> gain(48), correction(48), w(weights.size());
      std::transform(weights.begin(), weights.end(), w.begin(), [](auto x) { return std::bit_cast<float>(x); });
      for (std::size_t i = 0; i < 48; ++i) {
        gain[i] = 0.001f * static_cast<float>(i);
        correction[i] = 0.5f;
      }
      for (const bool corrected : {false, true}) {
        const Matrix<float> before = random_matrix<float>(d_v, 48, 10);
        Matrix<float> out = before;
        kernels().values(packed.data(), block_stride, (n_first + 3) / 4, w.data(), d_v, 48, 1, 2, gain.data(),
                         corrected ? correction.data() : nullptr, out.data());
        for (Index c = 0; c < d_v; ++c) {
          EXPECT_EQ(out(c, 5), before(c, 5));  // of a vector that is not visited
          for (Index i = lanes; i < 48; ++i) {
            double sum = 0;
            for (Index j = 0; j < (n_first + 3) / 4 * 4; ++j) {
              const std::uint32_t word = weights[static_cast<std::size_t>(j / 4 * 48 + i)];
              sum += byte(j, c) * static_cast<double>(word >> (8 * (j % 4)) & 255u);  // behind the last: 0
            }
            const double want = static_cast<double>(gain[static_cast<std::size_t>(i)]) * sum +
                                (corrected ? 0.5 * static_cast<double>(before(c, i)) : 0.0);
            EXPECT_NEAR(static_cast<double>(out(c, i)), want, 1e-5 * (1 + std::abs(want)));
          }
        }
      }
      v(n / 2, d_v - 1) = nan_of<float>();
      EXPECT_FALSE(kernels().pack_values(v.data(), d_v, n, d_v, to));
      EXPECT_EQ(byte(n / 2, d_v - 1), 0.0);
    }
  }
}

}  // namespace
}  // namespace heed::test::int8_panel
