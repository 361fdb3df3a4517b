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
  std::vector<detail::Bfloat> mean_keys, mean_values;
  Index n;

  Pages(Index d, Index d_v, Index pages) : layout(d, d_v), n(pages) {
    near.resize(static_cast<std::size_t>(n * layout.near_bytes));
    far.resize(static_cast<std::size_t>(n * layout.far_bytes));
    NumberStream numbers(3);
    for (auto* bytes : {&near, &far}) {
      for (unsigned char& byte : *bytes) byte = static_cast<unsigned char>(numbers.below(256));
    }
    for (Index p = 0; p < n; ++p) {
      for (Index j = 0; j < 32; ++j) {
        put(near.data() + p * layout.near_bytes + layout.key_scales + 2 * j, numbers);
        put(far.data() + p * layout.far_bytes + layout.value_scales + 2 * j, numbers);
      }
    }
    mean_keys.resize(static_cast<std::size_t>(n * layout.d_padded + 16));
    mean_values.resize(static_cast<std::size_t>(n * layout.v_padded + 16));
    for (auto* means : {&mean_keys, &mean_values}) {
      for (detail::Bfloat& mean : *means) put(&mean, numbers);
    }
  }
  detail::Int8PagesView view() const {
    return {near.data(), far.data(), mean_keys.data(), mean_values.data(), nullptr};
  }
  static void put(void* to, NumberStream& numbers) {
    const float x = static_cast<float>(std::abs(numbers.normal())) + 0.01f;
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const auto upper = static_cast<std::uint16_t>(bits >> 16);
    std::memcpy(to, &upper, 2);
  }
  static double number(const void* at) {
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

/// Two queries of any bytes, which need not be those of their numbers.
struct Queries {
  std::vector<float> q;
  std::vector<std::int8_t> bytes;
  Int8Query each[2];

  explicit Queries(const Int8Layout& layout)
      : q(static_cast<std::size_t>(2 * (layout.d_padded + 16))), bytes(static_cast<std::size_t>(2 * layout.d_padded)) {
    NumberStream numbers(9);
    for (Index g = 0; g < 2; ++g) {
      float* row = q.data() + g * (layout.d_padded + 16);
      std::int8_t* own = bytes.data() + g * layout.d_padded;
      each[g] = {row, own, 0.02f, 0};
      for (Index c = 0; c < layout.d; ++c) {
        row[c] = static_cast<float>(numbers.normal());
        own[c] = static_cast<std::int8_t>(numbers.below(255) - 127);
        each[g].sum += own[c];
      }
    }
  }
};

/// q . mean key of a page, and what its sizes add up to.
struct Sum {
  double value = 0, size = 0;
};
Sum mean_score(const Pages& pages, Index page, const Int8Query& query) {
  Sum sum;
  for (Index c = 0; c < pages.layout.d; ++c) {
    const double part = static_cast<double>(query.q[c]) *
                        Pages::number(&pages.mean_keys[static_cast<std::size_t>(page * pages.layout.d_padded + c)]);
    sum.value += part;
    sum.size += std::abs(part);
  }
  return sum;
}
double scale_of_key(const Pages& pages, Index j) {
  return Pages::number(pages.near.data() + j / 32 * pages.layout.near_bytes + pages.layout.key_scales + 2 * (j % 32));
}
/// Score of key j: with all 8 bits, or with 7.5 in the place of the lower four.
Sum score(const Pages& pages, Index j, const Int8Query& query, bool rough) {
  Sum sum = mean_score(pages, j / 32, query);
  double whole = 0;
  for (Index c = 0; c < pages.layout.d; ++c) {
    const int key = pages.key(j / 32, j % 32, c);
    whole += query.bytes[c] * (rough ? (key + 128) / 16 * 16 + 7.5 - 128 : key);
  }
  const double rest = static_cast<double>(query.scale) * whole * scale_of_key(pages, j);
  return {sum.value + rest, sum.size + std::abs(rest)};
}

TEST(Int8Kernels, ScoresAndScansAreThoseOfPlainLoops) {
  for (const Index d : {1, 7, 8, 20, 64, 100}) {
    SCOPED_TRACE(d);
    const Pages pages(d, 16, 11);
    const Queries queries(pages.layout);
    for_every_instance([&](const Int8Kernels& kernels) {
      std::vector<float> s(2 * 400, -1.0f), rough = s, base(2 * 12);
      kernels.scores(pages.layout, pages.view(), pages.n, queries.each, 2, s.data(), 400);
      kernels.scan(pages.layout, pages.view(), pages.n, queries.each, 2, rough.data(), 400, base.data(), 12);
      for (Index g = 0; g < 2; ++g) {
        for (Index j = 0; j < 32 * pages.n; ++j) {
          const Sum want = score(pages, j, queries.each[g], false), coarse = score(pages, j, queries.each[g], true);
          EXPECT_NEAR(s[static_cast<std::size_t>(400 * g + j)], want.value, 1e-6 * want.size);
          EXPECT_NEAR(rough[static_cast<std::size_t>(400 * g + j)], coarse.value, 2e-6 * coarse.size);
        }
        for (Index p = 0; p < pages.n; ++p) {
          const Sum want = mean_score(pages, p, queries.each[g]);
          EXPECT_NEAR(base[static_cast<std::size_t>(12 * g + p)], want.value, 1e-6 * want.size);
        }
      }
    });
  }
}

TEST(Int8Kernels, GroupsHaveTheNumbersOfTheirPages) {
  const Pages pages(20, 33, 11);
  const Queries queries(pages.layout);
  const std::vector<detail::Size> groups{0, 1, 5, 8, 9, 13, 20, 21};
  for_every_instance([&](const Int8Kernels& kernels) {
    std::vector<float> s(400), scan(400), base(12), rough(16 * 8), fine(16 * 8), w(400), own(16 * 8);
    kernels.scores(pages.layout, pages.view(), pages.n, queries.each, 1, s.data(), 400);
    kernels.scan(pages.layout, pages.view(), pages.n, queries.each, 1, scan.data(), 400, base.data(), 12);
    kernels.group_scores(pages.layout, pages.view(), groups.data(), 8, queries.each[0], base.data(), rough.data(),
                         fine.data());
    NumberStream numbers(4);
    for (std::size_t i = 0; i < groups.size(); ++i) {
      for (std::size_t j = 0; j < 16; ++j) {
        const std::size_t key = 16 * static_cast<std::size_t>(groups[i]) + j;
        EXPECT_EQ(fine[16 * i + j], s[key]);
        EXPECT_EQ(rough[16 * i + j], scan[key]);
        w[key] = own[16 * i + j] = static_cast<float>(numbers.uniform());
      }
    }
    std::vector<float> out(80, 0.5f), want = out;
    const float one = 1;
    kernels.group_values(pages.layout, pages.view(), groups.data(), 8, own.data(), out.data());
    kernels.values(pages.layout, pages.view(), pages.n, w.data(), 400, 1, &one, want.data(), 80);
    for (std::size_t c = 0; c < 33; ++c) EXPECT_NEAR(out[c], want[c], 0x1p-13 * 127 * 128 * 4);
  });
}

TEST(Int8Kernels, SumsOfAPageAreThoseOfItsWeights) {
  const Index n = 11;
  NumberStream numbers(6);
  std::vector<float> s(32 * n), base(n);
  for (float& x : s) x = static_cast<float>(4 * numbers.normal());
  for (float& x : base) x = static_cast<float>(numbers.normal());
  for_every_instance([&](const Int8Kernels& kernels) {
    std::vector<detail::PageSums> sums(n);
    kernels.weigh_pages(n, 0.7f, 9.0f, s.data(), base.data(), sums.data());
    for (std::size_t p = 0; p < sums.size(); ++p) {
      double mass = 0, moment = 0, moment_size = 0, square[2] = {};
      for (std::size_t j = 0; j < 32; ++j) {
        const double score = static_cast<double>(s[32 * p + j]), t = score - static_cast<double>(base[p]);
        const double w = std::exp2(static_cast<double>(0.7f) * (score - 9.0));
        mass += w;
        moment += w * t;
        moment_size += w * std::abs(t);
        square[j / 16] += w * w;
      }
      EXPECT_NEAR(sums[p].mass, mass, 1e-6 * mass);
      EXPECT_NEAR(sums[p].moment, moment, 1e-6 * moment_size);
      for (int half = 0; half < 2; ++half) EXPECT_NEAR(sums[p].square[half], square[half], 1e-6 * square[half]);
    }
  });
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
      kernels.values(pages.layout, pages.view(), pages.n, w.data(), 400, 2, correction, out.data(), 80);
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
