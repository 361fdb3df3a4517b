#include "inputs.hpp"

#include <cmath>
#include <map>
#include <utility>

#include <heed/core/errors.hpp>

#include "projections.hpp"
#include "stored.hpp"

namespace compare {
namespace {

Rows project(const Rows& x, const Rows& w_v, const Rows& b_v) {
  auto v = std::make_shared<heed::Matrix<float>>(*x * *w_v);
  if (b_v) v->rowwise() += b_v->row(0);
  return v;
}

double relative_difference(const heed::Matrix<float>& is, const heed::Matrix<float>& must) {
  const heed::Matrix<double> want = must.cast<double>();  // squares may be beyond float
  return (is.cast<double>() - want).norm() / std::max(1e-60, want.norm());
}

// Sizes of what trees are made of; what is in them DecisionTree checks.
void check_trees(const StoredInputs& stored, Index n_heads) {
  const Index n_nodes = stored.tensors.contains("tree_planes") ? size_from_end(stored, "tree_planes", 2) : 0;
  Index n_levels = 1;
  while ((Index(1) << n_levels) - 1 < n_nodes && n_levels < 24) ++n_levels;  // h + 1 levels, 2^h - 1 nodes
  for (const auto& [name, size] : {std::pair("tree_planes", size_from_end(stored, "q", 1)),
                                   std::pair("tree_biases", n_nodes), std::pair("level_logits", n_levels + 1)}) {
    if (!stored.tensors.contains(name)) continue;
    require_equal(stored, name, "its number of heads", n_matrices(stored, name), n_heads);
    require_equal(stored, name, "its last size", size_from_end(stored, name, 1), size);
  }
}

Inputs inputs_of(const StoredInputs& stored, const Arguments& arguments) {
  Inputs inputs;
  inputs.source = stored.source;
  const bool has_v = stored.tensors.contains("v");
  const Index n_heads = n_matrices(stored, "q");
  const Index n_kv_heads = n_matrices(stored, "k");
  if (n_heads % n_kv_heads != 0) {
    refuse(stored, "q",
           "has " + std::to_string(n_heads) + " heads but must have a multiple of the " + std::to_string(n_kv_heads) +
               " heads of k");
  }
  require_equal(stored, "k", "its width d", size_from_end(stored, "k", 1), size_from_end(stored, "q", 1));
  if (has_v) {
    require_equal(stored, "v", "its number of heads", n_matrices(stored, "v"), n_kv_heads);
    require_equal(stored, "v", "its number of rows", size_from_end(stored, "v", 2), size_from_end(stored, "k", 2));
  }
  check_trees(stored, n_heads);
  std::optional<Projections> projections;
  if (stored.tensors.contains("x")) {
    projections.emplace(stored, n_kv_heads);
    require_equal(stored, "x", "its number of rows", size_from_end(stored, "x", 2), size_from_end(stored, "k", 2));
    if (has_v) require_equal(stored, "v", "its width d_v", size_from_end(stored, "v", 1), projections->d_v());
  }
  const Index last = arguments.last_head < 0 ? n_heads - 1 : arguments.last_head;
  if (last >= n_heads) {
    throw heed::OptionError("heed: --heads ends at " + std::to_string(last) + " but must end at " +
                            std::to_string(n_heads - 1) + " or before");
  }
  Index shared = -1;  // the key/value head that k, v and the projection of the last query head came from
  double worst = 0;
  for (Index h = arguments.first_head; h <= last; ++h) {
    Head head;
    if (!inputs.heads.empty()) head = inputs.heads.back();
    head.number = h;
    head.q = matrix_of(stored, "q", h);
    if (stored.tensors.contains("tree_planes")) head.tree_planes = matrix_of(stored, "tree_planes", h);
    if (stored.tensors.contains("tree_biases")) head.tree_biases = matrix_of(stored, "tree_biases", h);
    if (stored.tensors.contains("level_logits")) head.level_logits = matrix_of(stored, "level_logits", h);
    if (const Index kv = h / (n_heads / n_kv_heads); kv != shared) {
      shared = kv;
      head.k = matrix_of(stored, "k", kv);
      if (projections) {
        head.x = projections->x(kv);
        head.w_v = projections->w_v(kv);
        head.b_v = projections->b_v(kv);
      }
      const Rows projected = projections ? project(head.x, head.w_v, head.b_v) : nullptr;
      if (projected && !projected->allFinite()) {
        refuse(stored, "x", "x w_v of head " + std::to_string(kv) + " of k is beyond float but must be finite");
      }
      head.v = has_v ? matrix_of(stored, "v", kv) : projected;
      if (has_v && projections) worst = std::max(worst, relative_difference(*projected, *head.v));
    }
    inputs.heads.push_back(std::move(head));
  }
  if (!has_v) inputs.notes.push_back(stored.tensors.contains("b_v") ? "v = x w_v + b_v" : "v = x w_v");
  if (worst > 0.01) {
    inputs.notes.push_back("x w_v differs from v by " + std::to_string(static_cast<int>(std::ceil(100 * worst))) +
                           "%: is a bias missing?");
  }
  return inputs;
}

// The first n tokens of every head.
void cut(Inputs& inputs, Index n) {
  if (n > std::min(inputs.n_q(), inputs.n_k())) {
    throw heed::OptionError("heed: --n is " + std::to_string(n) + " but must be at most " +
                            std::to_string(std::min(inputs.n_q(), inputs.n_k())) + ", the tokens there are");
  }
  std::map<const heed::Matrix<float>*, Rows> made;  // heads share rows
  const auto first = [&](Rows& rows) {
    if (rows == nullptr) return;
    Rows& own = made[rows.get()];
    if (own == nullptr) own = std::make_shared<const heed::Matrix<float>>(rows->topRows(n));
    rows = own;
  };
  std::vector<Rows> keep;  // addresses stay those of the whole until all heads are cut
  for (Head& head : inputs.heads) {
    for (Rows* rows : {&head.q, &head.k, &head.v, &head.x}) {
      keep.push_back(*rows);
      first(*rows);
    }
  }
  inputs.notes.push_back("the first " + std::to_string(n) + " tokens");
}

// The last n queries of every head.
void keep_last_queries(Inputs& inputs, Index n) {
  if (n > inputs.n_q()) {
    throw heed::OptionError("heed: --decode is " + std::to_string(n) + " but must be at most " +
                            std::to_string(inputs.n_q()) + ", the queries there are");
  }
  for (Head& head : inputs.heads) head.q = std::make_shared<const heed::Matrix<float>>(head.q->bottomRows(n));
  if (inputs.options.mask.causal == heed::Causal::square) inputs.options.mask.causal = heed::Causal::bottom_right;
  inputs.notes.push_back("the last " + std::to_string(n) + " queries, one by one against a cache");
}

heed::Causal causal_named(const std::string& name) {
  for (const auto causal : {heed::Causal::square, heed::Causal::top_left, heed::Causal::bottom_right}) {
    if (name == name_of(causal)) return causal;
  }
  return heed::Causal::none;
}

}  // namespace

std::string name_of(heed::Causal causal) {
  switch (causal) {
    case heed::Causal::none: return "none";
    case heed::Causal::square: return "square";
    case heed::Causal::top_left: return "top_left";
    case heed::Causal::bottom_right: return "bottom_right";
  }
  return "none";
}

Inputs load_inputs(const Arguments& arguments, std::optional<Index> n) {
  Inputs inputs;
  if (arguments.generate) {
    inputs = generate_inputs(*arguments.generate, arguments.seed);
    if (arguments.last_head >= 0)
      throw heed::OptionError("heed: --heads is for files: --generate makes what it is asked for");
  } else {
    const StoredInputs stored = open_files(arguments);
    inputs = inputs_of(stored, arguments);
    inputs.options.scale = stored.scale;
    if (stored.causal == "true") {
      inputs.options.mask.causal = inputs.n_q() == inputs.n_k() ? heed::Causal::square : heed::Causal::bottom_right;
    }
  }
  if (n) cut(inputs, *n);
  if (arguments.scale) inputs.options.scale = arguments.scale;
  if (!inputs.options.scale) inputs.options.scale = 1 / std::sqrt(static_cast<double>(inputs.d()));
  if (arguments.causal) inputs.options.mask.causal = causal_named(*arguments.causal);
  if (inputs.options.mask.causal == heed::Causal::square && inputs.n_q() != inputs.n_k()) {
    throw heed::OptionError("heed: --causal is square but must be top_left or bottom_right where q has " +
                            std::to_string(inputs.n_q()) + " rows and k has " + std::to_string(inputs.n_k()));
  }
  if (arguments.decode) keep_last_queries(inputs, *arguments.decode);
  if (arguments.real_keys) {
    if (*arguments.real_keys > inputs.n_k()) {
      throw heed::OptionError("heed: --real-keys is " + std::to_string(*arguments.real_keys) + " but must be at most " +
                              std::to_string(inputs.n_k()) + ", the rows of k");
    }
    inputs.options.mask.n_real_keys = *arguments.real_keys;
  }
  return inputs;
}

}  // namespace compare
