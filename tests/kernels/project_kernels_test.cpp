#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "heed/core/random.hpp"
#include "heed/kernels/select.hpp"
#include "heed/sampling/alias_table.hpp"
#include "heed/sampling/select_largest.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test::project_kernels {
namespace {

using heed::detail::ProjectKernels;

template <class T>
std::vector<T> numbers(Index n, std::uint64_t seed) {
  NumberStream stream(seed);
  std::vector<T> values;
  for (Index i = 0; i < n; ++i) values.push_back(static_cast<T>(stream.normal()));
  return values;
}

/// Runs check(kernels) for float and double and every instance this machine has.
template <class Check>
void for_every_instance(const Check& check) {
  for (const Isa isa : heed::detail::all_isas) {
    if (!heed::detail::has_isa(isa)) continue;
    SCOPED_TRACE(std::string(isa_name(isa)));
    check(heed::detail::project_kernels<float>(isa), float{});
    check(heed::detail::project_kernels<double>(isa), double{});
  }
}

template <class T>
double unit(double size) {
  return 4 * static_cast<double>(std::numeric_limits<T>::epsilon()) * std::max(size, 1.0);
}

TEST(ProjectKernels, EncodeSumsTheListedRowsForEveryNumberOfTokens) {
  for_every_instance([]<class T>(const ProjectKernels<T>& kernels, T) {
    for (const Index vectors : {1, 2, 3, 4, 5, 9}) {
      const Index columns = vectors * kernels.lanes, rows = 37;
      const auto w = numbers<T>(rows * (columns + 3), 1);
      for (Index tokens = 1; tokens <= kernels.max_tokens; ++tokens) {
        for (const Index n : {0, 1, 2, 7, 20}) {
          for (const Index stride : {1, 5}) {
            const auto x = numbers<T>(tokens * rows * stride, 2);
            auto out = numbers<T>(tokens * columns, 3);
            const auto before = out;
            std::vector<std::int32_t> list;
            for (Index s = 0; s < n; ++s) list.push_back(static_cast<std::int32_t>(s * 11 % rows));
            std::vector<const T*> y;
            std::vector<T*> to;
            for (Index t = 0; t < tokens; ++t) {
              y.push_back(x.data() + t * rows * stride);
              to.push_back(out.data() + t * columns);
            }
            kernels.encode(w.data(), columns + 3, list.data(), n, y.data(), stride, tokens, columns, to.data());
            for (Index t = 0; t < tokens; ++t) {
              for (Index c = 0; c < columns; ++c) {
                double want = static_cast<double>(before[static_cast<std::size_t>(t * columns + c)]);
                for (const std::int32_t k : list) {
                  want += static_cast<double>(y[static_cast<std::size_t>(t)][k * stride]) *
                          static_cast<double>(w[static_cast<std::size_t>(k * (columns + 3) + c)]);
                }
                ASSERT_NEAR(static_cast<double>(out[static_cast<std::size_t>(t * columns + c)]), want, unit<T>(20))
                    << tokens << " tokens, " << n << " samples, column " << c << " of " << columns;
              }
            }
          }
        }
      }
    }
  });
}

TEST(ProjectKernels, SizesCountsAndPlacesEqualPlainLoops) {
  for_every_instance([]<class T>(const ProjectKernels<T>& kernels, T) {
    for (const Index n : {1, 7, 16, 31, 32, 33, 64, 113}) {
      const Index padded = (n + kernels.lanes - 1) / kernels.lanes * kernels.lanes;
      const auto x = numbers<T>(n, 4);  // not a number more: reading behind the row shows under a sanitizer
      auto norms = numbers<T>(padded, 5);
      for (T& norm : norms) norm = std::abs(norm);
      std::vector<T> size(static_cast<std::size_t>(padded), T(77));
      const T sum = kernels.products(n, x.data(), norms.data(), size.data());
      double want_sum = 0;
      for (Index k = 0; k < padded; ++k) {
        const auto at = static_cast<std::size_t>(k);
        const T want = k < n ? std::abs(x[at]) * norms[at] : T(-1);
        ASSERT_EQ(size[at], want) << k << " of " << n;
        if (k < n) want_sum += static_cast<double>(want);
      }
      EXPECT_NEAR(static_cast<double>(sum), want_sum, unit<T>(want_sum));
      for (const T floor : {T(0), T(0.1), T(0.7), size[0], T(100)}) {
        std::vector<std::int32_t> want;
        for (Index k = 0; k < n; ++k) {
          if (size[static_cast<std::size_t>(k)] >= floor) want.push_back(static_cast<std::int32_t>(k + 1000));
        }
        std::vector<std::int32_t> list(static_cast<std::size_t>(n + kernels.lanes), -1);
        EXPECT_EQ(kernels.count_above(n, size.data(), floor), static_cast<Index>(want.size()));
        const Index found = kernels.list_above(n, size.data(), floor, 1000, list.data());
        list.resize(static_cast<std::size_t>(found));
        EXPECT_EQ(list, want) << "floor " << static_cast<double>(floor) << ", n " << n;
      }
    }
  });
}

TEST(ProjectKernels, RowsAreCentredSquaredScaledFinishedAndInterleaved) {
  for_every_instance([]<class T>(const ProjectKernels<T>& kernels, T) {
    for (const Index n : {1, 5, 16, 33, 48, 71}) {
      const Index padded = (n + kernels.lanes - 1) / kernels.lanes * kernels.lanes;
      const auto size = static_cast<std::size_t>(n);
      const auto x = numbers<T>(n, 6), mean = numbers<T>(n, 7);
      std::vector<T> y(static_cast<std::size_t>(padded)), to(size + 1, T(77));
      kernels.centre(n, x.data(), mean.data(), y.data());
      double square = 0, centred = 0;
      for (std::size_t k = 0; k < size; ++k) {
        ASSERT_EQ(y[k], x[k] - mean[k]);
        square += static_cast<double>(x[k]) * static_cast<double>(x[k]);
        centred += static_cast<double>(y[k]) * static_cast<double>(y[k]);
      }
      EXPECT_NEAR(static_cast<double>(kernels.square(n, x.data(), nullptr)), square, unit<T>(square));
      EXPECT_NEAR(static_cast<double>(kernels.square(n, x.data(), mean.data())), centred, unit<T>(centred));
      kernels.finish_row(n, x.data(), T(0.5), mean.data(), to.data());
      for (std::size_t k = 0; k < size; ++k)
        ASSERT_NEAR(static_cast<double>(to[k]), static_cast<double>(mean[k]) + 0.5 * static_cast<double>(x[k]),
                    unit<T>(1));
      EXPECT_EQ(to[size], T(77)) << "wrote behind the row";
      const auto before = y;
      kernels.multiply(padded, T(3), y.data());
      for (std::size_t k = 0; k < size; ++k) ASSERT_EQ(y[k], before[k] * T(3));
    }
    for (const Index rows : {1, 15, 16, 19}) {
      const Index n = 37, stride = 24;
      const auto x = numbers<T>(rows * n, 8);
      for (const bool gap : {false, true}) {
        std::vector<const T*> starts;
        for (Index t = 0; t < rows; ++t) starts.push_back(gap && t == 3 ? nullptr : x.data() + t * n);
        std::vector<T> to(static_cast<std::size_t>(n * stride), T(77));
        kernels.interleave(n, starts.data(), rows, to.data(), stride);
        for (Index k = 0; k < n; ++k) {
          for (Index t = 0; t < stride; ++t) {
            const bool written = t < rows && starts[static_cast<std::size_t>(t)] != nullptr;
            ASSERT_EQ(to[static_cast<std::size_t>(k * stride + t)],
                      written ? x[static_cast<std::size_t>(t * n + k)] : T(77));
          }
        }
      }
    }
  });
}

TEST(ProjectKernels, FoldTakesColumnMaximaAndSquaresAndPassesOverNan) {
  for_every_instance([]<class T>(const ProjectKernels<T>& kernels, T) {
    const Index n_keys = 13, panel = 3 * kernels.lanes;
    auto weights = numbers<T>(n_keys * panel, 9);
    for (T& weight : weights) weight = std::min(T(1), std::abs(weight));
    weights[5] = nan_of<T>();
    std::vector<T> top(static_cast<std::size_t>(n_keys * kernels.lanes), T(0)), squares = top;
    kernels.fold(n_keys, panel, panel / kernels.lanes, weights.data(), top.data(), squares.data());
    for (Index j = 0; j < n_keys; ++j) {
      double largest = 0, square = 0, got_largest = 0, got_square = 0;
      for (Index i = 0; i < panel; ++i) {
        const double weight =
            j * panel + i == 5 ? 0 : static_cast<double>(weights[static_cast<std::size_t>(j * panel + i)]);
        largest = std::max(largest, weight);
        square += weight * weight;
      }
      for (Index i = 0; i < kernels.lanes; ++i) {
        got_largest = std::max(got_largest, static_cast<double>(top[static_cast<std::size_t>(j * kernels.lanes + i)]));
        got_square += static_cast<double>(squares[static_cast<std::size_t>(j * kernels.lanes + i)]);
      }
      EXPECT_EQ(got_largest, largest);
      EXPECT_NEAR(got_square, square, unit<T>(square));
    }
  });
}

TEST(LargestSelector, FindsTheLargestForAnySizesTiesAndZerosIncluded) {
  for_every_instance([]<class T>(const ProjectKernels<T>& kernels, T) {
    heed::detail::LargestSelector<T> selector(kernels);
    NumberStream stream(11);
    for (int round = 0; round < 300; ++round) {
      const Index n = 17 + stream.below(200), padded = (n + kernels.lanes - 1) / kernels.lanes * kernels.lanes;
      std::vector<T> size(static_cast<std::size_t>(padded), T(-1));
      T sum = 0;
      for (Index k = 0; k < n; ++k) {
        const double x = std::abs(stream.normal());
        const double made = round % 4 == 0   ? x
                            : round % 4 == 1 ? std::exp(9 * x)
                            : round % 4 == 2 ? std::floor(2 * x)
                                             : x * 1e-20;
        sum += size[static_cast<std::size_t>(k)] = static_cast<T>(made);
      }
      const Index r = 1 + stream.below(n - 1), band = 32;
      std::vector<std::int32_t> order, list(static_cast<std::size_t>(n + kernels.lanes));
      for (Index k = 0; k < n; ++k) order.push_back(static_cast<std::int32_t>(k));
      std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
        const T of_a = size[static_cast<std::size_t>(a)], of_b = size[static_cast<std::size_t>(b)];
        return of_a != of_b ? of_a > of_b : a < b;
      });
      order.resize(static_cast<std::size_t>(r));
      std::sort(order.begin(), order.end());
      std::vector<Index> ends(static_cast<std::size_t>((n + band - 1) / band));
      ASSERT_EQ(selector.select(n, size.data(), sum, r, T(0), band, list.data(), ends.data()), r);
      list.resize(static_cast<std::size_t>(r));
      ASSERT_EQ(list, order) << "round " << round;
      for (std::size_t b = 0; b < ends.size(); ++b) {
        const auto below = std::lower_bound(list.begin(), list.end(), static_cast<std::int32_t>((b + 1) * band));
        ASSERT_EQ(ends[b], below - list.begin());
      }
    }
  });
}

TEST(ProjectKernels, DrawsAreThoseOfTheGeneratorAndTheTable) {
  std::vector<double> share(777);
  double sum = 0;
  NumberStream stream(3);
  for (double& one : share) sum += one = stream.uniform() * stream.uniform();
  for (double& one : share) one *= 777.0 / sum;
  std::vector<heed::detail::AliasCell> cells(777);
  std::vector<std::uint32_t> order(777);
  heed::detail::build_alias_cells(share, cells.data(), order.data());
  for_every_instance([&]<class T>(const ProjectKernels<T>& kernels, T) {
    for (const Index n : {1, 4, 31, 32, 33, 1000}) {
      const std::uint64_t seed = 0x123456789abcdefu, name = std::uint64_t{5} << 40 | 77u;
      std::vector<std::int32_t> list(static_cast<std::size_t>(n + 32), -1);
      kernels.draw(seed, name, cells.data(), 777, n, list.data());
      CounterRng random(seed, name);
      for (Index s = 0; s < n; ++s)
        ASSERT_EQ(list[static_cast<std::size_t>(s)], heed::detail::draw_cell(cells.data(), 777, random.next_u32()))
            << s;
    }
  });
}

}  // namespace
}  // namespace heed::test::project_kernels
