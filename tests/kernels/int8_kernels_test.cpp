#include "heed/kernels/int8_kernels.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "heed/kernels/isa.hpp"
#include "heed/kernels/select.hpp"
#include "support/inputs.hpp"

namespace heed::test::int8_kernels {
namespace {

using detail::Int8Kernels;
using detail::Int8Layout;
using detail::Int8Query;

/// Pages of any bytes, with means, scales and variances that are finite.
struct Pages {
  Int8Layout layout;
  std::vector<unsigned char> near, far;
  Index n;

  Pages(Index d, Index d_v, Index pages) : layout(d, d_v), n(pages) {
    near.resize(static_cast<std::size_t>(n * layout.near_bytes));
    far.resize(static_cast<std::size_t>(n * layout.far_bytes));
    NumberStream numbers(3);
    for (auto* bytes : {&near, &far}) {
      for (unsigned char& byte : *bytes) byte = static_cast<unsigned char>(numbers.below(256));
    }
    for (Index p = 0; p < n; ++p) {
      for (Index at = layout.key_scales; at < layout.near_bytes; at += 2)
        put(near, p * layout.near_bytes + at, numbers);
      for (Index at = layout.value_scales; at < layout.far_bytes; at += 2) put(far, p * layout.far_bytes + at, numbers);
      // Columns of padding are 128 of a key, whose query is 0 there.
    }
  }
  static void put(std::vector<unsigned char>& to, Index at, NumberStream& numbers) {
    const float x = static_cast<float>(std::abs(numbers.normal())) + 0.01f;
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const auto upper = static_cast<std::uint16_t>(bits >> 16);
    std::memcpy(to.data() + at, &upper, 2);
  }
  static double number(const unsigned char* at) {
    std::uint16_t upper;
    std::memcpy(&upper, at, 2);
    const std::uint32_t bits = static_cast<std::uint32_t>(upper) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return static_cast<double>(x);
  }
  int key(Index page, Index j, Index c) const {
    const Index at = j / 16 * layout.d_padded * 8 + c / 8 * 64 + 4 * (j % 16) + c % 4;
    const int shift = c % 8 < 4 ? 0 : 4;
    const int high = near[static_cast<std::size_t>(page * layout.near_bytes + at)] >> shift & 15;
    return 16 * high + (far[static_cast<std::size_t>(page * layout.far_bytes + at)] >> shift & 15) - 128;
  }
  int value(Index page, Index j, Index c) const {
    return static_cast<std::int8_t>(far[static_cast<std::size_t>(page * layout.far_bytes + layout.values +
                                                                 j / 4 * 4 * layout.v_padded + 4 * c + j % 4)]);
  }
};

template <class Check>
void for_every_instance(const Check& check) {
  for (const Isa isa : detail::all_isas) {
    if (!detail::has_isa(isa)) continue;
    SCOPED_TRACE(std::string(isa_name(isa)));
    check(detail::int8_kernels(isa));
  }
#if HEED_HAS_X86_KERNELS && !defined(HEED_COMPILED)
  if (detail::has_isa(Isa::avx512)) check(*detail::avx512::table<Int8Kernels>);
#endif
}

TEST(Int8Kernels, ScoresAreThoseOfPlainLoops) {
  for (const Index d : {1, 7, 8, 20, 64, 100}) {
    SCOPED_TRACE(d);
    const Pages pages(d, 16, 11);
    NumberStream numbers(9);
    std::vector<float> q(static_cast<std::size_t>(2 * (pages.layout.d_padded + 16)));
    std::vector<std::int8_t> bytes(static_cast<std::size_t>(2 * pages.layout.d_padded));
    Int8Query queries[2];
    for (Index g = 0; g < 2; ++g) {
      float* row = q.data() + g * (pages.layout.d_padded + 16);
      std::int8_t* own = bytes.data() + g * pages.layout.d_padded;
      queries[g] = {row, own, 0.02f, 0};
      for (Index c = 0; c < d; ++c) {
        row[c] = static_cast<float>(numbers.normal());
        own[c] = static_cast<std::int8_t>(numbers.below(255) - 127);
        queries[g].sum += own[c];
      }
    }
    for_every_instance([&](const Int8Kernels& kernels) {
      std::vector<float> s(2 * 400, -1.0f);
      kernels.scores(pages.layout, {pages.near.data(), pages.far.data()}, pages.n, queries, 2, s.data(), 400);
      for (Index g = 0; g < 2; ++g) {
        for (Index j = 0; j < 32 * pages.n; ++j) {
          const unsigned char* near = pages.near.data() + j / 32 * pages.layout.near_bytes;
          double mean = 0, size = 0, sum = 0;
          for (Index c = 0; c < d; ++c) {
            const double part =
                static_cast<double>(queries[g].q[c]) * Pages::number(near + pages.layout.mean_key + 2 * c);
            mean += part;
            size += std::abs(part);
            sum += queries[g].bytes[c] * pages.key(j / 32, j % 32, c);
          }
          const double rest = 0.02 * sum * Pages::number(near + pages.layout.key_scales + 2 * (j % 32));
          EXPECT_NEAR(s[static_cast<std::size_t>(400 * g + j)], mean + rest, 1e-6 * (size + std::abs(rest)));
        }
      }
    });
  }
}

TEST(Int8Kernels, ValuesAreThoseOfPlainLoopsWithWeightsOfFourteenBits) {
  for (const Index d_v : {1, 5, 16, 33, 64}) {
    SCOPED_TRACE(d_v);
    const Pages pages(8, d_v, 11);
    NumberStream numbers(9);
    std::vector<float> w(2 * 400), before(2 * 80);
    for (float& x : w) x = numbers.below(5) == 0 ? 0.0f : static_cast<float>(std::exp2(-30.0 * numbers.uniform()));
    std::fill_n(w.begin() + 64, 32, 0.0f);  // a page of nothing
    for (float& x : before) x = static_cast<float>(numbers.normal());
    const float correction[2] = {0.5f, 0.0f};
    for_every_instance([&](const Int8Kernels& kernels) {
      std::vector<float> out = before;
      kernels.values(pages.layout, {pages.near.data(), pages.far.data()}, pages.n, w.data(), 400, 2, correction,
                     out.data(), 80);
      for (Index g = 0; g < 2; ++g) {
        for (Index c = 0; c < d_v; ++c) {
          double want = static_cast<double>(correction[g] * before[static_cast<std::size_t>(80 * g + c)]), slack = 1e-5;
          for (Index p = 0; p < pages.n; ++p) {
            double most = 0;
            for (Index j = 0; j < 32; ++j) {
              const double scaled =
                  static_cast<double>(w[static_cast<std::size_t>(400 * g + 32 * p + j)]) *
                  Pages::number(pages.far.data() + p * pages.layout.far_bytes + pages.layout.value_scales + 2 * j);
              want += scaled * pages.value(p, j, c);
              most = std::max(most, scaled);
            }
            slack += most * 0x1p-14 * 127 * 32;
          }
          EXPECT_NEAR(out[static_cast<std::size_t>(80 * g + c)], want, slack);
        }
      }
    });
  }
}

}  // namespace
}  // namespace heed::test::int8_kernels
