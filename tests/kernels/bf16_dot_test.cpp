// Kernels of the bfloat16 dot instruction against plain loops. They need a CPU that has it, whatever set is active.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/engine/head_call.hpp"
#include "heed/kernels/bf16_kernels.hpp"
#include "heed/kernels/select.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/strided.hpp"

namespace heed::test::bf16_dot {
namespace {

using heed::detail::Bf16Kernels;
using heed::detail::Bf16Pair;
using heed::detail::Bfloat;
using heed::detail::Size;
using BfloatMatrix = Matrix<Eigen::bfloat16>;

constexpr Size lanes = 16, rows_of_tile = 8, max_vectors = 3;
constexpr Index list[] = {3, 4, 9, 10, 11, 12, 13, 20, 21, 22, 23, 24, 25, 26, 30, 31, 32, 38};

class BfloatDot : public testing::Test {
 protected:
  void SetUp() override {
    kernels_ = heed::detail::bf16_kernels(Isa::avx512_bf16);
    if (kernels_ == nullptr || !heed::detail::has_isa(Isa::avx512_bf16))
      GTEST_SKIP() << "the CPU has no bfloat16 dot instruction";
  }
  const Bf16Kernels& kernels() const { return *kernels_; }

 private:
  const Bf16Kernels* kernels_ = nullptr;
};

/// Every kind of number: subnormal, NaN with a payload, infinite.
BfloatMatrix any_bits(Index rows, Index cols, std::uint64_t seed) {
  NumberStream numbers(seed);
  BfloatMatrix m(rows, cols);
  for (Index t = 0; t < m.size(); ++t)
    m.data()[t] = std::bit_cast<Eigen::bfloat16>(static_cast<std::uint16_t>(numbers.bits()));
  return m;
}

template <class M>
std::uint16_t bits_at(const M& m, Index row, Index col) {
  return row < m.rows() && col < m.cols() ? std::bit_cast<std::uint16_t>(Eigen::bfloat16(m(row, col)))
                                          : std::uint16_t{0};
}

std::vector<Bf16Pair> garbage(Size n) {
  return std::vector<Bf16Pair>(static_cast<std::size_t>(n), Bf16Pair{{0x7fc1}, {0x7fc2}});
}
bool is_garbage(const Bf16Pair& pair) { return pair.first.bits == 0x7fc1 && pair.second.bits == 0x7fc2; }
Bf16Pair& at(std::vector<Bf16Pair>& all, Size index) { return all[static_cast<std::size_t>(index)]; }
float& at(std::vector<float>& all, Size index) { return all[static_cast<std::size_t>(index)]; }
float number(Bfloat x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }

/// Runs check(map, row list) on every layout a caller's matrix may have.
template <class Check>
void for_each_layout(const BfloatMatrix& m, Index n_listed, const Check& check) {
  for (const Layout layout : {Layout::rows, Layout::columns, Layout::both, Layout::spread}) {
    const Strided<Eigen::bfloat16> strided(m, layout);
    SCOPED_TRACE(static_cast<int>(layout));
    check(strided.map(), static_cast<const Index*>(nullptr));
    if (n_listed > 0) check(strided.map(), list);
  }
}

TEST_F(BfloatDot, QueriesAreTurnedToPairsOfFeaturesBitForBit) {
  for (const Index n_rows : {1, 5, 16, 18}) {
    for (const Index n_cols : {1, 2, 7, 16, 33, 64, 65}) {
      const BfloatMatrix m = any_bits(40, n_cols, 1);
      for_each_layout(m, n_rows, [&](const auto& map, const Index* rows) {
        const Size n_pairs = (n_cols + 1) / 2, width = (n_rows + lanes - 1) / lanes * lanes, to_stride = width + 3;
        std::vector<Bf16Pair> to = garbage(n_pairs * to_stride + lanes);
        kernels().transpose(heed::detail::kernel_pointer(map.data()), map.outerStride(), map.innerStride(), rows,
                            n_rows, n_cols, to.data(), to_stride);
        Index wrong = 0;
        for (Size t = 0; t < n_pairs; ++t) {
          for (Size i = 0; i < to_stride; ++i) {
            const Bf16Pair pair = at(to, t * to_stride + i);
            if (i >= width) {
              wrong += !is_garbage(pair);
              continue;
            }
            const Index row = i >= n_rows ? m.rows() : rows == nullptr ? i : rows[i];
            wrong += pair.first.bits != bits_at(m, row, 2 * t) || pair.second.bits != bits_at(m, row, 2 * t + 1);
          }
        }
        EXPECT_EQ(wrong, 0) << n_rows << " x " << n_cols;
      });
    }
  }
}

TEST_F(BfloatDot, KeysAreGatheredToPairsOfFeaturesBitForBit) {
  for (const Index n_rows : {1, 5, 16, 18}) {
    for (const Index n_cols : {1, 2, 7, 16, 33, 64, 65}) {
      const BfloatMatrix m = any_bits(40, n_cols, 2);
      for_each_layout(m, n_rows, [&](const auto& map, const Index* rows) {
        const Size n_pairs = (n_cols + 1) / 2, to_stride = n_pairs + 1;
        std::vector<Bf16Pair> to = garbage(n_rows * to_stride + lanes);
        kernels().gather(heed::detail::kernel_pointer(map.data()), map.outerStride(), map.innerStride(), rows, n_rows,
                         n_cols, to.data(), to_stride);
        Index wrong = 0;
        for (Size j = 0; j < n_rows; ++j) {
          const Index row = rows == nullptr ? j : rows[j];
          for (Size t = 0; t < n_pairs; ++t) {
            const Bf16Pair pair = at(to, j * to_stride + t);
            wrong += pair.first.bits != bits_at(m, row, 2 * t) || pair.second.bits != bits_at(m, row, 2 * t + 1);
          }
          wrong += !is_garbage(at(to, j * to_stride + n_pairs));
        }
        EXPECT_EQ(wrong, 0) << n_rows << " x " << n_cols;
      });
    }
  }
}

TEST_F(BfloatDot, ValuesArePackedToPairsOfKeysBitForBit) {
  for (const Index n_rows : {1, 5, 16, 18}) {
    for (const Index n_cols : {1, 7, 8, 9, 16, 27, 64}) {
      const BfloatMatrix m = any_bits(40, n_cols, 3);
      for_each_layout(m, n_rows, [&](const auto& map, const Index* rows) {
        const Size n_pairs = (n_rows + 1) / 2, n_blocks = (n_cols + rows_of_tile - 1) / rows_of_tile,
                   stride = (n_pairs + 1) * rows_of_tile;
        std::vector<Bf16Pair> to = garbage(n_blocks * stride);
        kernels().pack_values(heed::detail::kernel_pointer(map.data()), map.outerStride(), map.innerStride(), rows,
                              n_rows, n_cols, to.data(), stride);
        Index wrong = 0;
        for (Size c = 0; c < n_blocks * rows_of_tile; ++c) {
          const Size column = c / rows_of_tile * stride + c % rows_of_tile;
          for (Size t = 0; t < n_pairs; ++t) {
            const Bf16Pair pair = at(to, column + t * rows_of_tile);
            const auto row = [&](Index j) { return j >= n_rows ? m.rows() : rows == nullptr ? j : rows[j]; };
            wrong += pair.first.bits != bits_at(m, row(2 * t), c) || pair.second.bits != bits_at(m, row(2 * t + 1), c);
          }
          wrong += !is_garbage(at(to, column + n_pairs * rows_of_tile));
        }
        EXPECT_EQ(wrong, 0) << n_rows << " x " << n_cols;
      });
    }
  }
}

/// Runs check for every part of a panel a kernel may be asked to work on.
template <class Check>
void for_each_part(const Check& check) {
  for (Size vectors = 1; vectors <= max_vectors; ++vectors) {
    for (Size first = 0; first < vectors; ++first) {
      for (Size count = 1; first + count <= vectors; ++count) check(vectors * lanes, first, count);
    }
  }
}

std::vector<float> numbers(Size n, std::uint64_t seed) {
  NumberStream stream(seed);
  std::vector<float> all(static_cast<std::size_t>(n));
  for (float& x : all) x = static_cast<float>(stream.normal());
  return all;
}

std::vector<Bf16Pair> pairs(Size n, std::uint64_t seed) {
  const BfloatMatrix m = random_matrix<Eigen::bfloat16>(n, 2, seed);
  std::vector<Bf16Pair> all = garbage(n);
  for (Size t = 0; t < n; ++t) at(all, t) = {{bits_at(m, t, 0)}, {bits_at(m, t, 1)}};
  return all;
}

double product(const Bf16Pair& a, const Bf16Pair& b) {
  return static_cast<double>(number(a.first)) * static_cast<double>(number(b.first)) +
         static_cast<double>(number(a.second)) * static_cast<double>(number(b.second));
}

bool close(float got, double want, double size) {
  return std::abs(static_cast<double>(got) - want) <=
         8.0 * std::numeric_limits<float>::epsilon() * (std::abs(want) + size);
}

TEST_F(BfloatDot, ScoresAreProductsAndTheirMaximum) {
  for_each_part([&](Size panel, Size first, Size count) {
    for (const Size n_keys : {1, 2, 7, 8, 9, 31}) {
      for (const Size n_pairs : {1, 2, 16, 19}) {
        const Size k_stride = n_pairs + 2;
        std::vector<Bf16Pair> k = pairs(n_keys * k_stride, 1), q = pairs(n_pairs * panel, 2);
        std::vector<float> s(static_cast<std::size_t>(n_keys * panel), 77.0f),
            top(static_cast<std::size_t>(panel), -0.5f);
        kernels().scores(&k.front().first, 2 * k_stride, n_keys, q.data(), n_pairs, panel, first, count, s.data(),
                         top.data());
        for (Size i = 0; i < panel; ++i) {
          const bool touched = i >= first * lanes && i < (first + count) * lanes;
          float largest = -0.5f;
          for (Size j = 0; j < n_keys; ++j) {
            double want = 0.0;
            for (Size t = 0; t < n_pairs; ++t) want += product(at(k, j * k_stride + t), at(q, t * panel + i));
            const float got = at(s, j * panel + i);
            ASSERT_TRUE(touched ? close(got, want, std::sqrt(2.0 * static_cast<double>(n_pairs))) : got == 77.0f)
                << "key " << j << ", query " << i;
            largest = std::max(largest, got);
          }
          ASSERT_EQ(at(top, i), touched ? largest : -0.5f) << "query " << i;
        }
      }
    }
  });
}

TEST_F(BfloatDot, ScoresReadKeysAtAnyAddress) {
  const Size n_keys = 9, n_pairs = 3, panel = lanes;
  const BfloatMatrix m = random_matrix<Eigen::bfloat16>(n_keys, 7, 1);  // an odd number of entries from row to row
  std::vector<Bf16Pair> q = pairs(n_pairs * panel, 2);
  std::vector<float> s(static_cast<std::size_t>(n_keys * panel)),
      top(static_cast<std::size_t>(panel), minus_infinity_of<float>());
  kernels().scores(heed::detail::kernel_pointer(m.data()) + 1, 7, n_keys, q.data(), n_pairs, panel, 0, 1, s.data(),
                   top.data());
  for (Size j = 0; j < n_keys; ++j) {
    for (Size i = 0; i < panel; ++i) {
      double want = 0.0;
      for (Size t = 0; t < n_pairs; ++t)
        want += product({{bits_at(m, j, 1 + 2 * t)}, {bits_at(m, j, 2 + 2 * t)}}, at(q, t * panel + i));
      ASSERT_TRUE(close(at(s, j * panel + i), want, 3.0)) << "key " << j << ", query " << i;
    }
  }
}

TEST_F(BfloatDot, WeightsAreThoseOfFloatRoundedToPairs) {
  const auto& tiles = heed::detail::tile_kernels<float>(Isa::avx512);
  for_each_part([&](Size panel, Size first, Size count) {
    for (const Size n_keys : {1, 2, 5, 16, 127}) {
      std::vector<float> s = numbers(n_keys * panel, 1), base = numbers(panel, 2), l = numbers(panel, 3);
      for (float& x : base) x += 2.0f;
      s[0] = minus_infinity_of<float>();
      s.back() = nan_of<float>();
      std::vector<float> weights = s, want_l = l, got = s;
      tiles.weigh(n_keys, panel, first, count, 1.5f, base.data(), weights.data(), want_l.data());
      kernels().weigh(n_keys, panel, first, count, 1.5f, base.data(), got.data(), l.data());
      for (Size i = 0; i < panel; ++i) {
        ASSERT_TRUE(same_bits(at(l, i), at(want_l, i))) << "the sum is that of the weights before rounding";
        if (i < first * lanes || i >= (first + count) * lanes) continue;
        for (Size j = 0; j < n_keys + n_keys % 2; ++j) {
          const auto pair = std::bit_cast<Bf16Pair>(at(got, j / 2 * panel + i));
          const float rounded = number(j % 2 == 0 ? pair.first : pair.second);
          const float want = j < n_keys ? static_cast<float>(Eigen::bfloat16(at(weights, j * panel + i))) : 0.0f;
          ASSERT_TRUE(is_nan(want) ? is_nan(rounded) : same_bits(rounded, want))
              << "key " << j << " of " << n_keys << ", query " << i;
        }
      }
      for (Size t = 0; t < n_keys * panel; ++t) {  // what the call was not asked about stays
        const Size i = t % panel;
        if (i < first * lanes || i >= (first + count) * lanes) {
          ASSERT_TRUE(same_bits(at(got, t), at(s, t)));
        }
      }
    }
  });
}

TEST_F(BfloatDot, ValuesAreProductsOverCorrectedSums) {
  for_each_part([&](Size panel, Size first, Size count) {
    for (const Size n_pairs : {0, 1, 5, 20}) {
      for (const Size d_v : {1, 7, 8, 12, 27}) {
        const Size stride = (n_pairs + 1) * rows_of_tile;
        std::vector<Bf16Pair> v = pairs((d_v + rows_of_tile - 1) / rows_of_tile * stride, 1),
                              w = pairs(std::max<Size>(1, n_pairs) * panel, 2);
        const std::vector<float> before = numbers(d_v * panel, 3);
        std::vector<float> correction = numbers(panel, 4), out = before;
        std::vector<float> weights(w.size());
        for (std::size_t t = 0; t < w.size(); ++t) weights[t] = std::bit_cast<float>(w[t]);
        kernels().values(v.data(), stride, n_pairs, weights.data(), d_v, panel, first, count, correction.data(),
                         out.data());
        std::vector<float> over_zeros(before.size()), over_nothing(before.size(), nan_of<float>());
        kernels().values(v.data(), stride, n_pairs, weights.data(), d_v, panel, first, count, correction.data(),
                         over_zeros.data());
        kernels().values(v.data(), stride, n_pairs, weights.data(), d_v, panel, first, count, nullptr,
                         over_nothing.data());
        for (Size c = 0; c < d_v; ++c) {
          for (Size i = 0; i < panel; ++i) {
            const auto entry = static_cast<std::size_t>(c * panel + i);
            double want = static_cast<double>(before[entry]) * static_cast<double>(at(correction, i));
            for (Size t = 0; t < n_pairs; ++t) {
              want +=
                  product(at(v, c / rows_of_tile * stride + t * rows_of_tile + c % rows_of_tile), at(w, t * panel + i));
            }
            const bool touched = i >= first * lanes && i < (first + count) * lanes;
            ASSERT_TRUE(touched ? close(out[entry], want, 1.0 + static_cast<double>(n_pairs))
                                : out[entry] == before[entry])
                << "column " << c << ", query " << i;
            ASSERT_TRUE(touched ? over_nothing[entry] == over_zeros[entry] : is_nan(over_nothing[entry]))
                << "without a correction nothing is read";
          }
        }
      }
    }
  });
}

TEST_F(BfloatDot, FinitenessIsSeenInEveryNumberAndCleaned) {
  for (const Size n : {1, 8, 15, 16, 17, 40}) {
    std::vector<Bf16Pair> all = pairs(n + 1, 1);
    at(all, n) = {{0x7f80}, {0xffff}};  // outside
    EXPECT_TRUE(kernels().all_finite(all.data(), n));
    for (const std::uint16_t bad : {0x7f80, 0xff80, 0x7fc0, 0x7f81, 0xffff}) {
      for (Size t = 0; t < n; ++t) {
        for (const bool second : {false, true}) {
          std::vector<Bf16Pair> spoiled = all, cleaned = garbage(n + 1);
          (second ? at(spoiled, t).second : at(spoiled, t).first).bits = bad;
          ASSERT_FALSE(kernels().all_finite(spoiled.data(), n)) << "pair " << t;
          kernels().clean(spoiled.data(), n, cleaned.data());
          (second ? at(spoiled, t).second : at(spoiled, t).first).bits = 0;
          for (Size other = 0; other < n; ++other) {
            ASSERT_EQ(at(cleaned, other).first.bits, at(spoiled, other).first.bits);
            ASSERT_EQ(at(cleaned, other).second.bits, at(spoiled, other).second.bits);
          }
          ASSERT_TRUE(is_garbage(at(cleaned, n)));
        }
      }
    }
  }
}

TEST_F(BfloatDot, NeighbouringRowsAreInterleavedBitForBit) {
  for (const Index n_rows : {1, 2, 5, 18}) {
    for (const Index n_cols : {1, 15, 16, 33}) {
      const BfloatMatrix m = any_bits(40, n_cols, 4);
      for_each_layout(m, n_rows, [&](const auto& map, const Index* rows) {
        const Size n_pairs = (n_rows + 1) / 2, width = (n_cols + lanes - 1) / lanes * lanes, stride = width + 2;
        std::vector<Bf16Pair> to = garbage(n_pairs * stride);
        kernels().interleave(heed::detail::kernel_pointer(map.data()), map.outerStride(), map.innerStride(), rows,
                             n_rows, n_cols, to.data(), stride);
        const auto row = [&](Index i) { return i >= n_rows ? m.rows() : rows == nullptr ? i : rows[i]; };
        Index wrong = 0;
        for (Size t = 0; t < n_pairs; ++t) {
          for (Size c = 0; c < width; ++c) {
            const Bf16Pair pair = at(to, t * stride + c);
            wrong += pair.first.bits != bits_at(m, row(2 * t), c) || pair.second.bits != bits_at(m, row(2 * t + 1), c);
          }
          wrong += !is_garbage(at(to, t * stride + width));
        }
        EXPECT_EQ(wrong, 0) << n_rows << " x " << n_cols;
      });
    }
  }
}

TEST_F(BfloatDot, StripsArePairedByKeysAndByQueries) {
  const auto rounded = [](float x) { return std::bit_cast<std::uint16_t>(Eigen::bfloat16(x)); };
  for_each_part([&](Size panel, Size first, Size count) {
    for (const Size n_keys : {1, 2, 7, 16}) {
      const std::vector<float> s = numbers(n_keys * panel, 5);
      const auto entry = [&](Size j, Size i) {
        return j < n_keys ? rounded(s[static_cast<std::size_t>(j * panel + i)]) : std::uint16_t{0};
      };
      std::vector<float> keys((static_cast<std::size_t>((n_keys + 1) / 2 * panel)), 77.0f);
      kernels().pair_keys(n_keys, panel, first, count, s.data(), keys.data());
      const Size n_pairs = count * lanes / 2, stride = n_pairs + 1;
      std::vector<Bf16Pair> queries = garbage(n_keys * stride);
      kernels().pair_queries(n_keys, panel, first, count, s.data(), queries.data(), stride);
      for (Size j = 0; j < n_keys; ++j) {
        for (Size t = 0; t < n_pairs; ++t) {
          const Bf16Pair pair = at(queries, j * stride + t);
          const Size i = first * lanes + 2 * t;
          ASSERT_TRUE(pair.first.bits == entry(j, i) && pair.second.bits == entry(j, i + 1)) << "key " << j;
        }
        ASSERT_TRUE(is_garbage(at(queries, j * stride + n_pairs)));
        if (j % 2 != 0) continue;
        for (Size i = 0; i < panel; ++i) {
          const float got = at(keys, j / 2 * panel + i);
          if (i < first * lanes || i >= (first + count) * lanes) {
            ASSERT_EQ(got, 77.0f);
            continue;
          }
          const auto pair = std::bit_cast<Bf16Pair>(got);
          ASSERT_TRUE(pair.first.bits == entry(j, i) && pair.second.bits == entry(j + 1, i)) << "key " << j;
        }
      }
    }
  });
}

TEST_F(BfloatDot, ProductsOfPairsAreAdded) {
  for (const Size n_rows : {1, 5, 6, 13}) {
    for (const Size n_pairs : {0, 1, 24}) {
      for (const Size columns : {16, 64, 80}) {
        const Size a_stride = n_pairs + 1, b_stride = columns + 3, to_stride = columns + 1;
        std::vector<Bf16Pair> a = pairs(n_rows * a_stride, 6), b = pairs((n_pairs + 1) * b_stride, 7);
        const std::vector<float> before = numbers(n_rows * to_stride, 8);
        std::vector<float> to = before;
        kernels().add_products(a.data(), a_stride, n_rows, b.data(), b_stride, n_pairs, columns, to.data(), to_stride);
        for (Size r = 0; r < n_rows; ++r) {
          for (Size c = 0; c < to_stride; ++c) {
            const auto entry = static_cast<std::size_t>(r * to_stride + c);
            double want = static_cast<double>(before[entry]);
            for (Size t = 0; t < n_pairs && c < columns; ++t)
              want += product(at(a, r * a_stride + t), at(b, t * b_stride + c));
            ASSERT_TRUE(c < columns ? close(to[entry], want, 1.0 + static_cast<double>(n_pairs))
                                    : to[entry] == before[entry])
                << n_rows << " x " << n_pairs << " x " << columns << ", row " << r << ", column " << c;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace heed::test::bf16_dot
