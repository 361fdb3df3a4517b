#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "heed/core/check_option.hpp"
#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/layers/attention_layer.hpp"
#include "heed/layers/embedding.hpp"
#include "heed/layers/feed_forward.hpp"
#include "heed/layers/linear.hpp"
#include "heed/layers/norms.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/rows.hpp"

namespace heed {

/// How tokens learn where they stand. Rotary positions belong to the attention (AttentionLayerOptions::rotary).
enum class Positions { none, learned, sinusoidal };
/// What answers are made of: every token, the mean of a sequence, or its first token.
enum class Pooling { none, mean, first };

/// A pre-norm transformer, encoder or, with causal attention, decoder.
struct TransformerOptions {
  std::vector<Index> vocabularies{256};  ///< tokens of each embedding table, >= 1; rows of the tables are summed
  Index n_out = 256;                     ///< classes, or tokens that are told; >= 1
  Index d_model = 128;                   ///< >= 1, a multiple of AttentionLayerOptions::n_heads
  Index d_hidden = 256;                  ///< of feed-forward layers; >= 0; 0: none
  Index n_layers = 2;                    ///< >= 1
  Index length = 256;                    ///< >= 1; of learned positions and linformer, no sequence may be longer
  Activation activation = Activation::gelu;
  Positions positions = Positions::none;
  Pooling pooling = Pooling::none;
  std::vector<double> deviations{};   ///< of the entries of each table at the start, >= 0; none given: 0.3
  AttentionLayerOptions attention{};  ///< of every layer
  std::uint64_t seed = 1;
};

namespace detail {

/// Throws where no model of these options can be made. T: the scalar that sums are kept in.
template <class T>
void check_transformer(const TransformerOptions& options) {
  check_size(options.n_out, 1, "TransformerOptions::n_out");
  check_size(options.d_model, 1, "TransformerOptions::d_model");
  check_size(options.d_hidden, 0, "TransformerOptions::d_hidden");
  check_size(options.n_layers, 1, "TransformerOptions::n_layers");
  check_size(options.length, 1, "TransformerOptions::length");
  check_enumerator(options.activation, Activation::squared_relu, "TransformerOptions::activation");
  check_enumerator(options.positions, Positions::sinusoidal, "TransformerOptions::positions");
  check_enumerator(options.pooling, Pooling::first, "TransformerOptions::pooling");
  const auto n_tables = static_cast<Index>(options.vocabularies.size());
  if (n_tables == 0)
    throw OptionError("heed: TransformerOptions::vocabularies has no entries but must have one or more");
  for (Index t = 0; t < n_tables; ++t)
    check_size(options.vocabularies[static_cast<std::size_t>(t)], 1, "TransformerOptions::vocabularies[", t, "]");
  const auto n_deviations = static_cast<Index>(options.deviations.size());
  if (n_deviations != 0 && n_deviations != n_tables) {
    throw ShapeError(message("TransformerOptions::deviations has ", n_deviations,
                             " entries but must have none, or one per table: ", n_tables));
  }
  for (Index t = 0; t < n_deviations; ++t)
    check_deviation<T>(options.deviations[static_cast<std::size_t>(t)], "TransformerOptions::deviations[", t, "]");
  check_attention_layer<T>(options.d_model, options.attention);
}

}  // namespace detail

/// h_0 = sum_t E_t[tokens_t] + positions; h <- h + attention(norm(h)), h <- h + feed_forward(norm(h)), layer by layer;
/// logits = pooled(norm(h)) W + b.
///
/// Shapes  tokens: for each table n_sequences n numbers; logits: n_sequences n x n_out, or n_sequences x n_out where
///         pooled.
/// Memory  what backward needs is kept in a Workspace: about n (12 d_model + 2 d_hidden) numbers a layer.
/// Threads the same bits for any context.threads.
template <class T>
class Transformer {
 public:
  /// Adds its parameters to the store: all of them, or where it throws none.
  /// Errors  OptionError for options out of range.
  Transformer(ParameterStore<T>& store, const TransformerOptions& options) : options_(options) {
    detail::check_transformer<T>(options);
    store.add_all_or_none([&] { add_parameters(store); });
  }

  const TransformerOptions& options() const { return options_; }
  Index n_layers() const { return options_.n_layers; }
  /// What the parameters of the head begin with, and the first table's name.
  static constexpr const char *head_name = "head", *first_table_name = "embedding.0";
  /// What the parameters of a layer's attention begin with.
  static std::string attention_name(Index layer) { return "layer." + std::to_string(layer) + ".attention"; }
  AttentionLayer<T>& attention(Index layer) { return blocks_[static_cast<std::size_t>(layer)].attention; }
  const AttentionLayer<T>& attention(Index layer) const { return blocks_[static_cast<std::size_t>(layer)].attention; }

