#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include <heed/core/flops.hpp>
#include <heed/core/workspace.hpp>
#include <heed/exact/multi_head.hpp>
#include <heed/io/detail/replace_file.hpp>
#include <heed/io/parameter_file.hpp>
#include <heed/io/safetensors.hpp>
#include <heed/io/tensor.hpp>
#include <heed/train/choose_attention.hpp>
#include <heed/train/masked_tokens.hpp>
#include <heed/train/model_pass.hpp>
#include <heed/trees/tree_balance.hpp>

namespace train_treeformer {
namespace {

using heed::detail::read_only;
using Transformer = heed::Transformer<float>;

// Products of scores and values that exact attention makes for these sequences.
double exact_products(const heed::TransformerOptions& options, const Batch& batch) {
  const double n = static_cast<double>(batch.n), n_sequences = static_cast<double>(batch.tokens.front().size()) / n;
  const double pairs = options.attention.causal ? n * (n + 1) / 2 : n * n;
  return 4 * pairs * static_cast<double>(options.d_model * options.n_layers) * n_sequences;
}

}  // namespace

struct Model::Parts {
  explicit Parts(const heed::TransformerOptions& options) : transformer(store, options) {}
  Parts(const Parts& other) : store(other.store), transformer(other.transformer) {}

  // Trees of layer l, in the sequence whose first row is `first`: calls visit(tree, queries, keys).
  template <class Visit>
  void visit_trees(const Transformer::Kept& kept, Index l, Index first, const Visit& visit) const {
    const auto& attention = transformer.attention(l);
    const heed::AttentionChoice& choice = attention.method().choice();
    if (!attention.method().has_trees()) return;
    const Index n_trees = choice.kind == heed::AttentionKind::tf ? choice.n_trees : 1;
    const Index d = transformer.options().d_model / attention.options().n_heads;
    const auto& rows = kept.blocks[static_cast<std::size_t>(l)].attention;
    for (Index h = 0; h < attention.options().n_heads; ++h) {
      const auto own = [&](const heed::View<float>& all) {
        return heed::detail::map_of(all.rows_from(first, kept.n).columns(h * d, d));
      };
      for (Index t = 0; t < n_trees; ++t)
        visit(attention.method().tree(store, h * n_trees + t), own(rows.q), own(rows.k));
    }
  }

  [[nodiscard]] double fullest_leaf(const Transformer::Kept& kept) const {
    double worst = 0;
    for (Index l = 0; l < transformer.n_layers(); ++l) {
      for (Index s = 0; s < kept.n_sequences; ++s) {
        visit_trees(kept, l, s * kept.n, [&](const auto& tree, const auto& q, const auto& k) {
          const double mean = static_cast<double>(kept.n) / static_cast<double>(tree.n_leaves());
          worst = std::max(worst, static_cast<double>(heed::tree_balance(tree, q, k).largest_leaf) / mean);
        });
      }
    }
    return worst;
  }

