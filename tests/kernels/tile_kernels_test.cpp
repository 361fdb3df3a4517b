// Kernels of the active instruction set against plain loops. A panel lies transposed: entry (row, query i) is at
// [row * panel + i].
#include "heed/kernels/tile_kernels.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "heed/kernels/select.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

using heed::detail::Size;
using heed::detail::storage_kernels;
using heed::detail::StorageKernels;
using heed::detail::tile_kernels;
using heed::detail::TileKernels;

template <class T>
std::vector<T> numbers(Size n, std::uint64_t seed) {
  NumberStream stream(seed);
  std::vector<T> all(static_cast<std::size_t>(n));
  for (T& x : all) x = static_cast<T>(stream.normal());
  return all;
}

template <class T>
T& at(std::vector<T>& all, Size index) {
  return all[static_cast<std::size_t>(index)];
}

template <class T>
bool close(T got, double want, double size) {
  return std::abs(static_cast<double>(got) - want) <= 8.0 * std::numeric_limits<T>::epsilon() * (std::abs(want) + size);
}

/// Runs check for every part of a panel a kernel may be asked to work on.
template <class T, class Check>
void for_each_part(const TileKernels<T>& kernels, const Check& check) {
  for (Size vectors = 1; vectors <= kernels.vectors; ++vectors) {
    for (Size first = 0; first < vectors; ++first) {
      for (Size count = 1; first + count <= vectors; ++count) check(vectors * kernels.lanes, first, count);
    }
  }
}

template <class T>
T weight_of(const TileKernels<T>& kernels, double exponent) {
  std::vector<T> s(static_cast<std::size_t>(kernels.lanes), static_cast<T>(exponent)), base(s.size(), T(0)),
      l(s.size(), T(0));
  kernels.weigh(1, kernels.lanes, 0, 1, T(1), base.data(), s.data(), l.data());
  return s[0];
}

template <class T>
void expect_weights_are_powers_of_two(double bound) {
  const TileKernels<T>& kernels = tile_kernels<T>(active_isa());
  const double lowest = std::numeric_limits<T>::min_exponent;  // below it weights are 0
  double worst = 0.0;
  for (int step = 0; step <= 200000; ++step) {
    const double x =
        static_cast<double>(static_cast<T>(step < 100000 ? step * 1e-5 * lowest : (step - 100000) * 1e-4 - 5.0));
    const double want = std::exp2(x);
    worst = std::max(worst, std::abs(static_cast<double>(weight_of<T>(kernels, x)) - want) / want);
  }
  EXPECT_LE(worst, bound);
  EXPECT_EQ(weight_of<T>(kernels, 0.0), T(1));
  EXPECT_EQ(weight_of<T>(kernels, -1.0), T(0.5));
  for (const double x : {2.0 * lowest, -1e4, -1e10, -1e30, -1e38}) EXPECT_EQ(weight_of<T>(kernels, x), T(0)) << x;
  std::vector<T> special(static_cast<std::size_t>(kernels.lanes), minus_infinity_of<T>()), base(special.size(), T(0)),
      l(base);
  kernels.weigh(1, kernels.lanes, 0, 1, T(1), base.data(), special.data(), l.data());
  EXPECT_EQ(special[0], T(0));
  std::fill(special.begin(), special.end(), nan_of<T>());
  kernels.weigh(1, kernels.lanes, 0, 1, T(1), base.data(), special.data(), l.data());
  EXPECT_TRUE(is_nan(special[0]));
  EXPECT_TRUE(is_nan(l[0]));
}

TEST(TileKernels, WeightsKeepTheirStatedErrorBound) {
  expect_weights_are_powers_of_two<float>(2e-7);
  expect_weights_are_powers_of_two<double>(3e-16);
}

