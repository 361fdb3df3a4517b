// Calls most of the library, each for the scalars it takes, so that a compiler reads the templates that calls make and
// not only the headers. The gate `strict` compiles it, and nobody runs it: with warnings that others switch on, with
// another index type of Eigen, and after macros that system headers are known for.
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Core>

#ifdef HEED_TEST_MACROS  // those of <windows.h>; Eigen itself is read before
#define min(a, b) (((a) < (b)) ? (a) : (b))
#define max(a, b) (((a) > (b)) ? (a) : (b))
#define small char
#define near
#define far
#define interface struct
#define ERROR 0
#define IN
#define OUT
#define CONST const
#define TRUE 1
#define FALSE 0
#define VOID void
#define DELETE (0x00010000L)
#define ABSOLUTE 1
#define OPAQUE 2
#define NO_ERROR 0L
#define STRICT 1
#endif

#include "heed/heed.hpp"
#include "heed/io/npy.hpp"
#include "heed/io/parameter_file.hpp"
#include "heed/io/safetensors.hpp"
#include "heed/io/tensor.hpp"
#include "heed/io/tree_file.hpp"
#include "heed/train/adamw.hpp"
#include "heed/train/balance_loss.hpp"
#include "heed/train/batch.hpp"
#include "heed/train/bootstrap.hpp"
#include "heed/train/choose_attention.hpp"
#include "heed/train/cross_entropy.hpp"
#include "heed/train/distillation.hpp"
#include "heed/train/grow_trees.hpp"
#include "heed/train/model_pass.hpp"
#include "heed/train/training_run.hpp"

#ifdef HEED_TEST_MACROS
static_assert(min(1, 2) + max(1, 2) + sizeof(small) == 4, "the headers leave macros as they found them");
#endif

namespace {

using heed::Index;
template <class S>
using Columns = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>;
template <class S>
using Rows = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class S>
Columns<S> operand(Index rows, Index cols) {
  return Columns<S>::Random(rows, cols);
}

/// Every option there is. The views are of matrices the caller keeps.
struct Options {
  Eigen::MatrixXf bias = Eigen::MatrixXf::Zero(8, 9);
  Columns<bool> allowed = Columns<bool>::Constant(8, 9, true);
  std::vector<float> slopes{0.5f};
  std::vector<Index> offsets{0, 8}, key_offsets{0, 9};

