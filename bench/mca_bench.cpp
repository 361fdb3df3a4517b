// Monte-Carlo values: making value rows in turn with the dense projection, and the whole layer. See bench/README.md.
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <heed/heed.hpp>

#include "support/inputs.hpp"
#include "support/timing.hpp"

namespace heed_bench {
namespace {

using heed::Budget;
using heed::Estimator;
using heed::Index;
using heed::MonteCarloOptions;
using Rows = heed::Matrix<float>;

Rows random_rows(Index n, Index columns, std::uint64_t seed) {
  Rows rows(n, columns);
  fill_random({rows.data(), static_cast<std::size_t>(rows.size())}, seed);
  return rows;
}

/// One attention layer, heads of 64: packed queries and keys, input x, weights w_v.
struct Layer {
  Index n, width;
  Rows q, k, x, w, out, exact;
  heed::Matrix<float> lse;
  heed::Workspace workspace;

  Layer(Index n_tokens, Index d_model)
      : n(n_tokens),
        width(d_model),
        q(random_rows(n, width, 1)),
        k(random_rows(n, width, 2)),
        x(random_rows(n, width, 3)),
        w(random_rows(width, width, 4)),
        out(n, width),
        exact(n, width),
        lse(n, width / 64) {}
  [[nodiscard]] heed::HeadOptions heads() const { return {.n_heads = width / 64}; }
};

struct Variant {
  const char* name;
  MonteCarloOptions options;
};

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all{
      // Budget::constant needs no weights, so no importance is found. column_norm finds it, and that is timed.
      {"draws/without_importance", {.estimator = Estimator::with_replacement, .budget = Budget::constant}},
      {"draws/with_importance", {.estimator = Estimator::with_replacement, .budget = Budget::column_norm}},
      {"largest/without_importance", {.estimator = Estimator::largest, .budget = Budget::constant}},
      {"largest/with_importance", {.estimator = Estimator::largest, .budget = Budget::column_norm}},
      {"largest_centred/without_importance",
       {.estimator = Estimator::largest, .budget = Budget::constant, .centred = true}},
      {"no_repeats/without_importance", {.estimator = Estimator::without_replacement, .budget = Budget::constant}},
      {"product/without_importance", {.estimator = Estimator::product_weighted, .budget = Budget::constant}},
  };
  return all;
}

void report(benchmark::State& state, const Timing& timing, const heed::FlopCounter& flops, const Layer& layer) {
  const double dense = 2.0 * static_cast<double>(layer.n) * static_cast<double>(layer.width * layer.width);
  const double spent = flops.products(heed::Phase::sample) + flops.products(heed::Phase::project);
  state.counters["dense_ms"] = timing.baseline_median * 1e3;
  state.counters["times_dense"] = timing.baseline_median / timing.median;
  state.counters["flops_fewer"] = dense / spent;
  state.counters["sampled_rows"] = flops.sampled_rows() / (flops.sampled_rows() + flops.projected_rows());
  state.counters["error"] =
      static_cast<double>((layer.out - layer.exact).norm()) / static_cast<double>(layer.exact.norm());
  state.counters["allocs"] = timing.allocations;
}

// Value rows alone, in turn with the library's dense projection.
void values(benchmark::State& state, const Variant& variant, Index d_model, Index n, double fraction,
            heed::ValuePath path) {
  Layer layer(n, d_model);
  MonteCarloOptions options = variant.options;
  options.fraction = fraction;
  options.path = path;
  const heed::MonteCarloValues<float> sampled(layer.x, layer.w, options);
  const heed::ProjectedValues<float> projected(layer.x, layer.w);
  heed::FlopCounter flops;
  const auto sample = [&](heed::FlopCounter* counter) {
    sampled.value_rows_into(layer.out, layer.q, layer.k, {}, heed::ExactAttention{},
                            {.flops = counter, .workspace = &layer.workspace, .threads = 1}, layer.heads());
  };
  sample(&flops);
  const Timing timing = time_against(
      state, [&] { sample(nullptr); },
      [&] { projected.value_rows_into(layer.exact, {.workspace = &layer.workspace, .threads = 1}); });
  report(state, timing, flops, layer);
}

// Value rows and attention, in turn with the same over exact value rows.
void whole_layer(benchmark::State& state, const Variant& variant, Index d_model, Index n, double fraction) {
  Layer layer(n, d_model);
  MonteCarloOptions options = variant.options;
  options.fraction = fraction;
  options.path = heed::ValuePath::sampled;
  const heed::MonteCarloValues<float> sampled(layer.x, layer.w, options);
  const heed::ProjectedValues<float> projected(layer.x, layer.w);
  heed::FlopCounter flops;
  const auto attend = [&](Rows& out, const auto& source, heed::FlopCounter* counter) {
    heed::multi_head_attend_into(out, layer.lse, layer.q, layer.k, source, layer.heads(), {}, heed::ExactAttention{},
                                 {.flops = counter, .workspace = &layer.workspace, .threads = 1});
  };
  attend(layer.out, sampled, &flops);
  const Timing timing = time_against(
      state, [&] { attend(layer.out, sampled, nullptr); }, [&] { attend(layer.exact, projected, nullptr); });
  report(state, timing, flops, layer);
}

template <class Run>
void add(const std::string& name, const Run& run) {
  benchmark::RegisterBenchmark(name.c_str(), run)->UseManualTime()->Unit(benchmark::kMillisecond);
}

[[maybe_unused]] const bool registered = [] {
  for (const Variant& variant : variants()) {
    for (const Index d_model : {256, 768, 1024}) {
      for (const Index n : {128, 512, 2048, 8192}) {
        for (const int part : {16, 8, 4, 2}) {
          const std::string at = std::string("/") + variant.name + "/d_model:" + std::to_string(d_model) +
                                 "/n:" + std::to_string(n) + "/r:1/" + std::to_string(part);
          add("mca/values" + at, [=, &variant](benchmark::State& state) {
            values(state, variant, d_model, n, 1.0 / part, heed::ValuePath::sampled);
          });
          add("mca/fastest" + at, [=, &variant](benchmark::State& state) {
            values(state, variant, d_model, n, 1.0 / part, heed::ValuePath::fastest);
          });
          add("mca/layer" + at,
              [=, &variant](benchmark::State& state) { whole_layer(state, variant, d_model, n, 1.0 / part); });
        }
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace heed_bench
