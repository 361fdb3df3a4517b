#pragma once
#include "heed/core/macros_away.inl"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include "heed/core/check_option.hpp"
#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/number_range.hpp"
#include "heed/core/random.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/layers/attention_choice.hpp"
#include "heed/layers/layer_method.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/transformer.hpp"
#include "heed/train/batch.hpp"
#include "heed/train/choose_attention.hpp"
#include "heed/train/cross_entropy.hpp"
#include "heed/train/model_pass.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/fit_tree.hpp"

namespace heed {

/// Where the planes of new nodes come from.
enum class NewPlanes {
  principal_direction,  ///< along which the keys of the leaf that is split vary most, of length 1
  random,               ///< N(0, 1 / d), as planes of a fresh tree
};

/// How trees grow.
struct GrowthOptions {
  NewPlanes planes = NewPlanes::principal_direction;  ///< random was as good where it was measured, and needs no keys
  ConversionOptions conversion{};
};

namespace detail {

/// What each leaf of some trees becomes: the nodes of one more level, a plane and a bias each.
template <class T>
struct NewLevel {
  Matrix<T> planes;  // trees * leaves x d
  Vector<T> biases;  // trees * leaves
};

template <class T>
void random_plane(Matrix<T>& planes, Index row, CounterRng& numbers) {
  const double deviation = 1.0 / std::sqrt(static_cast<double>(planes.cols()));
  for (Index c = 0; c < planes.cols(); ++c) {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - numbers.uniform()));
    planes(row, c) = static_cast<T>(deviation * radius * std::cos(2.0 * std::numbers::pi * numbers.uniform()));
  }
}

/// Sets node `at` of `level` to halve `points`, rows of keys. Less than two, or all equal ones: a random plane through
/// the first of them.
template <class T>
void split_leaf(const Matrix<T>& points, NewPlanes rule, std::uint64_t seed, NewLevel<T>& level, Index at) {
  CounterRng numbers(seed, static_cast<std::uint64_t>(at));
  if (rule == NewPlanes::principal_direction && points.rows() > 1) {
    const auto fitted = fit_tree(points, points, {.height = 1, .seed = numbers.next_u32()});
    level.planes.row(at) = fitted.planes().row(0);
    level.biases(at) = fitted.biases()(0);
    if (level.planes.row(at).squaredNorm() > 0) return;
  }
  random_plane(level.planes, at, numbers);
  level.biases(at) = 0;
  if (points.rows() == 0) return;
  const DecisionTree<T> node(level.planes.row(at), level.biases.segment(at, 1), {.biases = TreeBiases::key_medians});
  level.biases(at) = node.with_biases_of(points).biases()(0);
}

/// New nodes for the trees of one layer, whose keys are rows of `k`, n a sequence.
template <class T>
NewLevel<T> new_level(const LayerMethod<T>& method, const ParameterStore<T>& store, const ConstView<T>& k, Index n,
                      Index d, Index n_trees, NewPlanes rule, std::uint64_t seed, const Context& context) {
  using Keys = Eigen::Map<const Matrix<T>, 0, Eigen::OuterStride<>>;
  const Index heads = k.cols / d, n_leaves = Index(1) << method.choice().height;
  NewLevel<T> level{Matrix<T>::Zero(n_trees * n_leaves, d), Vector<T>::Zero(n_trees * n_leaves)};
  for (Index number = 0; number < n_trees; ++number) {
    const DecisionTree<T> tree = method.tree(store, number);
    const T* first = k.data + number / (n_trees / heads) * d;
    std::vector<std::vector<Index>> rows(static_cast<std::size_t>(n_leaves));  // of each leaf, over all sequences
    for (Index start = 0; start < k.rows; start += n) {
      const Keys own(first + start * k.row_stride, n, d, Eigen::OuterStride<>(k.row_stride));
      const Vector<Index> leaf = tree.leaf_of_keys(own, context);  // medians are those of the sequence
      for (Index j = 0; j < n; ++j) rows[static_cast<std::size_t>(leaf(j))].push_back(start + j);
    }
    for (Index l = 0; l < n_leaves; ++l) {
      const std::vector<Index>& list = rows[static_cast<std::size_t>(l)];
      Matrix<T> points(static_cast<Index>(list.size()), d);
      for (std::size_t i = 0; i < list.size(); ++i)
        points.row(static_cast<Index>(i)) = Eigen::Map<const Vector<T>>(first + list[i] * k.row_stride, d).transpose();
      split_leaf(points, rule, seed, level, number * n_leaves + l);
    }
  }
  return level;
}

/// Copies the parameters of a layer's trees to their places in trees of one level more. Each array alike: values, or a
/// moment.
template <class T>
class GrownPlaces {
 public:
  GrownPlaces(const ParameterStore<T>& from, const ParameterStore<T>& to, const std::string& name) {
    for (const char* part : {".planes", ".biases", ".levels"})
      places_.push_back({from.find(name + part), to.find(name + part)});
    n_trees_ = places_[1].first.rows;
    n_nodes_ = places_[1].first.cols;
  }

  void copy(std::span<const T> from, std::span<T> to) const {
    const Index d = places_[0].first.cols, n_new = n_nodes_ + 1;  // nodes in level order keep their numbers
    copy_rows(0, from, to, n_nodes_ * d, (n_nodes_ + n_new) * d);
    copy_rows(1, from, to, n_nodes_, n_nodes_ + n_new);
    const auto& [old_levels, new_levels] = places_[2];
    if (old_levels.given()) copy_rows(2, from, to, old_levels.cols, new_levels.cols);
  }

