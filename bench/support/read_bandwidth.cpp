#include "support/read_bandwidth.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <new>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "support/cpu.hpp"

namespace heed_bench {
namespace {

constexpr std::size_t turn = 1024;  // bytes a turn of the loop reads: 16 zmm

using Reader = std::uint64_t (*)(const unsigned char* data, std::size_t bytes, std::size_t ahead);

std::uint64_t read_portable(const unsigned char* data, std::size_t bytes, std::size_t) {
  std::uint64_t folded[8] = {};
  for (std::size_t at = 0; at < bytes; at += sizeof(folded)) {
    std::uint64_t part[8];
    std::memcpy(part, data + at, sizeof(part));
    for (int i = 0; i < 8; ++i) folded[i] ^= part[i];
  }
  std::uint64_t all = 0;
  for (const std::uint64_t f : folded) all ^= f;
  return all;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) std::uint64_t read_avx512(const unsigned char* data, std::size_t bytes,
                                                             std::size_t ahead) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a, e = a, f = a, g = a, h = a;
  for (std::size_t at = 0; at < bytes; at += turn) {
    const unsigned char* p = data + at;
    if (ahead != 0)
      for (std::size_t line = 0; line < turn; line += 64)
        _mm_prefetch(reinterpret_cast<const char*>(p + ahead + line), _MM_HINT_T0);
    a = _mm512_xor_si512(a, _mm512_load_si512(p)), b = _mm512_xor_si512(b, _mm512_load_si512(p + 64));
    c = _mm512_xor_si512(c, _mm512_load_si512(p + 128)), d = _mm512_xor_si512(d, _mm512_load_si512(p + 192));
    e = _mm512_xor_si512(e, _mm512_load_si512(p + 256)), f = _mm512_xor_si512(f, _mm512_load_si512(p + 320));
    g = _mm512_xor_si512(g, _mm512_load_si512(p + 384)), h = _mm512_xor_si512(h, _mm512_load_si512(p + 448));
    a = _mm512_xor_si512(a, _mm512_load_si512(p + 512)), b = _mm512_xor_si512(b, _mm512_load_si512(p + 576));
    c = _mm512_xor_si512(c, _mm512_load_si512(p + 640)), d = _mm512_xor_si512(d, _mm512_load_si512(p + 704));
    e = _mm512_xor_si512(e, _mm512_load_si512(p + 768)), f = _mm512_xor_si512(f, _mm512_load_si512(p + 832));
    g = _mm512_xor_si512(g, _mm512_load_si512(p + 896)), h = _mm512_xor_si512(h, _mm512_load_si512(p + 960));
  }
  a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
  e = _mm512_xor_si512(_mm512_xor_si512(e, f), _mm512_xor_si512(g, h));
  alignas(64) std::uint64_t lanes[8];
  _mm512_store_si512(lanes, _mm512_xor_si512(a, e));
  return lanes[0] ^ lanes[1] ^ lanes[2] ^ lanes[3] ^ lanes[4] ^ lanes[5] ^ lanes[6] ^ lanes[7];
}

__attribute__((target("avx2"))) __m256i load_folded(__m256i folded, const unsigned char* p) {
  return _mm256_xor_si256(folded, _mm256_load_si256(reinterpret_cast<const __m256i*>(p)));
}

__attribute__((target("avx2"))) std::uint64_t read_avx2(const unsigned char* data, std::size_t bytes,
                                                        std::size_t ahead) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (std::size_t at = 0; at < bytes; at += 256) {
    const unsigned char* p = data + at;
    if (ahead != 0)
      for (std::size_t line = 0; line < 256; line += 64)
        _mm_prefetch(reinterpret_cast<const char*>(p + ahead + line), _MM_HINT_T0);
    a = load_folded(a, p), b = load_folded(b, p + 32), c = load_folded(c, p + 64), d = load_folded(d, p + 96);
    a = load_folded(a, p + 128), b = load_folded(b, p + 160), c = load_folded(c, p + 192), d = load_folded(d, p + 224);
  }
  alignas(32) std::uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes),
                     _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d)));
  return lanes[0] ^ lanes[1] ^ lanes[2] ^ lanes[3];
}
#endif

Reader widest_reader() {
#if defined(__x86_64__)
  if (widest_registers() == Registers::avx512) return read_avx512;
  if (widest_registers() == Registers::avx2) return read_avx2;
#endif
  return read_portable;
}

}  // namespace

ReadBandwidth::ReadBandwidth(std::size_t bytes) : bytes_(bytes / (64 * turn) * (64 * turn)), data_(nullptr) {
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  madvise(memory, bytes_, MADV_HUGEPAGE);
  std::memset(memory, 1, bytes_);  // pages that nobody wrote would all be one page of zeros, which stays in cache
  data_ = static_cast<unsigned char*>(memory);
}

ReadBandwidth::~ReadBandwidth() { munmap(data_, bytes_); }

double ReadBandwidth::measure(int threads) const {
  using Clock = std::chrono::steady_clock;
  const Reader read = widest_reader();
  const std::size_t part = bytes_ / static_cast<std::size_t>(threads) / turn * turn;
  std::atomic<std::uint64_t> sink{0};
  double best = 0;
  for (const std::size_t ahead : {std::size_t{0}, std::size_t{4096}}) {
    std::barrier gate(threads);
    Clock::time_point begin, end;
    const auto work = [&](std::size_t thread) {
      gate.arrive_and_wait();
      if (thread == 0) begin = Clock::now();
      sink ^= read(data_ + thread * part, part, ahead);
      gate.arrive_and_wait();
      if (thread == 0) end = Clock::now();
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(work, static_cast<std::size_t>(t));
    work(0);
    for (auto& other : others) other.join();
    const double seconds = std::chrono::duration<double>(end - begin).count();
    best = std::max(best, double(part) * double(threads) / seconds);
  }
  return best;
}

}  // namespace heed_bench