template <class T>
void expect_scores_are_products() {
  const TileKernels<T>& kernels = tile_kernels<T>(active_isa());
  for_each_part(kernels, [&](Size panel, Size first, Size count) {
    for (const Size n_keys : {1, 2, 7, 8, 9, 31}) {
      for (const Size d : {1, 3, 16, 37}) {
        const Size k_stride = d + 3;
        std::vector<T> k = numbers<T>(n_keys * k_stride, 1), q = numbers<T>(d * panel, 2);
        std::vector<T> s(static_cast<std::size_t>(n_keys * panel), T(77)),
            top(static_cast<std::size_t>(panel), T(-0.5));
        kernels.scores(k.data(), k_stride, n_keys, q.data(), d, panel, first, count, s.data(), top.data(), nullptr);
        for (Size i = 0; i < panel; ++i) {
          const bool touched = i >= first * kernels.lanes && i < (first + count) * kernels.lanes;
          T largest = T(-0.5);
          for (Size j = 0; j < n_keys; ++j) {
            double want = 0.0;
            for (Size c = 0; c < d; ++c)
              want += static_cast<double>(at(k, j * k_stride + c)) * static_cast<double>(at(q, c * panel + i));
            const T got = at(s, j * panel + i);
            ASSERT_TRUE(touched ? close(got, want, std::sqrt(static_cast<double>(d))) : got == T(77))
                << "key " << j << ", query " << i;
            largest = std::max(largest, got);
          }
          ASSERT_EQ(at(top, i), touched ? largest : T(-0.5)) << "query " << i;
        }
      }
    }
  });
}

TEST(TileKernels, ScoresAreProductsAndTheirMaximum) {
  expect_scores_are_products<float>();
  expect_scores_are_products<double>();
}

template <class T>
void expect_values_are_products() {
  const TileKernels<T>& kernels = tile_kernels<T>(active_isa());
  for_each_part(kernels, [&](Size panel, Size first, Size count) {
    for (const Size n_keys : {0, 1, 5, 40}) {
      for (const Size d_v : {1, 7, 8, 12, 27}) {
        const Size rows = kernels.rows, padded = n_keys * rows + 16;
        std::vector<T> v = numbers<T>(std::max<Size>(1, n_keys) * (d_v + 2), 1),
                       w = numbers<T>(std::max<Size>(1, n_keys) * panel, 2);
        std::vector<T> packed(static_cast<std::size_t>((d_v + rows - 1) / rows * padded), nan_of<T>());
        if (n_keys > 0) {
          storage_kernels<T, T>(active_isa())
              .pack_values(v.data(), d_v + 2, nullptr, n_keys, d_v, nullptr, packed.data(), padded);
        }
        const std::vector<T> before = numbers<T>(d_v * panel, 3), correction = numbers<T>(panel, 4);
        std::vector<T> in_place = before, from_packed = before;
        kernels.values(v.data(), d_v + 2, rows, n_keys, w.data(), d_v, panel, first, count, correction.data(),
                       in_place.data());
        kernels.values(packed.data(), rows, padded, n_keys, w.data(), d_v, panel, first, count, correction.data(),
                       from_packed.data());
        std::vector<T> over_zeros(before.size()), over_nothing(before.size(), nan_of<T>());
        kernels.values(v.data(), d_v + 2, rows, n_keys, w.data(), d_v, panel, first, count, correction.data(),
                       over_zeros.data());
        kernels.values(v.data(), d_v + 2, rows, n_keys, w.data(), d_v, panel, first, count, nullptr,
                       over_nothing.data());
        for (Size c = 0; c < d_v; ++c) {
          for (Size i = 0; i < panel; ++i) {
            const bool touched = i >= first * kernels.lanes && i < (first + count) * kernels.lanes;
            const auto entry = static_cast<std::size_t>(c * panel + i);
            double want =
                static_cast<double>(before[entry]) * static_cast<double>(correction[static_cast<std::size_t>(i)]);
            for (Size j = 0; j < n_keys; ++j)
              want += static_cast<double>(at(w, j * panel + i)) * static_cast<double>(at(v, j * (d_v + 2) + c));
            ASSERT_TRUE(touched ? close(in_place[entry], want, 1.0 + static_cast<double>(n_keys))
                                : in_place[entry] == before[entry]);
            ASSERT_TRUE(same_bits(from_packed[entry], in_place[entry])) << "packing changes no bit";
            ASSERT_TRUE(touched ? over_nothing[entry] == over_zeros[entry] : is_nan(over_nothing[entry]))
                << "without a correction nothing is read";
          }
        }
      }
    }
  });
}

