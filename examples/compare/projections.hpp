#pragma once
#include <vector>

#include "stored.hpp"

namespace compare {

/// Finds the layer input x of a key/value head, and the head's own columns of w_v and b_v.
///
/// x has one matrix per layer, and the heads belong to the layers in order: with g = heads / layers, layer l has the
/// heads l*g ... l*g + g - 1, and head l*g + c owns the columns c*d_v ... c*d_v + d_v - 1 of w_v. w_v and b_v are there
/// once per layer, or once for all layers.
/// Errors  heed::ShapeError where the sizes do not allow this.
class Projections {
 public:
  Projections(const StoredInputs& stored, Index n_kv_heads);

  [[nodiscard]] Index d_v() const { return d_v_; }
  [[nodiscard]] Rows x(Index head) const { return x_[static_cast<std::size_t>(head / heads_per_layer_)]; }
  [[nodiscard]] Rows w_v(Index head) const;
  /// Null where there is no bias.
  [[nodiscard]] Rows b_v(Index head) const;

 private:
  Index heads_per_layer_ = 1;
  Index d_v_ = 0;
  std::vector<Rows> x_;
  std::vector<Rows> w_v_;
  std::vector<float> bias_;
};

}  // namespace compare
