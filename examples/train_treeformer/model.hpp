#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <heed/io/safetensors.hpp>
#include <heed/layers/transformer.hpp>
#include <heed/train/batch.hpp>
#include <heed/train/training_run.hpp>

namespace train_treeformer {

using heed::Batch;
using heed::Index;

/// What a model was worth, and what its attention cost.
struct Evaluation {
  double loss = 0;  ///< nats an answer
  double accuracy = 0;
  Index n_answers = 0;
  double flops_per_token = 0;  ///< attention of all layers, forward, routing included, as FlopCounter counts it
  double fewer = 0;            ///< exact attention's score and value products over these
  double fullest_leaf = 0;     ///< largest leaf over mean leaf, the worst of all trees and sequences; 0: no trees
};

/// A transformer, its parameters and the state of its optimiser, which copies share nothing of. What is a template is
/// called in model.cpp alone: methods of attention take a minute to compile.
class Model {
 public:
  explicit Model(const heed::TransformerOptions& options);
  Model(const Model& other);
  Model& operator=(const Model&) = delete;
  ~Model();

  /// Goes on from `steps_done` to the last step of the schedule.
  heed::TrainingResult learn(const heed::TrainingHooks& hooks, const heed::TrainingOptions& options, Index steps_done,
                             int threads);

  /// `biases`: medians of each sequence, or the stored ones; matters for trees alone.
  Evaluation evaluate(const std::vector<Batch>& batches, heed::TreeBiases biases, int threads);

  /// The same, with `substitute` in place of the attention of every layer.
  Evaluation evaluate_with(const heed::AttentionLayer<float>::Substitute& substitute, const std::vector<Batch>& batches,
                           int threads);

  /// Replaces the method of every layer. Moments of the optimiser are cleared.
  void convert(const heed::AttentionChoice& choice, std::uint64_t seed);

  /// Takes the parameters of everything but the head from the model that was pretrained for this one
  /// (heed::masked_model).
  void take_encoder(const Model& pretrained);

  /// Stored biases of trees become the medians of the first sequence of `batch`; nothing without trees.
  void settle_medians(const Batch& batch, int threads);

  /// A checkpoint: parameters, moments, and a description of the run.
  void save(const std::string& path, const heed::TextMap& description) const;
  /// Parameters alone, and a description of the run.
  void save_values(const std::string& path, const heed::TextMap& description) const;
  void load_values(const std::string& path);
  /// Reads a checkpoint into a model that has the same methods.
  void load(const std::string& path);

  /// Writes in half precision what the attention layers see and are made of, for the first sequence of `batch`, as
  /// examples/compare reads it: q, k, x and w_v, and where there are trees, one a head and without a window, their
  /// planes, the biases of these keys, and level logits.
  void save_activations(const std::string& path, const Batch& batch, heed::TreeBiases biases, int threads);

  [[nodiscard]] const heed::TransformerOptions& options() const;
  [[nodiscard]] Index n_parameters() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace train_treeformer