  heed::ParameterStore<float> store;
  Transformer transformer;
  heed::ModelPass<float> pass;
};

Model::Model(const heed::TransformerOptions& options) : parts_(std::make_unique<Parts>(options)) {}
Model::Model(const Model& other) : parts_(std::make_unique<Parts>(*other.parts_)) {}
Model::~Model() = default;

const heed::TransformerOptions& Model::options() const { return parts_->transformer.options(); }
Index Model::n_parameters() const { return parts_->store.size(); }

heed::TrainingResult Model::learn(const heed::TrainingHooks& hooks, const heed::TrainingOptions& options,
                                  Index steps_done, int threads) {
  return heed::train(parts_->transformer, parts_->store, hooks, options, steps_done, {.threads = threads});
}

Evaluation Model::evaluate(const std::vector<Batch>& batches, heed::TreeBiases biases, int threads) {
  Parts& p = *parts_;
  const heed::TreeBiases before = p.transformer.attention(0).method().choice().biases;
  heed::use_biases(p.transformer, biases);
  Evaluation all;
  heed::FlopCounter flops;
  double exact = 0, n_tokens = 0, n_right = 0;
  for (const Batch& batch : batches) {
    const auto look = [&](const Transformer::Kept& kept, const heed::LossReport&, const heed::View<float>&) {
      all.fullest_leaf = std::max(all.fullest_leaf, p.fullest_leaf(kept));
    };
    const heed::Context context{.flops = &flops, .threads = threads};
    const heed::LossReport report = p.pass.run(p.transformer, p.store, batch, context, false, look);
    all.loss += report.loss * static_cast<double>(report.n_answers);
    all.n_answers += report.n_answers;
    n_right += static_cast<double>(report.n_right);
    n_tokens += static_cast<double>(batch.tokens.front().size());
    exact += exact_products(options(), batch);
  }
  heed::use_biases(p.transformer, before);
  const double n_answers = static_cast<double>(std::max<Index>(1, all.n_answers));
  all.loss /= n_answers;
  all.accuracy = n_right / n_answers;
  all.flops_per_token = flops.products() / std::max(1.0, n_tokens);
  all.fewer = flops.products() > 0 ? exact / flops.products() : 0;
  return all;
}

Evaluation Model::evaluate_with(const heed::AttentionLayer<float>::Substitute& substitute,
                                const std::vector<Batch>& batches, int threads) {
  Transformer& transformer = parts_->transformer;
  for (Index l = 0; l < transformer.n_layers(); ++l) transformer.attention(l).set_substitute(substitute);
  const Evaluation result = evaluate(batches, heed::TreeBiases::stored, threads);
  for (Index l = 0; l < transformer.n_layers(); ++l) transformer.attention(l).set_substitute({});
  return result;
}

void Model::save(const std::string& path, const heed::TextMap& description) const {
  heed::save_parameters(path, parts_->store, description, heed::ParameterParts::training);
}
void Model::save_values(const std::string& path, const heed::TextMap& description) const {
  heed::save_parameters(path, parts_->store, description, heed::ParameterParts::values);
}
void Model::load_values(const std::string& path) {
  heed::load_parameters(path, parts_->store, heed::ParameterParts::values);
}
void Model::load(const std::string& path) {
  heed::load_parameters(path, parts_->store, heed::ParameterParts::training);
}

void Model::save_activations(const std::string& path, const Batch& batch, heed::TreeBiases biases, int threads) {
  Parts& p = *parts_;
  const heed::TransformerOptions& o = options();
  const Index n_layers = o.n_layers, n_heads = o.attention.n_heads, d = o.d_model / n_heads, n = batch.n;
  std::vector<Eigen::half> values;
  const auto add = [&](const auto& rows) {
    for (Index i = 0; i < rows.rows(); ++i) {
      for (Index c = 0; c < rows.cols(); ++c) values.push_back(static_cast<Eigen::half>(rows(i, c)));
    }
  };
  heed::TensorMap tensors;
  const auto finish = [&](const char* name, std::vector<Index> shape) {
    tensors[name] = heed::Tensor::of<Eigen::half>(std::move(shape), values);
    values.clear();
  };
  const auto look = [&](const Transformer::Kept& kept, const heed::LossReport&, const heed::View<float>&) {
    using Attention = heed::AttentionLayer<float>::Kept;
    for (const auto& [name, rows] : {std::pair("q", &Attention::q), std::pair("k", &Attention::k)}) {
      for (const auto& block : kept.blocks) {
        for (Index h = 0; h < n_heads; ++h)
          add(heed::detail::map_of((block.attention.*rows).rows_from(0, n).columns(h * d, d)));
      }
      finish(name, {n_layers, n_heads, n, d});
    }
    for (const auto& block : kept.blocks) add(heed::detail::map_of(block.normed.rows_from(0, n)));
    finish("x", {n_layers, n, o.d_model});
    for (Index l = 0; l < n_layers; ++l) {
      const auto slice = p.store.find(Transformer::attention_name(l) + ".v.w");
      add(heed::detail::map_of(p.store.values(slice)));
    }
    finish("w_v", {n_layers, o.d_model, o.d_model});
    const auto& method = p.transformer.attention(0).method();
    if (!method.has_trees() || method.choice().n_trees > 1 || method.choice().tree_window) return;
    heed::Matrix<float> all_biases(n_layers * n_heads, (Index(1) << method.choice().height) - 1);
    Index head = 0;
    for (Index l = 0; l < n_layers; ++l) {
      p.visit_trees(kept, l, 0, [&](const auto& tree, const auto&, const auto& k) {
        add(tree.planes());
        if (tree.bias_rule() != heed::TreeBiases::key_medians) {
          all_biases.row(head++) = tree.biases().transpose();
          return;
        }
        const auto rounded = [](const auto& m) { return m.template cast<Eigen::half>().template cast<float>().eval(); };
        const heed::DecisionTree<float> stored(rounded(tree.planes()), tree.biases(), {.biases = tree.bias_rule()});
        all_biases.row(head++) = stored.with_biases_of(rounded(k)).biases().transpose();
      });
    }
    finish("tree_planes", {n_layers, n_heads, all_biases.cols(), d});
    // In float, medians of what is written: a key on the other side of a rounded median would change its leaf.
    tensors["tree_biases"] = heed::Tensor::of<float>({n_layers, n_heads, 1, all_biases.cols()},
                                                     {all_biases.data(), static_cast<std::size_t>(all_biases.size())});
    if (method.choice().kind != heed::AttentionKind::tc) return;
    for (Index l = 0; l < n_layers; ++l)
      add(heed::detail::map_of(p.store.values(p.store.find(Transformer::attention_name(l) + ".levels"))));
    finish("level_logits", {n_layers, n_heads, 1, method.choice().height + 1});
  };
  const heed::TreeBiases before = p.transformer.attention(0).method().choice().biases;
  heed::use_biases(p.transformer, biases);
  p.pass.run(p.transformer, p.store, batch, {.threads = threads}, false, look);
  heed::use_biases(p.transformer, before);
  const double scale = o.attention.cosine ? 1.0 : 1.0 / std::sqrt(static_cast<double>(d));
  const heed::TextMap said{{"causal", o.attention.causal ? "true" : "false"}, {"scale", std::to_string(scale)}};
  heed::detail::replace_file(path, [&](const std::string& fresh) { heed::write_safetensors(fresh, tensors, said); });
}

void Model::settle_medians(const Batch& batch, int threads) {
  Parts& p = *parts_;
  heed::Workspace workspace;
  for (Index l = 0; l < p.transformer.n_layers(); ++l) {  // what layer l sees depends on the trees before it
    const auto follow = [&](const Transformer::Kept& kept, const heed::LossReport&, const heed::View<float>&) {
      const heed::View<float> keys = kept.blocks[static_cast<std::size_t>(l)].attention.k;
      p.transformer.attention(l).method().follow_medians(p.store, read_only(keys), 1.0, workspace);
    };
    p.pass.run(p.transformer, p.store, batch, {.threads = threads}, false, follow);
  }
}

void Model::take_encoder(const Model& pretrained) { heed::take_encoder(pretrained.parts_->store, parts_->store); }

void Model::convert(const heed::AttentionChoice& choice, std::uint64_t seed) {
  Parts& p = *parts_;
  const std::vector<heed::AttentionChoice> choices(static_cast<std::size_t>(p.transformer.n_layers()), choice);
  heed::choose_attention(p.transformer, p.store, choices, {.seed = seed});
}

}  // namespace train_treeformer
