#pragma once
#include <string>
#include <vector>

#include "support.hpp"

namespace fingerprints {

struct Sampling {
  std::string name;
  heed::MonteCarloOptions options;
};

/// Every estimator with every budget, centred or not; roundings, a bias and a threshold for some. Sampled always: which
/// heads are multiplied exactly because that is faster is another matter.
inline std::vector<Sampling> samplings() {
  struct EstimatorName {
    const char* name;
    heed::Estimator estimator;
  };
  struct BudgetName {
    const char* name;
    heed::Budget budget;
  };
  std::vector<Sampling> all;
  for (const EstimatorName e : {EstimatorName{"with_replacement", heed::Estimator::with_replacement},
                                EstimatorName{"product_weighted", heed::Estimator::product_weighted},
                                EstimatorName{"without_replacement", heed::Estimator::without_replacement},
                                EstimatorName{"largest", heed::Estimator::largest}}) {
    for (const BudgetName b :
         {BudgetName{"column_max", heed::Budget::column_max}, BudgetName{"column_norm", heed::Budget::column_norm},
          BudgetName{"constant", heed::Budget::constant}}) {
      for (const bool centred : {false, true}) {
        heed::MonteCarloOptions options;
        options.alpha = 0.9, options.seed = 7, options.estimator = e.estimator, options.budget = b.budget;
        options.fraction = 0.3, options.centred = centred, options.path = heed::ValuePath::sampled;
        const std::string name = std::string(e.name) + "/" + b.name + (centred ? "/centred" : "");
        all.push_back({name, options});
        if (b.budget != heed::Budget::column_max || centred) continue;
        options.rounding = heed::Rounding::published;
        all.push_back({name + "/published", options});
        options.rounding = heed::Rounding::up, options.skip_below = 0.03;
        all.push_back({name + "/skip", options});
      }
    }
  }
  return all;
}

/// Records outputs, plans and value rows of every sampling over `method`.
template <class S, class Method>
void record_sampled(Recorder& recorder, const std::string& method_name, const Shape& shape,
                    const std::vector<Kind>& kinds, const Method& method) {
  const Index d_in = 48;
  const Operands<S> in(shape);
  const Store store(shape);
  const heed::HeadOptions heads{shape.n_heads, shape.n_kv_heads};
  const Rows<S> x = numbers<S>(shape.n_k, d_in, 71), w = numbers<S>(d_in, shape.n_kv_heads * shape.d_v, 72, 0.2);
  const heed::Vector<S> bias = numbers<S>(shape.n_kv_heads * shape.d_v, 1, 73).col(0);
  for (Sampling sampling : samplings()) {
    if (sampling.options.skip_below > 0) sampling.options.bias = bias;
    const heed::MonteCarloValues<S> values(x, w, sampling.options);
    // What the weights of bfloat16 operands are multiplied in is a matter of its own.
    const bool weighs = sampling.options.budget != heed::Budget::constant;
    const std::string first = std::is_same_v<S, Eigen::bfloat16> && weighs ? "edge/bfloat16_weights/" : "";
    for (const Kind& kind : kinds) {
      heed::AttentionOptions options;
      kind.apply(options, store);
      const std::string name = first + "sampled/" + method_name + "/" + scalar_name<S>() + "/" + shape.name() + "/" +
                               sampling.name + "/" + kind.name;
      recorder.record(name, [&](const heed::Context& context) {
        const auto result = heed::multi_head_attend(in.q, in.k, values, heads, options, method, context);
        Rows<S> rows = Rows<S>::Zero(shape.n_k, w.cols());
        values.value_rows_into(rows, in.q, in.k, options, method, context, heads);
        const Index n_real = std::min(shape.n_k, options.mask.n_real_keys);  // rows of padding hold nothing of use
        const auto plan = values.plan(in.q, in.k, options, method, context, heads);
        return std::vector<std::uint64_t>{hash_of(result.out), hash_of(result.lse), hash_of(rows.topRows(n_real)),
                                          hash_of(plan.counts, plan.kept, plan.exact),
                                          hash_of(plan.importance, plan.x_norm)};
      });
    }
  }
}

}  // namespace fingerprints
