#include "support/fma_peak.hpp"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace heed_bench {
namespace {

using Chains = std::make_integer_sequence<int, 12>;
using Chain = void (*)(std::int64_t, void*);  // rounds, 64 bytes that receive the sum so that nothing is removed

struct Kernel {
  Chain run = nullptr;
  double flops_per_round = 0;
};

template <class T, int... R>
void portable_chain(std::int64_t rounds, void* sink, std::integer_sequence<int, R...>) {
  T a[] = {T(R)...};
  for (std::int64_t n = 0; n < rounds; ++n) ((a[R] = a[R] * T(0.5) + T(1)), ...);
  *static_cast<T*>(sink) = (a[R] + ...);
}
template <class T>
void portable(std::int64_t rounds, void* sink) {
  portable_chain<T>(rounds, sink, Chains{});
}

#if defined(__x86_64__)
// The target attribute of a function template reaches its pack expansions, not lambdas inside: hence no lambdas here.
template <int... R>
void sse2_f32_chain(std::int64_t rounds, void* sink, std::integer_sequence<int, R...>) {
  const __m128 x = _mm_set1_ps(0.5F), y = _mm_set1_ps(1.0F);
  __m128 a[] = {_mm_set1_ps(float(R))...};
  for (std::int64_t n = 0; n < rounds; ++n) ((a[R] = _mm_add_ps(_mm_mul_ps(a[R], x), y)), ...);
  ((a[0] = _mm_add_ps(a[0], a[R])), ...);
  _mm_storeu_ps(static_cast<float*>(sink), a[0]);
}
template <int... R>
void sse2_f64_chain(std::int64_t rounds, void* sink, std::integer_sequence<int, R...>) {
  const __m128d x = _mm_set1_pd(0.5), y = _mm_set1_pd(1.0);
  __m128d a[] = {_mm_set1_pd(double(R))...};
  for (std::int64_t n = 0; n < rounds; ++n) ((a[R] = _mm_add_pd(_mm_mul_pd(a[R], x), y)), ...);
  ((a[0] = _mm_add_pd(a[0], a[R])), ...);
  _mm_storeu_pd(static_cast<double*>(sink), a[0]);
}
template <int... R>
__attribute__((target("avx2,fma"))) void avx2_f32_chain(std::int64_t rounds, void* sink,
                                                        std::integer_sequence<int, R...>) {
  const __m256 x = _mm256_set1_ps(0.5F), y = _mm256_set1_ps(1.0F);
  __m256 a[] = {_mm256_set1_ps(float(R))...};
  for (std::int64_t n = 0; n < rounds; ++n) ((a[R] = _mm256_fmadd_ps(a[R], x, y)), ...);
  ((a[0] = _mm256_add_ps(a[0], a[R])), ...);
  _mm256_storeu_ps(static_cast<float*>(sink), a[0]);
}
template <int... R>
__attribute__((target("avx2,fma"))) void avx2_f64_chain(std::int64_t rounds, void* sink,
                                                        std::integer_sequence<int, R...>) {
  const __m256d x = _mm256_set1_pd(0.5), y = _mm256_set1_pd(1.0);
  __m256d a[] = {_mm256_set1_pd(double(R))...};
  for (std::int64_t n = 0; n < rounds; ++n) ((a[R] = _mm256_fmadd_pd(a[R], x, y)), ...);
  ((a[0] = _mm256_add_pd(a[0], a[R])), ...);
  _mm256_storeu_pd(static_cast<double*>(sink), a[0]);
}
template <int... R>
__attribute__((target("avx512f"))) void avx512_f32_chain(std::int64_t rounds, void* sink,
                                                         std::integer_sequence<int, R...>) {
  const __m512 x = _mm512_set1_ps(0.5F), y = _mm512_set1_ps(1.0F);
  __m512 a[] = {_mm512_set1_ps(float(R))...};
  for (std::int64_t n = 0; n < rounds; ++n) ((a[R] = _mm512_fmadd_ps(a[R], x, y)), ...);
  ((a[0] = _mm512_add_ps(a[0], a[R])), ...);
  _mm512_storeu_ps(sink, a[0]);
}
template <int... R>
__attribute__((target("avx512f"))) void avx512_f64_chain(std::int64_t rounds, void* sink,
                                                         std::integer_sequence<int, R...>) {
  const __m512d x = _mm512_set1_pd(0.5), y = _mm512_set1_pd(1.0);
  __m512d a[] = {_mm512_set1_pd(double(R))...};
  for (std::int64_t n = 0; n < rounds; ++n) ((a[R] = _mm512_fmadd_pd(a[R], x, y)), ...);
  ((a[0] = _mm512_add_pd(a[0], a[R])), ...);
  _mm512_storeu_pd(sink, a[0]);
}
template <int... R>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) void bf16_chain(std::int64_t rounds, void* sink,
                                                                                std::integer_sequence<int, R...>) {
  const __m512 one = _mm512_set1_ps(1.0F), tiny = _mm512_set1_ps(1e-3F);
  const __m512bh x = _mm512_cvtne2ps_pbh(one, one), y = _mm512_cvtne2ps_pbh(tiny, tiny);
  __m512 a[] = {_mm512_set1_ps(float(R))...};
  for (std::int64_t n = 0; n < rounds; ++n) ((a[R] = _mm512_dpbf16_ps(a[R], x, y)), ...);
  ((a[0] = _mm512_add_ps(a[0], a[R])), ...);
  _mm512_storeu_ps(sink, a[0]);
}
void sse2_f32(std::int64_t rounds, void* sink) { sse2_f32_chain(rounds, sink, Chains{}); }
void sse2_f64(std::int64_t rounds, void* sink) { sse2_f64_chain(rounds, sink, Chains{}); }
void avx2_f32(std::int64_t rounds, void* sink) { avx2_f32_chain(rounds, sink, Chains{}); }
void avx2_f64(std::int64_t rounds, void* sink) { avx2_f64_chain(rounds, sink, Chains{}); }
void avx512_f32(std::int64_t rounds, void* sink) { avx512_f32_chain(rounds, sink, Chains{}); }
void avx512_f64(std::int64_t rounds, void* sink) { avx512_f64_chain(rounds, sink, Chains{}); }
void bf16(std::int64_t rounds, void* sink) { bf16_chain(rounds, sink, Chains{}); }
#endif

