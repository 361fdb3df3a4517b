#include "substitutes.hpp"

#include <charconv>
#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include <heed/approx/attend_within.hpp>
#include <heed/approx/monte_carlo_values.hpp>
#include <heed/exact/int8_cache.hpp>
#include <heed/exact/key_value_cache.hpp>
#include <heed/exact/multi_head.hpp>

#include "../common/printf_text.hpp"

namespace train_treeformer {
namespace {

using common::format;
using heed::ConstView;
using heed::Index;
using Rows = Eigen::Map<const heed::Matrix<float>, 0, Eigen::OuterStride<>>;

Rows rows_of(const ConstView<float>& view) {
  return Rows(view.data, view.rows, view.cols, Eigen::OuterStride<>(view.row_stride));
}

// The number in "kind:number"; nothing where there is none, or more than a number.
std::optional<double> number_of(const std::string& text, std::string_view kind) {
  if (text.size() <= kind.size() || text.compare(0, kind.size(), kind) != 0 || text[kind.size()] != ':') return {};
  const char* begin = text.data() + kind.size() + 1;
  const char* const end = text.data() + text.size();
  double number = 0;
  const auto [read_to, failure] = std::from_chars(begin, end, number);
  if (failure != std::errc() || read_to != end) return {};
  return number;
}

heed::MonteCarloOptions values_named(const std::string& text, std::uint64_t seed) {
  heed::MonteCarloOptions options{.seed = seed, .path = heed::ValuePath::sampled};
  const auto in_range = [&text](double number, double most) {
    if (number > 0 && number <= most) return;
    throw std::invalid_argument("--values has " + text + " but its number must be above 0 and at most " +
                                format("%.0f", most));
  };
  for (const std::string_view kind : {"mca", "published"}) {
    const std::optional<double> alpha = number_of(text, kind);
    if (!alpha) continue;
    in_range(*alpha, 1e6);
    if (kind == "published") options.rounding = heed::Rounding::published;
    options.alpha = *alpha;
    return options;
  }
  for (const std::string_view kind : {"largest", "draws"}) {
    const std::optional<double> share = number_of(text, kind);
    if (!share) continue;
    in_range(*share, 1);
    options.fraction = *share;
    options.budget = heed::Budget::constant;
    options.estimator = kind == "largest" ? heed::Estimator::largest : heed::Estimator::with_replacement;
    return options;
  }
  throw std::invalid_argument("--values has " + text +
                              " but must have mca:ALPHA, published:ALPHA, largest:SHARE or draws:SHARE");
}

// What decoding took, over all calls.
struct DecodingCost {
  double seconds = 0, tokens = 0;  // tokens: of all sequences and layers
  double visited = 0;              // sum over tokens of the share of keys read in full
};

// Answers the queries of one sequence, token after token: `answer(cache, query)` is the row of the newest token.
template <class Cache, class Answer>
void decode(Index n_heads, const ConstView<float>& q, const ConstView<float>& k, const ConstView<float>& x,
            const ConstView<float>& w_v, const heed::View<float>& out, DecodingCost& cost, const Answer& answer) {
  const Rows queries = rows_of(q), keys = rows_of(k);
  const heed::Matrix<float> values = rows_of(x) * rows_of(w_v);
  Cache cache(q.cols / n_heads, q.cols / n_heads, n_heads, q.rows);
  const auto before = std::chrono::steady_clock::now();
  for (Index i = 0; i < q.rows; ++i) {
    cache.append(keys.row(i), values.row(i));
    heed::detail::map_of(out).row(i) = answer(cache, queries.row(i));
  }
  cost.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
  cost.tokens += static_cast<double>(q.rows);
}

// The newest token sees the whole cache, so that no mask is left of those of a causal layer.
heed::AttentionOptions without_mask(heed::AttentionOptions options) {
  options.mask = {};
  return options;
}

template <class S>
heed::AttentionLayer<float>::Substitute over_cache(Index n_heads, const std::shared_ptr<DecodingCost>& cost) {
  return [n_heads, cost](const auto& q, const auto& k, const auto& x, const auto& w_v, const auto& options,
                         const auto& out, const heed::Context& context) {
    const heed::AttentionOptions own = without_mask(options);
    decode<heed::KeyValueCache<S>>(n_heads, q, k, x, w_v, out, *cost, [&](const auto& cache, const auto& query) {
      return heed::attend(query, cache, own, context).out;
    });
  };
}

heed::AttentionLayer<float>::Substitute within(double tolerance, Index n_heads,
                                               const std::shared_ptr<DecodingCost>& cost) {
  return [tolerance, n_heads, cost](const auto& q, const auto& k, const auto& x, const auto& w_v, const auto& options,
                                    const auto& out, const heed::Context& context) {
    const heed::AttentionOptions own = without_mask(options);
    decode<heed::KeyValueCache<heed::Int8>>(n_heads, q, k, x, w_v, out, *cost, [&](auto& cache, const auto& query) {
      auto found = heed::attend_within(tolerance, query, cache, own, context);
      cost->visited += found.visited;
      return std::move(found.out);
    });
  };
}

}  // namespace

Substitute sampled_values(const std::string& text, std::uint64_t seed, const heed::TransformerOptions& model) {
  struct Counted {
    heed::FlopCounter flops;
    double dense = 0;  // products of x W_v of all tokens
  };
  const heed::MonteCarloOptions values = values_named(text, seed);
  const Index n_heads = model.attention.n_heads;
  const auto counted = std::make_shared<Counted>();
  Substitute made;
  made.run = [values, n_heads, counted](const auto& q, const auto& k, const auto& x, const auto& w_v,
                                        const auto& options, const auto& out, const heed::Context& context) {
    const Rows inputs = rows_of(x), weights = rows_of(w_v);
    heed::Matrix<float> lse(q.rows, n_heads);
    heed::multi_head_attend_into(
        heed::detail::map_of(out), lse, rows_of(q), rows_of(k), heed::MonteCarloValues<float>(inputs, weights, values),
        {.n_heads = n_heads}, options, heed::ExactAttention{},
        {.flops = &counted->flops, .workspace = context.workspace, .threads = context.threads});
    counted->dense += 2.0 * static_cast<double>(x.rows) * static_cast<double>(w_v.rows) * static_cast<double>(w_v.cols);
  };
  made.cost = [counted] {
    const heed::FlopCounter& flops = counted->flops;
    const double products = flops.products(heed::Phase::sample) + flops.products(heed::Phase::project);
    return format("value products %.2fx fewer, %.2fx with choosing them", counted->dense / products,
                  counted->dense / (products + flops.products(heed::Phase::route)));
  };
  return made;
}

Substitute decoding(const std::string& text, const heed::TransformerOptions& model) {
  if (!model.attention.causal) throw std::invalid_argument("--decode needs a model that is causal: --task text-lm");
  const Index n_heads = model.attention.n_heads;
  const auto cost = std::make_shared<DecodingCost>();
  Substitute made;
  const std::optional<double> tolerance = number_of(text, "within");
  if (tolerance && *tolerance >= 0 && *tolerance <= 1) made.run = within(*tolerance, n_heads, cost);
  if (text == "float") made.run = over_cache<float>(n_heads, cost);
  if (text == "bfloat16") made.run = over_cache<Eigen::bfloat16>(n_heads, cost);
  if (text == "int8") made.run = over_cache<heed::Int8>(n_heads, cost);
  if (!made.run) {
    throw std::invalid_argument("--decode has " + text +
                                " but must have float, bfloat16, int8 or within:TOLERANCE, a number from 0 to 1");
  }
  made.cost = [cost, tolerance] {
    const std::string time = format("%.1f us a token and layer", 1e6 * cost->seconds / cost->tokens);
    return tolerance ? time + format(", %.3f of keys in full", cost->visited / cost->tokens) : time;
  };
  return made;
}

}  // namespace train_treeformer
