// Exact attention, forward: n, d, threads, masks and storage scalars. See bench/README.md.
#include <string>

#include <benchmark/benchmark.h>
#include <heed/heed.hpp>

#include "support/attention_case.hpp"
#include "support/driver.hpp"
#include "support/heads.hpp"
#include "support/limits.hpp"
#include "support/masks.hpp"
#include "support/timing.hpp"

namespace heed_bench {
namespace {

using heed::Index;

/// One call after another on the same operands and workspace.
template <class S, class Method = heed::ExactAttention<>>
class Call {
 public:
  Call(PackedHeads<S>& heads, const heed::AttentionOptions& options, int threads)
      : heads_(heads), options_(options), threads_(threads) {}
  void operator()() const {
    heed::multi_head_attend_into(heads_.out, heads_.lse, heads_.q, heads_.k, heads_.v, {.n_heads = heads_.n_heads},
                                 options_, Method{}, {.workspace = &workspace_, .threads = threads_});
  }

 private:
  PackedHeads<S>& heads_;
  const heed::AttentionOptions& options_;
  int threads_;
  mutable heed::Workspace workspace_;
};

template <class S>
void report(benchmark::State& state, const Case& one, const PackedHeads<S>& heads, const MaskCase& mask,
            const Timing& timing, const PeakAround& around) {
  const double flops = 4 * mask.kept_pairs() * double(one.d) * double(one.n_heads);
  const double peak = around.finish();
  state.counters["GFLOP/s"] = flops / timing.median * 1e-9;
  state.counters["of_peak"] = flops / timing.median / peak;
  state.counters["peak"] = peak * 1e-9;
  state.counters["allocs"] = timing.allocations;
  state.counters["error"] = heads.error([&](auto i, auto j, auto h, double s) { return mask.score(i, j, h, s); });
}

/// The plain figure: time, share of peak, allocations, error.
template <class S>
void forward(benchmark::State& state, const Case& one) {
  PackedHeads<S> heads(one.n, one.n, one.d, one.n_heads);
  const MaskCase mask(one.mask, one.n, one.n_heads);
  const PeakAround around(arithmetic_of<S>(), one.threads);
  const Timing timing = time_alone(state, Call<S>(heads, mask.options, one.threads));
  report(state, one, heads, mask, timing, around);
}

/// A mask in turn with the same call without it: `over_unmasked` is the ratio of times, `ideal` that of kept pairs.
void masked(benchmark::State& state, const Case& one) {
  PackedHeads<float> heads(one.n, one.n, one.d, one.n_heads), plain_heads(one.n, one.n, one.d, one.n_heads);
  const MaskCase mask(one.mask, one.n, one.n_heads), plain(MaskKind::none, one.n, one.n_heads);
  const PeakAround around(Arithmetic::f32, one.threads);
  const Timing timing = time_against(state, Call<float>(heads, mask.options, one.threads),
                                     Call<float>(plain_heads, plain.options, one.threads));
  report(state, one, heads, mask, timing, around);
  state.counters["over_unmasked"] = timing.median / timing.baseline_median;
  state.counters["ideal"] = mask.kept_pairs() / plain.kept_pairs();
}

/// Another storage scalar in turn with float: `times_float` is how many times faster than float it is.
template <class S>
void against_float(benchmark::State& state, const Case& one) {
  PackedHeads<S> heads(one.n, one.n, one.d, one.n_heads);
  PackedHeads<float> float_heads(one.n, one.n, one.d, one.n_heads);
  const MaskCase mask(one.mask, one.n, one.n_heads);
  const PeakAround around(arithmetic_of<S>(), one.threads);
  const Timing timing = time_against(state, Call<S>(heads, mask.options, one.threads),
                                     Call<float>(float_heads, mask.options, one.threads));
  report(state, one, heads, mask, timing, around);
  state.counters["times_float"] = timing.baseline_median / timing.median;
}

/// Products of 8 bits in turn with those of bfloat16 operands: `times_bfloat16` is how many times faster they are.
void in_bytes(benchmark::State& state, const Case& one) {
  using Eigen::bfloat16;
  PackedHeads<float> heads(one.n, one.n, one.d, one.n_heads);
  PackedHeads<bfloat16> bfloat16_heads(one.n, one.n, one.d, one.n_heads);
  const MaskCase mask(one.mask, one.n, one.n_heads);
  const PeakAround around(Arithmetic::f32, one.threads);
  const Timing timing = time_against(state, Call<float, heed::Int8Attention<>>(heads, mask.options, one.threads),
                                     Call<bfloat16>(bfloat16_heads, mask.options, one.threads));
  report(state, one, heads, mask, timing, around);
  state.counters["times_bfloat16"] = timing.baseline_median / timing.median;
}

/// Several threads in turn with one: `times_one`, how many times faster they are, must not fall below 1.
void against_one_thread(benchmark::State& state, const Case& one) {
  PackedHeads<float> heads(one.n, one.n, one.d, one.n_heads), alone(one.n, one.n, one.d, one.n_heads);
  const MaskCase mask(one.mask, one.n, one.n_heads);
  const PeakAround around(Arithmetic::f32, one.threads);
  const Timing timing =
      time_against(state, Call<float>(heads, mask.options, one.threads), Call<float>(alone, mask.options, 1));
  report(state, one, heads, mask, timing, around);
  state.counters["times_one"] = timing.baseline_median / timing.median;
}

template <class S>
void add_scalar(int threads) {
  for (const Index n : {512, 2048, 8192})
    add(std::string("exact/") + scalar_name<S>(), {.n = n, .n_heads = n == 8192 ? 4 : 12, .threads = threads},
        against_float<S>);
  add(std::string("exact/") + scalar_name<S>(), {.n = 2048, .d = 128, .threads = threads}, against_float<S>);
  add(std::string("exact/") + scalar_name<S>(), {.n = 2048, .threads = threads, .mask = MaskKind::causal},
      against_float<S>);
}

const bool registered = [] {
  for (const int threads : {1, 2}) {
    for (const MaskKind mask : {MaskKind::none, MaskKind::causal}) {
      for (const Index n : {128, 512, 777, 1024, 2048, 4096, 8192})
        add("exact/float", {.n = n, .n_heads = n == 8192 ? 4 : 12, .threads = threads, .mask = mask}, forward<float>);
      for (const Index n : {512, 2048, 8192})
        add("exact/float", {.n = n, .d = 128, .n_heads = n == 8192 ? 4 : 12, .threads = threads, .mask = mask},
            forward<float>);
      for (const Index d : {65, 80})
        add("exact/float", {.n = 2048, .d = d, .threads = threads, .mask = mask}, forward<float>);
    }
    for (const MaskKind mask :
         {MaskKind::causal, MaskKind::window, MaskKind::band, MaskKind::padding, MaskKind::boolean, MaskKind::bias,
          MaskKind::alibi, MaskKind::softcap, MaskKind::packed})
      add("exact/masked", {.n = 2048, .threads = threads, .mask = mask}, masked);
    for (const MaskKind mask : {MaskKind::window, MaskKind::band})
      add("exact/masked", {.n = 8192, .n_heads = 4, .threads = threads, .mask = mask}, masked);
    add_scalar<double>(threads);
    add_scalar<Eigen::half>(threads);
    add_scalar<Eigen::bfloat16>(threads);
    for (const MaskKind mask : {MaskKind::none, MaskKind::causal}) {
      for (const Index n : {512, 2048, 4096}) add("exact/int8", {.n = n, .threads = threads, .mask = mask}, in_bytes);
      add("exact/int8", {.n = 2048, .d = 128, .threads = threads, .mask = mask}, in_bytes);
    }
  }
  for (const MaskKind mask : {MaskKind::none, MaskKind::causal}) {
    for (const Index n : {1, 16, 64, 128, 512, 2048})
      for (const Index heads : {1, 12})
        add("exact/threads", {.n = n, .n_heads = heads, .threads = 2, .mask = mask}, against_one_thread);
  }
  return true;
}();

}  // namespace
}  // namespace heed_bench

BENCH_METHOD(Exact, [](const auto&) { return heed::ExactAttention{}; }, {.n = {1024, 4096}});
