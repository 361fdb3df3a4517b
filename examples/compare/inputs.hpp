#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <heed/core/mask.hpp>
#include <heed/core/options.hpp>
#include <heed/core/types.hpp>

#include "arguments.hpp"

namespace compare {

using heed::Index;
using Rows = std::shared_ptr<const heed::Matrix<float>>;

/// One head as methods see it. Heads of one group share k and v; heads of one layer share x.
struct Head {
  Index number = 0;   ///< its place among the heads of the file
  Rows q;             ///< n_q x d
  Rows k;             ///< n_k x d
  Rows v;             ///< n_k x d_v
  Rows x;             ///< n_k x d_model; null where the data have none
  Rows w_v;           ///< d_model x d_v, this head's columns; v = x w_v + b_v
  Rows b_v;           ///< 1 x d_v; null where there is no bias
  Rows tree_planes;   ///< (2^h - 1) x d, of the tree this head was trained with; null where there is none
  Rows tree_biases;   ///< 1 x (2^h - 1)
  Rows level_logits;  ///< 1 x (h + 1); null where the layer is no TC-attention
};

/// Everything the methods run on. All heads have the same shapes.
struct Inputs {
  std::string source;              ///< what was read, for the report
  bool generated = false;          ///< random numbers: every report says so
  std::vector<std::string> notes;  ///< what a reader should know of the data
  std::vector<Head> heads;         ///< at least one
  heed::AttentionOptions options;  ///< scale and mask

  [[nodiscard]] Index n_q() const { return heads.front().q->rows(); }
  [[nodiscard]] Index n_k() const { return heads.front().k->rows(); }
  [[nodiscard]] Index d() const { return heads.front().q->cols(); }
  [[nodiscard]] Index d_v() const { return heads.front().v->cols(); }
  [[nodiscard]] bool has_x() const { return heads.front().x != nullptr; }
  [[nodiscard]] double scale() const { return *options.scale; }
};

/// Random inputs that no model has made: q, k, x and w_v are normal, v = x w_v.
Inputs generate_inputs(const GeneratedSize& size, std::uint64_t seed);

/// Inputs from files, the example data, or --generate, with the heads and the mask that were asked for.
/// Errors  heed::FormatError for a file that is wrong in itself, heed::ShapeError for shapes that do not fit each
///         other, heed::OptionError for options that do not fit the data.
Inputs load_inputs(const Arguments& arguments, std::optional<Index> n);

std::string name_of(heed::Causal causal);

}  // namespace compare