  /// What forward leaves for backward, in a frame that the caller keeps open.
  struct Kept {
    /// Of one block.
    struct OfBlock {
      View<T> x, normed, middle, normed_middle;  // n x d_model
      T *inverse, *inverse_middle;               // n
      typename AttentionLayer<T>::Kept attention;
      typename FeedForward<T>::Kept hidden;
    };
    std::vector<OfBlock> blocks;
    View<T> x, normed, pooled;
    T* inverse = nullptr;
    Index n = 0, n_sequences = 0;
  };

  /// Logits of n_sequences sequences of n tokens.
  /// Errors  ShapeError for lists of tokens that do not fit the model or each other, n < 1 and none at all among them;
  ///         OptionError for a token outside its table.
  View<T> forward(const ParameterStore<T>& store, const std::vector<std::span<const std::int32_t>>& tokens, Index n,
                  Kept& kept, Workspace::Frame& frame, const Context& context) const {
    check_tokens(tokens, n);
    const Index d = options_.d_model, rows = static_cast<Index>(tokens.front().size());
    kept.n = n;
    kept.n_sequences = rows / n;
    View<T> x = detail::take_rows<T>(frame, rows, d);
    detail::fill(x, T(0));
    for (std::size_t t = 0; t < tables_.size(); ++t) tables_[t].forward(store, tokens[t], x);
    for (Index s = 0; s < kept.n_sequences; ++s) {
      const View<T> own = x.rows_from(s * n, n);
      if (options_.positions == Positions::sinusoidal) add_sinusoidal_positions(own);
      for (Index i = 0; positions_.given() && i < n; ++i)
        detail::row_of(own, i) += detail::row_of(store.values(positions_), i);
    }
    kept.blocks.resize(blocks_.size());
    for (std::size_t l = 0; l < blocks_.size(); ++l)
      x = forward_block(blocks_[l], store, x, kept.blocks[l], n, frame, context);
    kept.x = x;
    kept.normed = detail::take_rows<T>(frame, rows, d);
    kept.inverse = frame.template take<T>(rows);
    norm_.forward(store, detail::read_only(x), kept.normed, kept.inverse);
    kept.pooled = kept.normed;
    if (options_.pooling != Pooling::none) {
      kept.pooled = detail::take_rows<T>(frame, kept.n_sequences, d);
      for (Index s = 0; s < kept.n_sequences; ++s)
        pool(detail::read_only(kept.normed.rows_from(s * n, n)), detail::row_of(kept.pooled, s));
    }
    const View<T> logits = detail::take_rows<T>(frame, kept.pooled.rows, options_.n_out);
    head_.forward(store, detail::read_only(kept.pooled), logits, context);
    return logits;
  }

  /// Adds to the gradients of all parameters.
  void backward(ParameterStore<T>& store, const std::vector<std::span<const std::int32_t>>& tokens,
                const ConstView<T>& d_logits, const Kept& kept, const Context& context) const {
    Workspace::Frame frame(*context.workspace);
    const Index d = options_.d_model, rows = kept.x.rows, n = kept.n;
    const View<T> d_pooled = detail::take_rows<T>(frame, kept.pooled.rows, d),
                  d_x = detail::take_rows<T>(frame, rows, d);
    View<T> d_normed = d_pooled;
    head_.backward(store, detail::read_only(kept.pooled), d_logits, d_pooled, context);
    if (options_.pooling != Pooling::none) {
      d_normed = detail::take_rows<T>(frame, rows, d);
      detail::fill(d_normed, T(0));
      for (Index s = 0; s < kept.n_sequences; ++s) {
        const Index n_read = options_.pooling == Pooling::mean ? n : 1;
        for (Index i = 0; i < n_read; ++i)
          detail::row_of(d_normed, s * n + i) = detail::row_of(d_pooled, s) / static_cast<T>(n_read);
      }
    }
    detail::fill(d_x, T(0));
    norm_.backward(store, detail::read_only(kept.x), kept.inverse, detail::read_only(d_normed), d_x);
    for (std::size_t l = blocks_.size(); l-- > 0;) backward_block(blocks_[l], store, kept.blocks[l], n, d_x, context);
    for (std::size_t t = 0; t < tables_.size(); ++t) tables_[t].backward(store, tokens[t], detail::read_only(d_x));
    for (Index i = 0; positions_.given() && i < rows; ++i)
      detail::row_of(store.gradients(positions_), i % n) += detail::row_of(d_x, i);
  }

 private:
  struct Block {
    RmsNorm<T> norm_of_attention, norm_of_hidden;
    AttentionLayer<T> attention;
    FeedForward<T> hidden;
  };