TEST(TileKernels, ValuesAreProductsOverCorrectedSums) {
  expect_values_are_products<float>();
  expect_values_are_products<double>();
}

template <class T>
void expect_adjusted_scores() {
  const TileKernels<T>& kernels = tile_kernels<T>(active_isa());
  const Size panel = kernels.lanes * kernels.vectors, n_keys = 9;
  const std::vector<T> raw = numbers<T>(n_keys * panel, 1);
  std::vector<T> added = numbers<T>(n_keys * panel, 2), query_position(static_cast<std::size_t>(panel)),
                 key_position(9);
  for (Size i = 0; i < panel; ++i) at(query_position, i) = static_cast<T>(3 * i - 5);
  for (Size j = 0; j < n_keys; ++j) at(key_position, j) = static_cast<T>(7 * j);
  for (Size t = 0; t < n_keys * panel; t += 5) at(added, t) = minus_infinity_of<T>();
  std::vector<std::uint16_t> allowed(static_cast<std::size_t>(n_keys * kernels.vectors));
  for (Size t = 0; t < n_keys * kernels.vectors; ++t) at(allowed, t) = static_cast<std::uint16_t>(0x9e37 * (t + 1));
  for (const double scale : {0.125, 3.0, 1e3, 1e-6}) {
    for (const double cap : {0.0, 0.5, 20.0}) {
      for (const double slope : {0.0, 0.25}) {
        for (const int terms : {0, 1, 2, 3}) {
          const bool with_added = terms % 2 == 1, with_allowed = terms / 2 == 1;
          std::vector<T> s = raw, top(static_cast<std::size_t>(panel), minus_infinity_of<T>());
          EXPECT_EQ(
              kernels.adjust(n_keys, panel, 0, kernels.vectors, static_cast<T>(scale), static_cast<T>(cap),
                             with_added ? added.data() : nullptr, with_allowed ? allowed.data() : nullptr,
                             static_cast<T>(slope), query_position.data(), key_position.data(), s.data(), top.data()),
              with_added);
          for (Size i = 0; i < panel; ++i) {
            T largest = minus_infinity_of<T>();
            for (Size j = 0; j < n_keys; ++j) largest = std::max(largest, at(s, j * panel + i));
            ASSERT_EQ(at(top, i), largest) << "query " << i;
          }
          for (Size j = 0; j < n_keys; ++j) {
            for (Size i = 0; i < panel; ++i) {
              const Size entry = j * panel + i;
              double want = scale * static_cast<double>(raw[static_cast<std::size_t>(entry)]);
              if (cap > 0.0) want = cap * std::tanh(want / cap);
              const double fall = slope * std::abs(static_cast<double>(at(key_position, j)) -
                                                   static_cast<double>(at(query_position, i)));
              want -= fall;
              const unsigned lanes_set = at(allowed, j * kernels.vectors + i / kernels.lanes);
              const bool forbidden = with_allowed && (lanes_set >> (i % kernels.lanes) & 1u) == 0;
              const bool masked = forbidden || (with_added && heed::detail::is_minus_infinity(at(added, entry)));
              if (masked) {
                ASSERT_TRUE(heed::detail::is_minus_infinity(at(s, entry)));
                continue;
              }
              if (with_added) want += static_cast<double>(at(added, entry));
              const double size = fall + (with_added ? 3.0 : 0.0);
              ASSERT_TRUE(close(at(s, entry), want, size))
                  << at(s, entry) << " against " << want << " with scale " << scale << ", cap " << cap;
            }
          }
        }
      }
    }
  }
}