  /// The new nodes, and levels that are off.
  void fill(const NewLevel<T>& level, ParameterStore<T>& store) const {
    const View<T> planes = store.values(places_[0].second), biases = store.values(places_[1].second);
    const Index n_new = n_nodes_ + 1, n_all = n_nodes_ + n_new;
    for (Index t = 0; t < n_trees_; ++t) {
      for (Index v = 0; v < n_new; ++v) {
        row_of(planes, t * n_all + n_nodes_ + v) = level.planes.row(t * n_new + v).array();
        biases(t, n_nodes_ + v) = level.biases(t * n_new + v);
      }
    }
    if (!places_[2].second.given()) return;
    const View<T> levels = store.values(places_[2].second);
    for (Index h = 0; h < levels.rows; ++h) levels(h, levels.cols - 1) = minus_infinity<T>;
  }

 private:
  void copy_rows(std::size_t part, std::span<const T> from, std::span<T> to, Index width, Index new_width) const {
    const auto& [source, target] = places_[part];
    const Index n_rows = width == 0 ? 0 : source.size() / width;
    for (Index r = 0; r < n_rows; ++r)
      std::copy_n(from.begin() + source.first + r * width, width, to.begin() + target.first + r * new_width);
  }

  std::vector<std::pair<Slice, Slice>> places_;
  Index n_trees_ = 0, n_nodes_ = 0;
};

}  // namespace detail

/// Makes the trees of some layers higher by one: a node v keeps its number and its plane, and each leaf becomes a node
/// that halves the keys of `batch` which reach it: w by options.planes, b = -median of w . k. The level logits of TC
/// get -inf for the new level.
///
/// TC computes what it did, up to rounding, until raise_levels switches the new level on: at -inf a level has no
/// weight, hence no gradient, and would stay off. TF sees half as many keys from then on.
///
/// Shapes  layers: numbers of layers with trees; none given: all that have them.
/// Errors  OptionError for a layer that is not there or has no trees, and for trees of height 24; what a pass over the
///         batch says. Model and store are untouched then.
/// Cost    a pass forward, and 50 d flops a key, head and tree.
/// Source  Madaan et al. 2023, the bootstrap's second level. What new nodes begin with is ours.
template <class T>
void grow_trees(Transformer<T>& model, ParameterStore<T>& store, const Batch& batch, std::vector<Index> layers = {},
                const GrowthOptions& options = {}, const Context& context = {}) {
  detail::check_enumerator(options.planes, NewPlanes::random, "GrowthOptions::planes");
  std::vector<AttentionChoice> choices = attention_choices(model);
  const bool all = layers.empty();
  for (Index l = 0; all && l < model.n_layers(); ++l) {
    if (model.attention(l).method().has_trees()) layers.push_back(l);
  }
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  for (const Index l : layers) {
    const bool there = l >= 0 && l < model.n_layers();
    if (!there || !model.attention(l).method().has_trees())
      throw OptionError(detail::message("grow_trees: layer ", l, " must be one with trees"));
    if (++choices[static_cast<std::size_t>(l)].height > DecisionTree<T>::most_height)
      throw OptionError(
          detail::message("grow_trees: the trees of layer ", l, " must be lower than ", DecisionTree<T>::most_height));
  }
  std::vector<detail::NewLevel<T>> levels;
  ModelPass<T> pass;
  pass.run(model, store, batch, context, false, [&](const auto& kept, const LossReport&, const View<T>&) {
    for (const Index l : layers) {
      const auto& layer = model.attention(l);
      const Index d = model.options().d_model / layer.options().n_heads;
      const Index n_trees = store.find(model.attention_name(l) + ".biases").rows;
      const std::uint64_t seed = options.conversion.seed + static_cast<std::uint64_t>(l);
      levels.push_back(detail::new_level(layer.method(), store,
                                         detail::read_only(kept.blocks[static_cast<std::size_t>(l)].attention.k),
                                         batch.n, d, n_trees, options.planes, seed, context));
    }
  });
  Transformer<T> grown = model;
  ParameterStore<T> next = store;
  choose_attention(grown, next, choices, options.conversion);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const detail::GrownPlaces<T> places(store, next, grown.attention_name(layers[i]));
    const ParameterStore<T>& old = store;
    places.copy(old.all_values(), next.all_values());
    places.fill(levels[i], next);
    if (options.conversion.reset_moments) continue;
    places.copy(old.first_moments(), next.first_moments());
    places.copy(old.second_moments(), next.second_moments());
  }
  store = std::move(next);
  model = std::move(grown);
}

/// Switches on levels of TC that are off: a logit of -inf becomes the largest of its head less `below`. At 4 the new
/// level weighs at most .018 of the largest, which changes little and lets it learn.
/// Errors  OptionError for a `below` that is not finite in the scalar sums are kept in; the store is untouched then.
template <class T>
void raise_levels(const Transformer<T>& model, ParameterStore<T>& store, double below = 4) {
  if (!detail::is_finite(below)) throw OptionError(detail::message("raise_levels: below = ", below, " must be finite"));
  detail::check_number(below, detail::number_range<T>(), "raise_levels: below");
  for (Index l = 0; l < model.n_layers(); ++l) {
    const Slice slice = store.find(model.attention_name(l) + ".levels");
    for (Index h = 0; slice.given() && h < slice.rows; ++h) {
      auto logits = detail::row_of(store.values(slice), h);
      const T top = logits.maxCoeff();
      for (T& logit : logits) {
        if (detail::is_minus_infinity(logit) && detail::is_finite(top)) logit = top - static_cast<T>(below);
      }
    }
  }
}

}  // namespace heed

#include "heed/core/macros_back.inl"
