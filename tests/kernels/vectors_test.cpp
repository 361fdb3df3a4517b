// The vector types of every instance this machine has against plain loops: the contract of heed/kernels/README.md.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/kernels/instances.hpp"
#include "kernels/vector_ops.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

#if HEED_HAS_X86_KERNELS
#include "heed/kernels/avx2/begin.inl"
namespace heed::detail::avx2 {
#include "kernels/vector_ops.inl"
}
#include "heed/kernels/end.inl"

#include "heed/kernels/avx512/begin.inl"
namespace heed::detail::avx512 {
#include "kernels/vector_ops.inl"
}
#include "heed/kernels/end.inl"
#endif

#include "heed/kernels/begin.inl"
#if HEED_HAS_NEON_KERNELS
namespace heed::detail::neon {
#include "kernels/vector_ops.inl"
}
#endif
namespace heed::detail::portable {
#include "kernels/vector_ops.inl"
}
#include "heed/kernels/end.inl"

namespace heed::test {
namespace {

/// Null where the instance is not compiled here, or shares its vector types with another.
const InstanceOps* ops_of(Isa isa) {
#if HEED_HAS_X86_KERNELS
  if (isa == Isa::avx512) return &heed::detail::avx512::vector_ops;
  if (isa == Isa::avx2) return &heed::detail::avx2::vector_ops;
#endif
#if HEED_HAS_NEON_KERNELS
  if (isa == Isa::neon) return &heed::detail::neon::vector_ops;
#endif
  return isa == Isa::baseline ? &heed::detail::portable::vector_ops : nullptr;
}

/// Runs check(ops of all) for every instance this machine has.
template <class Check>
void for_every_instance(const Check& check) {
  for (const Isa isa : heed::detail::all_isas) {
    const InstanceOps* ops = ops_of(isa);
    if (ops == nullptr || !heed::detail::has_isa(isa)) continue;
    SCOPED_TRACE(std::string(isa_name(isa)));
    check(*ops);
  }
}

/// Runs check(ops, T()) for float and double of each.
template <class Check>
void for_every_vector(const Check& check) {
  for_every_instance([&](const InstanceOps& ops) {
    check(ops.floats, float{});
    check(ops.doubles, double{});
  });
}

template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
template <class T>
Bits<T> bits_of(const T& x) {
  return std::bit_cast<Bits<T>>(x);
}

/// Every kind of number, at least `lanes` behind the last.
template <class T>
std::vector<T> every_kind() {
  using Limits = std::numeric_limits<T>;
  std::vector<T> x = {T(0),
                      -T(0),
                      T(1),
                      T(-1.5),
                      T(3),
                      Limits::min(),
                      -Limits::min(),
                      Limits::denorm_min(),
                      -Limits::denorm_min(),
                      Limits::max(),
                      Limits::lowest(),
                      infinity_in_memory<T>,
                      minus_infinity_in_memory<T>,
                      nan_in_memory<T>,
                      T(0.1),
                      T(1e-30),
                      T(7e20)};
  NumberStream numbers(1);
  while (x.size() < 64) x.push_back(static_cast<T>(numbers.normal()));
  return x;
}

template <class T>
std::string text(const T& x) {
  return std::to_string(x) + " of bits " + std::to_string(bits_of(x));
}

/// Bits equal, or both NaN.
template <class T>
testing::AssertionResult same(const T& got, const T& want) {
  if (bits_of(got) == bits_of(want) || (is_nan(got) && is_nan(want))) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "got " << text(got) << ", want " << text(want);
}

/// Calls check(a, b) with pointers to `lanes` numbers so that every kind meets every other.
template <class T, class Check>
void for_every_pair(Size lanes, const Check& check) {
  const std::vector<T> x = every_kind<T>();
  std::vector<T> b(static_cast<std::size_t>(lanes));
  for (std::size_t at = 0; at + static_cast<std::size_t>(lanes) <= x.size(); ++at) {
    for (std::size_t shift = 0; shift < x.size(); ++shift) {
      for (std::size_t i = 0; i < b.size(); ++i) b[i] = x[(at + i + shift) % x.size()];
      check(x.data() + at, b.data());
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(Vectors, ArithmeticIsThatOfEveryLane) {
  for_every_vector([]<class T>(const VectorOps<T>& ops, T) {
    for_every_pair<T>(ops.lanes, [&](const T* a, const T* b) {
      T sum[16], difference[16], product[16], quotient[16], fused[16], least[16], most[16], size[16];
      ops.add(a, b, sum);
      ops.sub(a, b, difference);
      ops.mul(a, b, product);
      ops.div(a, b, quotient);
      ops.min(a, b, least);
      ops.max(a, b, most);
      ops.abs(a, size);
      ops.fma(a, b, a, fused);
      for (Size i = 0; i < ops.lanes; ++i) {
        ASSERT_TRUE(same(sum[i], a[i] + b[i]));
        ASSERT_TRUE(same(difference[i], a[i] - b[i]));
        ASSERT_TRUE(same(product[i], a[i] * b[i]));
        ASSERT_TRUE(same(quotient[i], a[i] / b[i]));
        ASSERT_TRUE(same(least[i], a[i] < b[i] ? a[i] : b[i])) << text(a[i]) << " and " << text(b[i]);
        ASSERT_TRUE(same(most[i], a[i] > b[i] ? a[i] : b[i])) << text(a[i]) << " and " << text(b[i]);
        ASSERT_EQ(bits_of(size[i]), bits_of(a[i]) & (~Bits<T>(0) >> 1));
        const T apart = static_cast<T>(a[i] * b[i]) + a[i];
        ASSERT_TRUE(same(fused[i], std::fma(a[i], b[i], a[i])) || same(fused[i], apart));
      }
    });
  });
}

TEST(Vectors, MasksAreWordsAndBackAndChooseEveryBit) {
  for_every_vector([]<class T>(const VectorOps<T>& ops, T) {
    const unsigned all = (1u << ops.lanes) - 1u;
    for (unsigned word = 0; word <= all; word += word < 70 ? 1 : 97) {
      ASSERT_EQ(ops.there_and_back(word), word);
      ASSERT_EQ(ops.there_and_back(word | 0x10000u), word) << "bits behind the lanes";
    }
    const unsigned some = 0x5a36u & all;
    for_every_pair<T>(ops.lanes, [&](const T* a, const T* b) {
      T chosen[16];
      ops.select(some, a, b, chosen);
      const unsigned less = ops.less(a, b), infinite = ops.is_minus_infinity(a), zero = ops.is_zero(a);
      bool finite = true;
      ASSERT_EQ((less | infinite | zero) & ~all, 0u);
      for (Size i = 0; i < ops.lanes; ++i) {
        ASSERT_EQ(bits_of(chosen[i]), bits_of((some >> i & 1u) != 0 ? a[i] : b[i]));
        ASSERT_EQ((less >> i & 1u) != 0, a[i] < b[i]) << text(a[i]) << " and " << text(b[i]);
        ASSERT_EQ((infinite >> i & 1u) != 0, bits_of(a[i]) == bits_of(minus_infinity_in_memory<T>));
        ASSERT_EQ((zero >> i & 1u) != 0, (bits_of(a[i]) << 1) == 0) << text(a[i]);
        finite = finite && std::isfinite(a[i]);
      }
      ASSERT_EQ(ops.all_finite(a) != 0, finite);
    });
  });
}

TEST(Vectors, MoveWhatTheyAreTold) {
  for_every_vector([]<class T>(const VectorOps<T>& ops, T) {
    const Size n = ops.lanes;
    const std::vector<T> x = every_kind<T>();
    T to[16];
    ops.zero(to);
    for (Size i = 0; i < n; ++i) ASSERT_EQ(bits_of(to[i]), 0u);
    for (const T& entry : x) {
      ops.set(entry, to);
      for (Size i = 0; i < n; ++i) ASSERT_TRUE(same(to[i], entry));
    }
    const std::int32_t at[16] = {5, 5, 0, 63, 31, 7, 11, 12, 13, 2, 40, 41, 1, 62, 33, 9};
    ops.load_each(x.data(), at, to);
    for (Size i = 0; i < n; ++i) ASSERT_EQ(bits_of(to[i]), bits_of(x[static_cast<std::size_t>(at[i])]));

    T rows[16 * 16], turned[16 * 16], sums[16];
    for (Size i = 0; i < n * n; ++i) rows[i] = turned[i] = static_cast<T>(3 * i + 1);
    ops.transpose(turned);
    ops.row_sums(rows, sums);
    for (Size i = 0; i < n; ++i) {
      T sum = 0;
      for (Size c = 0; c < n; ++c) {
        ASSERT_EQ(turned[c * n + i], rows[i * n + c]);
        sum += rows[i * n + c];
      }
      ASSERT_EQ(sums[i], sum) << "whole numbers: any order gives the same";
      ASSERT_EQ(ops.sum(rows + i * n), sum);
    }

    for (Size first = 1; first <= n; ++first) {
      T numbered[16], loaded[16], stored[16];
      for (Size i = 0; i < n; ++i) {
        numbered[i] = static_cast<T>(i + 1);
        stored[i] = T(-1);
      }
      ops.load_first(numbered, first, loaded);
      ops.store_first(numbered, first, stored);
      for (Size i = 0; i < n; ++i) {
        ASSERT_EQ(loaded[i], i < first ? numbered[i] : T(0));
        ASSERT_EQ(stored[i], i < first ? numbered[i] : T(-1));
      }
    }

    NumberStream numbers(2);
    std::uint32_t words[16];
    for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(numbers.bits());
    for (const Size n_bits : {1, 7, 32}) {
      std::vector<std::uint16_t> columns(static_cast<std::size_t>(3 * n_bits), 0xabcd);
      ops.transpose_bits(words, n_bits, columns.data(), 3);
      for (Size j = 0; j < 3 * n_bits; ++j) {
        std::uint16_t want = j % 3 == 0 ? 0 : 0xabcd;
        for (Size l = 0; j % 3 == 0 && l < n; ++l)
          want = static_cast<std::uint16_t>(want | (words[l] >> (j / 3) & 1u) << l);
        ASSERT_EQ(columns[static_cast<std::size_t>(j)], want);
      }
    }
    std::int32_t places[16];
    const unsigned some = 0xb6c9u & ((1u << n) - 1u);
    if (ops.store_places(places, some, 100)) {
      const std::int32_t* place = places;
      for (Size i = 0; i < n; ++i) {
        if ((some >> i & 1u) == 0) continue;
        ASSERT_EQ(*place++, 100 + i);
      }
    }
  });
}

TEST(Vectors, ExponentsAreExactAndNeverSubnormal) {
  for_every_vector([]<class T>(const VectorOps<T>& ops, T) {
    const int least = std::numeric_limits<T>::min_exponent - 1;  // of the normal numbers
    std::vector<T> x;
    for (int e = least - 3; e <= 60; ++e) {
      for (const double part : {0.0, 0.25, 0.5, 0.9375}) x.push_back(static_cast<T>(e + part));
    }
    for (const T& far : {T(-1e4), T(-1e30), minus_infinity_in_memory<T>}) x.push_back(far);
    while (x.size() % static_cast<std::size_t>(ops.lanes) != 0) x.push_back(T(0));
    const T factor = T(1.25);
    T p[16], fraction[16], power[16], exponential[16];
    ops.set(factor, p);
    for (std::size_t at = 0; at < x.size(); at += static_cast<std::size_t>(ops.lanes)) {
      ops.fraction(x.data() + at, fraction);
      ops.pow2(p, x.data() + at, power);
      ops.exp2(x.data() + at, exponential);
      for (Size i = 0; i < ops.lanes; ++i) {
        const T& entry = x[at + static_cast<std::size_t>(i)];
        const bool normal = entry >= T(least);
        ASSERT_EQ(power[i], normal ? std::ldexp(factor, static_cast<int>(std::floor(entry))) : T(0)) << text(entry);
        if (!normal) {
          ASSERT_EQ(exponential[i], T(0)) << text(entry);
          continue;
        }
        ASSERT_EQ(fraction[i], entry - std::floor(entry)) << text(entry);
        const double ratio = static_cast<double>(exponential[i]) / std::exp2(static_cast<double>(entry));
        ASSERT_NEAR(ratio, 1.0, sizeof(T) == 4 ? 2e-7 : 4e-16) << text(entry);
      }
    }
    const T nan = nan_in_memory<T>;
    ops.set(nan, p);
    ops.exp2(p, exponential);
    ops.fraction(p, fraction);
    const T zeros[16] = {};
    ops.pow2(p, zeros, power);
    for (Size i = 0; i < ops.lanes; ++i) ASSERT_TRUE(is_nan(exponential[i]) && is_nan(fraction[i]) && is_nan(power[i]));
  });
}

/// Calls check(p) for pointers to vectors that hold each 16-bit pattern once.
template <class S, class Check>
void for_every_word(Size lanes, const Check& check) {
  S from[16];
  for (unsigned word = 0; word < 0x10000u; word += static_cast<unsigned>(lanes)) {
    for (Size i = 0; i < lanes; ++i) from[i].bits = static_cast<std::uint16_t>(word + static_cast<unsigned>(i));
    check(from);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(Vectors, EveryStoredNumberIsReadExactly) {
  for_every_vector([]<class T>(const VectorOps<T>& ops, T) {
    T to[16];
    for_every_word<Half>(ops.lanes, [&](const Half* from) {
      ops.from_half(from, to);
      for (Size i = 0; i < ops.lanes; ++i) {
        const auto half = std::bit_cast<Eigen::half>(from[i].bits);
        ASSERT_TRUE(same(to[i], static_cast<T>(static_cast<float>(half)))) << from[i].bits;
      }
    });
    for_every_word<Bfloat>(ops.lanes, [&](const Bfloat* from) {
      ops.from_bfloat(from, to);
      for (Size i = 0; i < ops.lanes; ++i)
        ASSERT_TRUE(same(to[i], static_cast<T>(std::bit_cast<float>(std::uint32_t(from[i].bits) << 16))));
    });
    const std::vector<float> floats = every_kind<float>();
    const std::vector<double> doubles = every_kind<double>();
    for (std::size_t at = 0; at + static_cast<std::size_t>(ops.lanes) <= floats.size(); ++at) {
      ops.from_float(floats.data() + at, to);
      for (Size i = 0; i < ops.lanes; ++i)
        ASSERT_TRUE(same(to[i], static_cast<T>(floats[at + static_cast<std::size_t>(i)])));
      ops.from_double(doubles.data() + at, to);
      for (Size i = 0; i < ops.lanes; ++i)
        ASSERT_TRUE(same(to[i], static_cast<T>(doubles[at + static_cast<std::size_t>(i)])));
    }
    Bool bytes[32];
    for (int i = 0; i < 32; ++i) bytes[i].byte = i % 3 == 0 ? 0 : i % 3 == 1 ? 1 : 255;
    for (Size at = 0; at + ops.lanes <= 32; ++at) {
      ops.from_bool(bytes + at, to);
      for (Size i = 0; i < ops.lanes; ++i) ASSERT_EQ(to[i] != 0, bytes[at + i].byte != 0);
    }
  });
  for_every_instance([](const InstanceOps& ops) {
    for (int place = -1; place < 32; ++place) {
      Bool bytes[32] = {};
      if (place >= 0) bytes[place].byte = static_cast<std::uint8_t>(1u << (place % 8));
      ASSERT_EQ(ops.nonzero_bytes(bytes), place < 0 ? 0u : 1u << place);
    }
  });
}

TEST(Vectors, AreStoredAsTheNearestSixteenBitsTiesToEven) {
  for_every_instance([](const InstanceOps& ops) {
    const Size n = ops.floats.lanes;
    std::vector<float> x = every_kind<float>();
    // Around every number of 16 bits: it, half way to the next, and the floats beside that.
    for (std::uint32_t word = 0; word < 0x10000u; word += 7) {
      const std::uint32_t bfloat = word << 16;
      const auto half =
          std::bit_cast<std::uint32_t>(static_cast<float>(std::bit_cast<Eigen::half>(std::uint16_t(word))));
      for (const std::uint32_t bits : {bfloat, bfloat + 0x7fffu, bfloat + 0x8000u, bfloat + 0x8001u, half,
                                       half + 0xfffu, half + 0x1000u, half + 0x1001u})
        x.push_back(std::bit_cast<float>(bits));
    }
    while (x.size() % static_cast<std::size_t>(n) != 0) x.push_back(0.0f);
    for (std::size_t at = 0; at < x.size(); at += static_cast<std::size_t>(n)) {
      Half half[16];
      Bfloat bfloat[16];
      ops.floats.to_half(x.data() + at, half);
      ops.floats.to_bfloat(x.data() + at, bfloat);
      for (Size i = 0; i < n; ++i) {
        const float& entry = x[at + static_cast<std::size_t>(i)];
        const auto got_half = std::bit_cast<Eigen::half>(half[i].bits);
        const auto got_bfloat = std::bit_cast<Eigen::bfloat16>(bfloat[i].bits);
        if (is_nan(entry)) {
          ASSERT_TRUE(is_nan(got_half) && is_nan(got_bfloat)) << text(entry);
          continue;
        }
        ASSERT_EQ(half[i].bits, std::bit_cast<std::uint16_t>(Eigen::half(entry))) << text(entry);
        ASSERT_EQ(bfloat[i].bits, std::bit_cast<std::uint16_t>(Eigen::bfloat16(entry))) << text(entry);
      }
    }
  });
}

TEST(Vectors, WholeNumbersAreThoseOfSixtyFourBits) {
  for_every_instance([](const InstanceOps& all) {
    const WholeOps& ops = all.whole;
    NumberStream numbers(3);
    std::uint64_t table[50];
    for (std::uint64_t& entry : table) entry = numbers.bits();
    for (int round = 0; round < 200; ++round) {
      std::uint64_t a[8], b[8], c[8], small[8], other[8], place[8], to[8];
      for (int i = 0; i < 8; ++i) {
        a[i] = round == 0 ? ~std::uint64_t(0) : numbers.bits();
        b[i] = round == 0 ? ~std::uint64_t(0) : numbers.bits();
        c[i] = numbers.bits();
        small[i] = a[i] >> 32;
        other[i] = i % 3 == 0 ? small[i] : b[i] >> 32;
        place[i] = numbers.bits() % 50;
      }
      const auto expect = [&](const auto& want) {
        for (Size i = 0; i < ops.lanes; ++i) ASSERT_EQ(to[i], want(i));
      };
      ops.count_from(a[0] >> 1, to);
      expect([&](Size i) { return (a[0] >> 1) + static_cast<std::uint64_t>(i); });
      ops.mul(a, b, to);
      expect([&](Size i) { return (a[i] & 0xffffffffu) * (b[i] & 0xffffffffu); });
      ops.high(a, to);
      expect([&](Size i) { return a[i] >> 32; });
      ops.low(a, to);
      expect([&](Size i) { return a[i] & 0xffffffffu; });
      ops.exclusive_or(a, b, c, to);
      expect([&](Size i) { return a[i] ^ b[i] ^ c[i]; });
      ops.smaller(small, other, to);
      expect([&](Size i) { return small[i] < other[i] ? small[i] : other[i]; });
      ops.gather(table, place, to);
      expect([&](Size i) { return table[place[i]]; });
      std::uint64_t four[32];
      std::int32_t list[32];
      for (std::uint64_t& x : four) x = numbers.bits() >> 33;
      ops.store_by_lane(list, four);
      for (Size i = 0; i < ops.lanes; ++i) {
        for (Size e = 0; e < 4; ++e) ASSERT_EQ(static_cast<std::uint64_t>(list[4 * i + e]), four[e * ops.lanes + i]);
      }
    }
  });
}

TEST(Vectors, TilesFitTheirTables) {
  for_every_vector([]<class T>(const VectorOps<T>& ops, T) {
    EXPECT_TRUE(std::has_single_bit(static_cast<unsigned>(ops.lanes)) && ops.lanes >= 2 && ops.lanes <= 16);
    EXPECT_TRUE(ops.vectors >= 1 && ops.vectors <= 3);
    EXPECT_GE(ops.rows, 1);
  });
}

}  // namespace
}  // namespace heed::test