TEST(TileKernels, AdjustedScoresFollowTheirFormula) {
  expect_adjusted_scores<float>();
  expect_adjusted_scores<double>();
}

template <class T>
void expect_masks_are_applied() {
  const TileKernels<T>& kernels = tile_kernels<T>(active_isa());
  const Size lanes = kernels.lanes, panel = lanes * kernels.vectors, n_keys = 6;
  std::vector<T> s = numbers<T>(n_keys * panel, 1), low(static_cast<std::size_t>(panel)), high(low),
                 top(low.size(), T(-10));
  for (Size i = 0; i < panel; ++i) {
    at(low, i) = static_cast<T>(i % 4 - 1);
    at(high, i) = static_cast<T>(i % 4 - 1 + i % 3);
  }
  const std::vector<T> before = s;
  kernels.bound(n_keys, panel, 0, kernels.vectors, low.data(), high.data(), s.data(), top.data());
  for (Size i = 0; i < panel; ++i) {
    T largest = T(-10);
    for (Size j = 0; j < n_keys; ++j) {
      const auto entry = static_cast<std::size_t>(j * panel + i);
      const bool kept = static_cast<T>(j) >= at(low, i) && static_cast<T>(j) < at(high, i);
      ASSERT_TRUE(kept ? s[entry] == before[entry] : heed::detail::is_minus_infinity(s[entry]))
          << "key " << j << ", query " << i;
      if (kept) largest = std::max(largest, s[entry]);
    }
    ASSERT_EQ(at(top, i), largest);
  }

  s = before;
  std::fill(top.begin(), top.end(), T(-10));
  const std::vector<T> label = numbers<T>(n_keys, 5);
  kernels.exclude(n_keys, panel, 0, kernels.vectors, low.data(), high.data(), label.data(), s.data(), top.data());
  for (Size i = 0; i < panel; ++i) {
    T largest = T(-10);
    for (Size j = 0; j < n_keys; ++j) {
      const auto entry = static_cast<std::size_t>(j * panel + i);
      const T mine = label[static_cast<std::size_t>(j)];
      const bool kept = mine < at(low, i) || mine >= at(high, i);
      ASSERT_TRUE(kept ? s[entry] == before[entry] : heed::detail::is_minus_infinity(s[entry]))
          << "label " << mine << ", query " << i;
      if (kept) largest = std::max(largest, s[entry]);
    }
    ASSERT_EQ(at(top, i), largest);
  }
}

template <class T>
void expect_bits_of_booleans() {
  const TileKernels<T>& kernels = tile_kernels<T>(active_isa());
  NumberStream numbers(3);
  for (const double share : {0.0, 0.6, 1.0}) {
    for (const Size n_q :
         {Size(1), kernels.lanes, kernels.lanes * kernels.vectors - 1, kernels.lanes * kernels.vectors}) {
      for (const Size n_k : {1, 31, 32, 33, 70}) {
        // Row-major, column-major, strided both ways, listed: where pair (i, j) lies. Not a byte more than they need.
        for (const int layout : {0, 1, 2, 3}) {
          const Size row = layout == 1   ? 1
                           : layout == 2 ? 3 * n_k
                                         : n_k,
                     column = layout == 1   ? n_q
                              : layout == 2 ? 3
                                            : 1;
          const Size reach = layout < 3 ? 1 : 2;  // lists name every second one
          const auto last = static_cast<std::size_t>(row * reach * (n_q - 1) + column * reach * (n_k - 1));
          std::vector<heed::detail::Bool> from(last + 1, heed::detail::Bool{0});
          for (auto& pair : from) pair.byte = static_cast<std::uint8_t>(numbers.uniform() < share ? 1 : 0);
          std::vector<Size> rows, columns;
          for (Size i = 0; i < n_q; ++i) rows.push_back(reach * i);
          for (Size j = 0; j < n_k; ++j) columns.push_back(reach * j);
          const Size vectors = (n_q + kernels.lanes - 1) / kernels.lanes;
          std::vector<std::uint16_t> bits(static_cast<std::size_t>(n_k * vectors), 0xffff);
          const int census = kernels.lane_masks(from.data(), row, column, layout == 3 ? rows.data() : nullptr, n_q,
                                                layout == 3 ? columns.data() : nullptr, n_k, bits.data());
          const auto pair = [&](Size i, Size j) { return at(from, at(rows, i) * row + at(columns, j) * column).byte; };
          int want_census = 0;
          for (Size j = 0; j < n_k; ++j) {
            for (Size i = 0; i < n_q; ++i) want_census |= pair(i, j) != 0 ? 2 : 1;
          }
          ASSERT_EQ(census, want_census);
          if (census != 3) continue;
          for (Size j = 0; j < n_k; ++j) {
            for (Size i = 0; i < vectors * kernels.lanes; ++i) {
              const unsigned got = at(bits, j * vectors + i / kernels.lanes) >> (i % kernels.lanes) & 1u;
              ASSERT_EQ(got, i < n_q ? pair(i, j) : 0u)
                  << "query " << i << " of " << n_q << ", key " << j << " of " << n_k << ", layout " << layout;
            }
          }
        }
      }
    }
  }
}

