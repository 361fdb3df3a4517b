// Decoding: one query a head against a cache of float, half, bfloat16 or 8-bit keys and values. See bench/README.md.
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include <benchmark/benchmark.h>
#include <heed/heed.hpp>

#include "support/heads.hpp"
#include "support/limits.hpp"
#include "support/timing.hpp"

namespace heed_bench {
namespace {

using heed::Index;

constexpr Index width = 64;
constexpr Index n_heads = 12;

struct Case {
  Index n_k = 0;
  int threads = 1;
};

template <class S>
const char* scalar_name() {
  if constexpr (std::is_same_v<S, Eigen::half>) return "half";
  if constexpr (std::is_same_v<S, Eigen::bfloat16>) return "bfloat16";
  if constexpr (std::is_same_v<S, heed::Int8>) return "int8";
  return "float";
}

/// Bytes of K and V that one call reads.
template <class S>
double bytes_of(Index n_k) {
  if constexpr (std::is_same_v<S, heed::Int8>) {  // two bytes of scales a token, and a mean key every 32
    return double(n_k) * double(n_heads) * (2.0 * double(width) + 4 + double(width) / 16);
  } else {
    return 2.0 * double(n_k) * double(width) * double(n_heads) * sizeof(S);
  }
}

/// How many sets of operands are read in turn. Where one set of floats exceeds 128 MiB, 1.5 GiB of them, so that each
/// call reads DRAM as it does in a model of many layers; a smaller set is read again and again.
std::size_t sets_for(Index n_k) {
  const double bytes = bytes_of<float>(n_k);
  return bytes > double(1 << 27) ? static_cast<std::size_t>(std::ceil(1.5 * double(1 << 30) / bytes)) : 1;
}

/// Caches that are read in turn, one of them in each call.
template <class S>
class Caches {
 public:
  Caches(const Case& one) : threads_(one.threads), lse_(1, n_heads), out_(1, width * n_heads) {
    for (std::size_t s = 0; s < sets_for(one.n_k); ++s) {
      PackedHeads<float> heads(1, one.n_k, width, n_heads, s + 1);
      caches_.emplace_back(width, width, n_heads, one.n_k);
      caches_.back().append(heads.k, heads.v);
      if (s == 0) {
        query_ = heads.q;
        attend(0);
        heads.out = out_;
        error_ = heads.error([](auto, auto, auto, double scaled) { return scaled; });
      }
    }
  }
  void operator()() { attend(next_++ % caches_.size()); }
  [[nodiscard]] double error() const { return error_; }

 private:
  void attend(std::size_t set) {
    heed::attend_into(out_, lse_, query_, caches_[set], {}, {.workspace = &workspace_, .threads = threads_});
  }
  int threads_;
  std::vector<heed::KeyValueCache<S>> caches_;
  heed::Matrix<float> lse_, out_, query_;
  heed::Workspace workspace_;
  std::size_t next_ = 0;
  double error_ = 0;
};

void report(benchmark::State& state, double bytes, const Timing& timing, const BandwidthAround& around, double error) {
  const double dram = around.finish();
  state.counters["GB/s"] = bytes / timing.median * 1e-9;
  state.counters["of_dram"] = bytes / timing.median / dram;
  state.counters["dram_GB/s"] = dram * 1e-9;
  state.counters["allocs"] = timing.allocations;
  state.counters["error"] = error;
}

/// A cache of S; the smaller ones run in turn with float and give `times_float`.
template <class S>
void cached(benchmark::State& state, const Case& one) {
  const BandwidthAround around(one.threads);
  Caches<S> caches(one);
  if constexpr (std::is_same_v<S, float>) {
    report(state, bytes_of<S>(one.n_k), time_alone(state, [&] { caches(); }), around, caches.error());
  } else {
    Caches<float> floats(one);
    const Timing timing = time_against(
        state, [&] { caches(); }, [&] { floats(); });
    report(state, bytes_of<S>(one.n_k), timing, around, caches.error());
    state.counters["times_float"] = timing.baseline_median / timing.median;
  }
}

/// The same without a cache: the rows of all heads lie packed, as a projection leaves them.
void direct(benchmark::State& state, const Case& one) {
  const BandwidthAround around(one.threads);
  std::vector<PackedHeads<float>> sets;
  for (std::size_t s = 0; s < sets_for(one.n_k); ++s) sets.emplace_back(1, one.n_k, width, n_heads, s + 1);
  heed::Workspace workspace;
  std::size_t next = 0;
  const Timing timing = time_alone(state, [&] {
    auto& heads = sets[next++ % sets.size()];
    heed::multi_head_attend_into(heads.out, heads.lse, heads.q, heads.k, heads.v, {.n_heads = n_heads}, {},
                                 heed::ExactAttention{}, {.workspace = &workspace, .threads = one.threads});
  });
  const double error = sets.front().error([](auto, auto, auto, double scaled) { return scaled; });
  report(state, bytes_of<float>(one.n_k), timing, around, error);
}

template <class Body>
void add(const std::string& group, const Case& one, const Body& body) {
  const std::string name = "decode/" + group + "/n_k:" + std::to_string(one.n_k) + "/d:" + std::to_string(width) +
                           "/heads:" + std::to_string(n_heads) + "/threads:" + std::to_string(one.threads);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { body(state, one); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

const bool registered = [] {
  for (const int threads : {1, 2})
    for (const Index n_k : {2048, 4096, 16384, 65536, 131072}) {
      add(std::string("cache/") + scalar_name<heed::Int8>(), {n_k, threads}, cached<heed::Int8>);
      if (n_k != 4096 && n_k != 65536) continue;
      add(std::string("cache/") + scalar_name<float>(), {n_k, threads}, cached<float>);
      add(std::string("cache/") + scalar_name<Eigen::half>(), {n_k, threads}, cached<Eigen::half>);
      add(std::string("cache/") + scalar_name<Eigen::bfloat16>(), {n_k, threads}, cached<Eigen::bfloat16>);
      add("direct/float", {n_k, threads}, direct);
    }
  return true;
}();

}  // namespace
}  // namespace heed_bench