  heed::AttentionOptions masked() const {
    return {.scale = 0.25,
            .mask = {.causal = heed::Causal::bottom_right,
                     .window_left = 4,
                     .window_right = 0,
                     .n_real_keys = 9,
                     .allowed = allowed,
                     .bias = bias,
                     .alibi_slope = slopes},
            .softcap = 30.0,
            .sinks = slopes};
  }
  heed::AttentionOptions packed() const {
    return {.mask = {.sequence_offsets = offsets, .key_sequence_offsets = key_offsets}};
  }
};

/// Forward, one head and two, by value and into storage of others, over blocks and over rows.
template <class S, class Method>
void forward(const Method& method) {
  const Options options;
  const Columns<S> q = operand<S>(8, 4), k = operand<S>(9, 4), v = operand<S>(9, 3);
  const Rows<S> packed = Rows<S>::Zero(9, 8);
  heed::FlopCounter flops;
  heed::Workspace workspace;
  const heed::Context context{.flops = &flops, .workspace = &workspace, .threads = 2};
  heed::attend(q, k, v, {}, method, context);
  Rows<S> out(8, 3);
  heed::Vector<heed::Accumulator<S>> lse(8);
  heed::attend_into(out, lse, q, k.topRows(9), v.leftCols(3), {}, method, context);
  heed::multi_head_attend(packed, packed.leftCols(4), packed.leftCols(4), {.n_heads = 2, .n_kv_heads = 1}, {}, method,
                          context);
  heed::split_heads(packed, 2);
}

template <class S, class Method>
void backward(const Method& method, const heed::BackwardOptions& options = {}) {
  const Columns<S> q = operand<S>(8, 4), k = operand<S>(9, 4), v = operand<S>(9, 3), d_out = operand<S>(8, 3);
  const Rows<S> packed = Rows<S>::Zero(8, 8);
  const auto r = heed::attend(q, k, v, {}, method);
  heed::attend_backward(d_out, q, k, v, r, {}, method, {}, options);
  const heed::HeadOptions heads{.n_heads = 2};
  const auto rs = heed::multi_head_attend(packed, packed, packed, heads, {}, method);
  heed::multi_head_attend_backward(packed, packed, packed, packed, rs, heads, {}, method, {}, options);
}

/// Exact attention under every option, over patterns, with a functor, what keys weigh, and the oracle.
template <class S>
void exact() {
  using A = heed::Accumulator<S>;
  const Options options;
  const Columns<S> q = operand<S>(8, 4), k = operand<S>(9, 4), v = operand<S>(9, 3), d_out = operand<S>(8, 3);
  forward<S>(heed::ExactAttention<>{});
  backward<S>(heed::ExactAttention<>{}, {.bias = true});
  const auto functor = [](A s, Index i, Index j) { return s - static_cast<A>(0.125) * static_cast<A>(i - j); };
  forward<S>(heed::ExactAttention{functor});
  const auto r = heed::attend(q, k, v, options.masked());
  heed::attend(q, k, v, options.packed());
  heed::attend_backward(d_out, q, k, v, r, options.masked());
  heed::key_importance(q, k, options.masked());
  heed::reference_attention(q, k, v, options.masked());
  heed::reference_attention_backward(d_out, q, k, v, options.masked());
}

template <class S>
heed::DecisionTree<S> tree_of(Index height) {
  return heed::fit_tree(operand<S>(9, 4), operand<S>(8, 4), {.height = height, .inner_product_lift = height > 1});
}

/// Methods with a name, forward and backward.
template <class S>
void methods() {
  using A = heed::Accumulator<S>;
  const heed::DecisionTree<S> tree = tree_of<S>(1);
  const heed::Vector<A> levels = heed::Vector<A>::Zero(2);
  const heed::TfAttention<S> tf{tree};
  const heed::TcAttention<S> tc{tree, levels, {.by_query = true}};
  forward<S>(tf);
  forward<S>(heed::TfAttention<S>{std::vector{tree, tree_of<S>(2)}});
  forward<S>(tc);
  forward<S>(heed::WindowAttention(2, 1));
  forward<S>(heed::BigBirdAttention({.block = 2, .n_near = 1, .n_global = 1, .n_random = 1}));
  forward<S>(heed::LinearAttention{});
  forward<S>(heed::PerformerAttention<S>({.n_features = 8, .seed = 7}));
  backward<S>(tf, {.routing = heed::RoutingGradient::flip});
  backward<S>(tc, {.routing = heed::RoutingGradient::all_leaves});
  backward<S>(heed::WindowAttention(2, 1));
  backward<S>(heed::LinearAttention{});
  backward<S>(heed::PerformerAttention<S>({.n_features = 8, .seed = 7}));
  const Columns<S> q = operand<S>(8, 4), k = operand<S>(9, 4), v = operand<S>(9, 3);
  heed::attend_over(heed::LeafPattern(tree, q, k), q, k, v);
  heed::key_importance(q, k, {}, tf);
  heed::key_importance(q, k, {}, tc);
  heed::TcState<S> state(tc, 3, 4);
  state.append(k, v);
}

template <class S>
void linformer() {
  const Columns<S> projection = operand<S>(2, 9), q = operand<S>(8, 4), k = operand<S>(9, 4), v = operand<S>(9, 3);
  const heed::LinformerAttention<S> method(projection, projection);
  const auto r = heed::attend(q, k, v, {}, method);
  heed::attend_backward(operand<S>(8, 3), q, k, v, r, {}, method);
}

/// Values that are made during the call, exactly and by Monte Carlo, over pairs of every kind, and their gradients.
template <class S>
void values() {
  const Columns<S> q = operand<S>(8, 4), k = operand<S>(9, 4), x = operand<S>(9, 6), w_v = operand<S>(6, 3);
  const heed::ProjectedValues<S> projected(x, w_v);
  const heed::MonteCarloValues<S> sampled(x, w_v, {.alpha = 0.4, .seed = 7});
  const heed::TfAttention<S> tf{tree_of<S>(1)};
  const auto over = [&](const auto& source, const auto& method) {
    const auto r = heed::attend(q, k, source, {}, method);
    heed::attend_backward(operand<S>(8, 3), q, k, source, r, {}, method);
  };
  over(projected, heed::ExactAttention<>{});
  over(projected, tf);
  over(sampled, heed::ExactAttention<>{});
  over(sampled, tf);
}

template <class Q, class S>
void cache() {
  heed::KeyValueCache<S> cache(4, 3, 2);
  cache.append(operand<S>(9, 8), operand<S>(9, 6));
  heed::attend(operand<Q>(1, 16), cache, {.mask = {.causal = heed::Causal::bottom_right}}, heed::Context{.threads = 2});
}

/// A model trained a step, with each kind of attention it knows, its trees grown, its parameters written and read.
template <class T>
void training(const std::string& path) {
  heed::ParameterStore<T> store;
  heed::TransformerOptions options{
      .vocabularies = {7, 5}, .n_out = 6, .d_model = 8, .d_hidden = 12, .n_layers = 2, .length = 12};
  options.attention.n_heads = 2;
  heed::Transformer<T> model(store, options);
  const auto make_batch = [](heed::Batch& batch, std::uint64_t, Index) {
    batch.n = 12;
    batch.tokens.assign(2, std::vector<std::int32_t>(24, 1));
    batch.targets.assign(24, heed::no_target);
  };
  heed::Batch batch;
  make_batch(batch, 0, 0);
  heed::train(model, store, {.make_batch = make_batch}, {.n_steps = 1}, 0, {.threads = 1});
  heed::choose_attention(model, store, {{.kind = heed::AttentionKind::tf, .height = 1}, {}});
  heed::grow_trees(model, store, batch);
  heed::raise_levels(model, store);
  heed::save_parameters(path, store, {{"step", "1"}}, heed::ParameterParts::training);
  heed::load_parameters(path, store, heed::ParameterParts::training);
  for (const heed::BootstrapStage& stage : heed::bootstrap_stages(heed::attention_choices(model), {}))
    heed::enter_stage(model, store, stage, batch);
}

void files(const std::string& path) {
  const Eigen::MatrixXf matrix = operand<float>(3, 2);
  heed::write_npy(path, heed::Tensor::of(matrix), {.fortran_order = true});
  const heed::Tensor tensor = heed::read_npy(path);
  heed::write_safetensors(path, {{"a", tensor}, {"b", heed::Tensor::of<Eigen::half>({1}, {})}});
  const heed::SafetensorsFile file(path);
  const auto all = [](const heed::Tensor& of) {
    return of.as<float>().size() + of.as<double>().size() + of.as<Eigen::half>().size() +
           of.as<Eigen::bfloat16>().size() + of.integers().size();
  };
  if (all(file.load("a")) > 0) heed::save_tree(path, tree_of<float>(1));
  heed::load_tree<double>(path);
}

}  // namespace

int main(int, char** argv) {
  exact<float>();
  exact<double>();
  exact<Eigen::half>();
  exact<Eigen::bfloat16>();
  methods<float>();
  methods<double>();
  methods<Eigen::bfloat16>();
  linformer<float>();
  values<float>();
  values<double>();
  cache<float, float>();
  cache<double, double>();
  cache<float, Eigen::bfloat16>();
  cache<Eigen::half, Eigen::half>();
  training<float>(argv[1]);
  training<double>(argv[1]);
  files(argv[1]);
}