Kernel kernel_for(Arithmetic arithmetic, Registers registers) {
  const double per_lane = 2.0 * double(Chains::size());
#if defined(__x86_64__)
  const bool single = arithmetic == Arithmetic::f32;
  if (arithmetic == Arithmetic::bf16_dot) return has_bf16_dot() ? Kernel{bf16, 2 * 16 * per_lane} : Kernel{};
  if (registers == Registers::avx512)
    return single ? Kernel{avx512_f32, 16 * per_lane} : Kernel{avx512_f64, 8 * per_lane};
  if (registers == Registers::avx2) return single ? Kernel{avx2_f32, 8 * per_lane} : Kernel{avx2_f64, 4 * per_lane};
  if (registers == Registers::sse2) return single ? Kernel{sse2_f32, 4 * per_lane} : Kernel{sse2_f64, 2 * per_lane};
#endif
  if (arithmetic == Arithmetic::bf16_dot) return {};
  (void)registers;
  return arithmetic == Arithmetic::f32 ? Kernel{portable<float>, per_lane} : Kernel{portable<double>, per_lane};
}

}  // namespace

double fma_peak(Arithmetic arithmetic, int threads, Registers registers, double seconds) {
  const Kernel kernel = kernel_for(arithmetic, registers);
  if (kernel.run == nullptr) return 0;
  constexpr std::int64_t rounds = 20000;  // about 40 us: the clock is read rarely
  std::vector<double> rates(static_cast<std::size_t>(threads), 0.0);
  std::barrier start(threads);
  const auto work = [&](std::size_t thread) {
    using Clock = std::chrono::steady_clock;
    alignas(64) unsigned char sink[64];
    kernel.run(rounds, sink);
    start.arrive_and_wait();
    const auto begin = Clock::now();
    double elapsed = 0;
    double flops = 0;
    while (elapsed < seconds) {
      kernel.run(rounds, sink);
      flops += double(rounds) * kernel.flops_per_round;
      elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
    }
    rates[thread] = flops / elapsed;
  };
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(work, static_cast<std::size_t>(t));
  work(0);
  for (auto& other : others) other.join();
  double sum = 0;
  for (const double rate : rates) sum += rate;
  return sum;
}

double best_fma_peak(Arithmetic arithmetic, int threads, Registers registers, int repeats) {
  double best = 0;
  for (int r = 0; r < repeats; ++r) best = std::max(best, fma_peak(arithmetic, threads, registers));
  return best;
}

}  // namespace heed_bench