template <class T>
void expect_all_masked_is_found() {
  const TileKernels<T>& kernels = tile_kernels<T>(active_isa());
  const Size panel = kernels.lanes * kernels.vectors, n_k = 5;
  for (Size n_q = 1; n_q <= panel; ++n_q) {
    std::vector<T> added(static_cast<std::size_t>(n_k * panel), T(0));
    for (Size j = 0; j < n_k; ++j) std::fill_n(added.begin() + j * panel, n_q, minus_infinity_of<T>());
    EXPECT_TRUE(kernels.all_masked(n_k, panel, n_q, added.data()));
    for (const Size kept : {Size(0), (n_k - 1) * panel + n_q - 1, 2 * panel + n_q / 2}) {
      at(added, kept) = std::numeric_limits<T>::quiet_NaN();
      EXPECT_FALSE(kernels.all_masked(n_k, panel, n_q, added.data())) << kept << ", " << n_q << " queries";
      at(added, kept) = minus_infinity_of<T>();
    }
  }
}

TEST(TileKernels, ATileWithoutAPairIsFound) {
  expect_all_masked_is_found<float>();
  expect_all_masked_is_found<double>();
}

TEST(TileKernels, BooleansBecomeBitsOfLanes) {
  expect_bits_of_booleans<float>();
  expect_bits_of_booleans<double>();
}

TEST(TileKernels, MasksMaskWhatTheyName) {
  expect_masks_are_applied<float>();
  expect_masks_are_applied<double>();
}

template <class T>
void expect_finiteness_is_seen() {
  const TileKernels<T>& kernels = tile_kernels<T>(active_isa());
  for (const Size columns : {1, 7, 16, 21}) {
    std::vector<T> tile = numbers<T>(5 * (columns + 2), 1);
    for (Size j = 0; j < 5; ++j) at(tile, j * (columns + 2) + columns) = nan_of<T>();  // outside
    EXPECT_TRUE(kernels.all_finite(tile.data(), columns + 2, 5, columns));
    for (const T bad : {nan_of<T>(), infinity_of<T>(), minus_infinity_of<T>()}) {
      for (Size c = 0; c < columns; ++c) {
        std::vector<T> poisoned = tile;
        at(poisoned, 3 * (columns + 2) + c) = bad;
        EXPECT_FALSE(kernels.all_finite(poisoned.data(), columns + 2, 5, columns)) << "column " << c;
      }
    }
  }
}

TEST(TileKernels, FinitenessIsSeenInEveryColumn) {
  expect_finiteness_is_seen<float>();
  expect_finiteness_is_seen<double>();
}

}  // namespace
}  // namespace heed::test