  void add_parameters(ParameterStore<T>& store) {
    std::uint64_t seed = options_.seed;
    const Index d = options_.d_model;
    for (std::size_t t = 0; t < options_.vocabularies.size(); ++t) {
      tables_.emplace_back(store, "embedding." + std::to_string(t), options_.vocabularies[t], d,
                           options_.deviations.empty() ? 0.3 : options_.deviations[t], ++seed);
    }
    if (options_.positions == Positions::learned) {
      positions_ = store.add("positions", options_.length, d);
      store.fill_normal(positions_, 0.3, ++seed);
    }
    for (Index l = 0; l < options_.n_layers; ++l) {
      const std::string name = "layer." + std::to_string(l);
      Block block;
      block.norm_of_attention = RmsNorm<T>(store, name + ".norm_1", d);
      block.attention = AttentionLayer<T>(store, attention_name(l), d, options_.length, options_.attention, ++seed);
      if (options_.d_hidden > 0) {
        block.norm_of_hidden = RmsNorm<T>(store, name + ".norm_2", d);
        block.hidden = FeedForward<T>(store, name + ".hidden", d, options_.d_hidden, options_.activation, ++seed);
      }
      blocks_.push_back(block);
    }
    norm_ = RmsNorm<T>(store, "norm", d);
    head_ = Linear<T>(store, head_name, d, options_.n_out, true, ++seed);
  }

  void check_tokens(const std::vector<std::span<const std::int32_t>>& tokens, Index n) const {
    if (n < 1) throw ShapeError(detail::message("n = ", n, " tokens of a sequence must be >= 1"));
    if (tokens.size() != tables_.size())
      throw ShapeError(detail::message("tokens has ", static_cast<Index>(tokens.size()),
                                       " lists but must have one per table: ", static_cast<Index>(tables_.size())));
    const auto rows = static_cast<Index>(tokens.front().size());
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      const auto size = static_cast<Index>(tokens[t].size());
      if (size != rows || rows % n != 0 || rows == 0)
        throw ShapeError(detail::message("tokens[", t, "] has ", size, " entries but must have a multiple of n = ", n,
                                         " above 0, as many as tokens[0], which has ", rows));
    }
    if (positions_.given() && n > options_.length)
      throw ShapeError(detail::message("n = ", n, " must be at most TransformerOptions::length = ", options_.length));
  }

  View<T> forward_block(const Block& block, const ParameterStore<T>& store, const View<T>& x,
                        typename Kept::OfBlock& kept, Index n, Workspace::Frame& frame, const Context& context) const {
    const Index d = x.cols;
    kept.x = x;
    kept.normed = detail::take_rows<T>(frame, x.rows, d);
    kept.inverse = frame.template take<T>(x.rows);
    block.attention.take(frame, x.rows, kept.attention);
    const View<T> middle = detail::take_rows<T>(frame, x.rows, d);
    block.norm_of_attention.forward(store, detail::read_only(x), kept.normed, kept.inverse);
    block.attention.forward(store, detail::read_only(kept.normed), n, kept.attention, middle, context);
    add(x, middle);
    kept.middle = middle;
    if (options_.d_hidden == 0) return middle;
    kept.normed_middle = detail::take_rows<T>(frame, x.rows, d);
    kept.inverse_middle = frame.template take<T>(x.rows);
    kept.hidden = block.hidden.take(frame, x.rows);
    const View<T> out = detail::take_rows<T>(frame, x.rows, d);
    block.norm_of_hidden.forward(store, detail::read_only(middle), kept.normed_middle, kept.inverse_middle);
    block.hidden.forward(store, detail::read_only(kept.normed_middle), kept.hidden, out, context);
    add(middle, out);
    return out;
  }

  // d_x: the gradient of what the block returned becomes that of what it was given.
  void backward_block(const Block& block, ParameterStore<T>& store, const typename Kept::OfBlock& kept, Index n,
                      const View<T>& d_x, const Context& context) const {
    Workspace::Frame frame(*context.workspace);
    const View<T> d_normed = detail::take_rows<T>(frame, d_x.rows, d_x.cols);
    if (options_.d_hidden > 0) {
      block.hidden.backward(store, detail::read_only(kept.normed_middle), kept.hidden, detail::read_only(d_x), d_normed,
                            context);
      block.norm_of_hidden.backward(store, detail::read_only(kept.middle), kept.inverse_middle,
                                    detail::read_only(d_normed), d_x);
    }
    block.attention.backward(store, detail::read_only(kept.normed), n, kept.attention, detail::read_only(d_x), d_normed,
                             context);
    block.norm_of_attention.backward(store, detail::read_only(kept.x), kept.inverse, detail::read_only(d_normed), d_x);
  }

  static void add(const View<T>& x, const View<T>& to) {
    for (Index i = 0; i < x.rows; ++i) detail::row_of(to, i) += detail::row_of(x, i);
  }

  void pool(const ConstView<T>& rows, Eigen::Map<detail::RowArray<T>> to) const {
    if (options_.pooling == Pooling::first) {
      to = detail::row_of(rows, 0);
      return;
    }
    to.setZero();
    for (Index i = 0; i < rows.rows; ++i) to += detail::row_of(rows, i);
    to /= static_cast<T>(rows.rows);
  }

  TransformerOptions options_;
  std::vector<Embedding<T>> tables_;
  Slice positions_;
  std::vector<Block> blocks_;
  RmsNorm<T> norm_;
  Linear<T> head_;
};

}  // namespace heed
