#include "projections.hpp"

#include <cmath>

namespace compare {

Projections::Projections(const StoredInputs& stored, Index n_kv_heads) {
  const Index n_layers = n_matrices(stored, "x");
  const Index n_weights = n_matrices(stored, "w_v");
  if (n_kv_heads % n_layers != 0) {
    refuse(stored, "x",
           "has " + std::to_string(n_layers) + " layers but must have a number that divides the " +
               std::to_string(n_kv_heads) + " heads of k");
  }
  heads_per_layer_ = n_kv_heads / n_layers;
  if (n_weights != 1) require_equal(stored, "w_v", "its number of layers", n_weights, n_layers);
  require_equal(stored, "w_v", "its number of rows", size_from_end(stored, "w_v", 2), size_from_end(stored, "x", 1));
  const Index width = size_from_end(stored, "w_v", 1);
  if (width % heads_per_layer_ != 0) {
    refuse(stored, "w_v",
           "has " + std::to_string(width) + " columns but must have a multiple of the " +
               std::to_string(heads_per_layer_) + " heads of a layer");
  }
  d_v_ = width / heads_per_layer_;
  for (Index layer = 0; layer < n_layers; ++layer) x_.push_back(matrix_of(stored, "x", layer));
  for (Index layer = 0; layer < n_weights; ++layer) w_v_.push_back(matrix_of(stored, "w_v", layer));
  if (!stored.tensors.contains("b_v")) return;
  const heed::Tensor& bias = stored.tensors.at("b_v");
  require_equal(stored, "b_v", "its number of values", bias.size(), n_weights * width);
  bias_ = bias.as<float>();
  for (const float b : bias_) {
    if (!std::isfinite(b)) refuse(stored, "b_v", "has a NaN or an infinity but must be finite");
  }
}

Rows Projections::w_v(Index head) const {
  const Rows& weights = w_v_.size() == 1 ? w_v_.front() : w_v_[static_cast<std::size_t>(head / heads_per_layer_)];
  return std::make_shared<heed::Matrix<float>>(weights->middleCols(head % heads_per_layer_ * d_v_, d_v_));
}

Rows Projections::b_v(Index head) const {
  if (bias_.empty()) return nullptr;
  auto row = std::make_shared<heed::Matrix<float>>(1, d_v_);
  const Index first = (w_v_.size() == 1 ? head % heads_per_layer_ : head) * d_v_;
  for (Index c = 0; c < d_v_; ++c) (*row)(0, c) = bias_[static_cast<std::size_t>(first + c)];
  return row;
}

}  // namespace compare
