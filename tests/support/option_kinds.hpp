#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test {

/// Storage that options may view: masks, biases, slopes, sinks and offsets for n_q x n_k pairs and up to n_heads heads.
/// Matrices are stacked: rows of head 0 first. Some rows and columns of `allowed` and `masking_bias` are all masked.
struct OptionStore {
  using BoolMatrix = Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Index n_q;
  Index n_k;
  BoolMatrix allowed;
  Matrix<float> bias;
  Eigen::MatrixXd masking_bias;  // column-major, with -inf
  std::vector<double> slopes;
  std::vector<float> sinks;
  std::vector<float> large_sinks;  // larger than any score, or than most
  std::vector<Index> query_offsets;
  std::vector<Index> key_offsets;
  BoolMatrix keys;         // 1 x n_k: keys that are there
  BoolMatrix allowed_row;  // 1 x n_k, for all queries
  Matrix<float> bias_row;
  std::vector<Index> key_lengths, query_lengths;  // one entry

  OptionStore(Index queries, Index key_count, Index n_heads = 1, std::uint64_t seed = 5)
      : n_q(queries),
        n_k(key_count),
        allowed(n_heads * n_q, n_k),
        bias(random_matrix<float>(n_heads * n_q, n_k, seed)),
        masking_bias(random_matrix<double>(n_heads * n_q, n_k, seed + 1)) {
    NumberStream numbers(seed + 2);
    for (Index i = 0; i < allowed.rows(); ++i) {
      for (Index j = 0; j < n_k; ++j) {
        allowed(i, j) = numbers.uniform() < 0.7 && i % 11 != 3 && j % 17 != 5;
        if (numbers.uniform() < 0.3 || i % 13 == 6 || j % 19 == 2)
          fill(masking_bias.block(i, j, 1, 1), minus_infinity_of<double>());
      }
    }
    for (Index h = 0; h < n_heads; ++h) {
      slopes.push_back(0.05 * static_cast<double>(h + 1));
      sinks.push_back(0.5f * static_cast<float>(h) - 0.25f);
      large_sinks.push_back(h % 2 == 0 ? 200.0f : 7.0f);
    }
    keys.resize(1, n_k);
    allowed_row.resize(1, n_k);
    for (Index j = 0; j < n_k; ++j) {
      keys(0, j) = numbers.uniform() < 0.4 || j % 16 > 11;
      allowed_row(0, j) = numbers.uniform() < 0.6;
    }
    bias_row = random_matrix<float>(1, n_k, seed + 3);
    key_lengths = {n_k - n_k / 4};
    query_lengths = {n_q - n_q / 3};
    // Three sequences, the middle one with no queries.
    query_offsets = {0, n_q / 3, n_q / 3, n_q};
    key_offsets = {0, n_k / 4, n_k / 2, n_k};
  }

  /// What head h alone sees.
  OptionStore head(Index h) const {
    OptionStore one = *this;
    one.allowed = allowed.middleRows(h * n_q, n_q);
    one.bias = bias.middleRows(h * n_q, n_q);
    one.masking_bias = masking_bias.middleRows(h * n_q, n_q);
    one.slopes = {slopes[static_cast<std::size_t>(h)]};
    one.sinks = {sinks[static_cast<std::size_t>(h)]};
    one.large_sinks = {large_sinks[static_cast<std::size_t>(h)]};
    return one;
  }
};

/// Keys of n_k that are no padding.
inline Index real_keys_of(const Mask& mask, Index n_k) {
  const Index real = mask.n_real_keys < n_k ? mask.n_real_keys : n_k;
  return mask.key_lengths.empty() || real < mask.key_lengths[0] ? real : mask.key_lengths[0];
}

/// The same that are there.
inline Index present_keys_of(const Mask& mask, Index n_k) {
  Index present = 0;
  for (Index j = 0; j < real_keys_of(mask, n_k); ++j) present += !mask.keys.given() || mask.keys.at(0, j) != 0.0;
  return present;
}

/// One way to use one option. Two kinds of the same group cannot be combined.
struct OptionKind {
  std::string_view name;
  std::string_view group;
  void (*apply)(AttentionOptions&, const OptionStore&);
  bool masks_pairs = true;
};

/// Every option in every sense it has. Kinds whose corner or offsets do not fit n_q != n_k are left out there.
inline std::vector<OptionKind> option_kinds(const OptionStore& store) {
  using O = AttentionOptions;
  using Store = OptionStore;
  std::vector<OptionKind> kinds{
      {"top_left", "causal", [](O& o, const Store&) { o.mask.causal = Causal::top_left; }},
      {"bottom_right", "causal", [](O& o, const Store&) { o.mask.causal = Causal::bottom_right; }},
      {"window", "window", [](O& o, const Store&) { o.mask.window_left = 7, o.mask.window_right = 3; }},
      {"window_left", "window", [](O& o, const Store&) { o.mask.window_left = 20; }},
      {"window_right", "window", [](O& o, const Store&) { o.mask.window_right = 0; }},
      {"padding", "padding", [](O& o, const Store& s) { o.mask.n_real_keys = s.n_k - s.n_k / 3; }},
      {"allowed", "allowed", [](O& o, const Store& s) { o.mask.allowed = s.allowed; }},
      {"bias", "bias", [](O& o, const Store& s) { o.mask.bias = s.bias; }, false},
      {"masking_bias", "bias", [](O& o, const Store& s) { o.mask.bias = s.masking_bias; }},
      {"shift", "causal", [](O& o, const Store&) { o.mask.shift = 6; }, false},
      {"shifted", "causal",
       [](O& o, const Store&) {
         o.mask.causal = Causal::top_left;
         o.mask.shift = -9;
       }},
      {"keys", "keys", [](O& o, const Store& s) { o.mask.keys = s.keys; }},
      {"key_length", "padding", [](O& o, const Store& s) { o.mask.key_lengths = s.key_lengths; }},
      {"query_length", "queries", [](O& o, const Store& s) { o.mask.query_lengths = s.query_lengths; }},
      {"allowed_row", "allowed", [](O& o, const Store& s) { o.mask.allowed = s.allowed_row; }},
      {"bias_row", "bias", [](O& o, const Store& s) { o.mask.bias = s.bias_row; }, false},
      {"alibi", "alibi", [](O& o, const Store& s) { o.mask.alibi_slope = s.slopes; }, false},
      {"sequences", "sequences",
       [](O& o, const Store& s) {
         o.mask.sequence_offsets = s.query_offsets;
         o.mask.key_sequence_offsets = s.key_offsets;
       }},
      {"softcap", "softcap", [](O& o, const Store&) { o.softcap = 1.5; }, false},
      {"sink", "sink", [](O& o, const Store& s) { o.sinks = s.sinks; }, false},
      {"large_sink", "sink", [](O& o, const Store& s) { o.sinks = s.large_sinks; }, false},
      {"scale", "scale", [](O& o, const Store&) { o.scale = 0.75; }, false},
      {"negative_scale", "scale", [](O& o, const Store&) { o.scale = -0.3; }, false},
      {"zero_scale", "scale", [](O& o, const Store&) { o.scale = 0.0; }, false},
  };
  if (store.n_q == store.n_k) {
    kinds.push_back({"square", "causal", [](O& o, const Store&) { o.mask.causal = Causal::square; }});
    kinds.push_back(
        {"same_sequences", "sequences", [](O& o, const Store& s) { o.mask.sequence_offsets = s.query_offsets; }});
  }
  return kinds;
}

/// Options with one kind, or with two.
inline AttentionOptions options_of(const OptionStore& store, const OptionKind& first) {
  AttentionOptions options;
  first.apply(options, store);
  return options;
}
inline AttentionOptions options_of(const OptionStore& store, const OptionKind& first, const OptionKind& second) {
  AttentionOptions options = options_of(store, first);
  second.apply(options, store);
  return options;
}
/// "square" cannot be combined with sequences of differing lengths, nor lengths with sequences, which have their own.
/// Kinds that are another way to say what a kind says meet only those they may be confused with.
inline bool fit_together(const OptionKind& a, const OptionKind& b) {
  const auto meets = [](const OptionKind& x, std::string_view group) {
    const auto among = [&](std::initializer_list<std::string_view> groups) {
      return std::find(groups.begin(), groups.end(), group) != groups.end();
    };
    if (x.name == "allowed_row" || x.name == "bias_row") return among({"keys", "queries"});
    if (x.name == "key_length") return among({"causal", "keys", "queries"});
    if (x.name == "query_length") return among({"causal", "keys", "padding", "allowed", "bias", "sink"});
    if (x.name == "keys") return among({"causal", "window", "padding", "queries", "allowed", "bias", "sequences"});
    if (x.name == "shifted") return among({"window", "alibi", "keys", "queries", "padding", "sequences"});
    if (x.name == "shift") return among({"window", "alibi", "keys", "queries", "padding"});
    return true;
  };
  if (!meets(a, b.group) || !meets(b, a.group)) return false;
  const auto clash = [](const OptionKind& x, const OptionKind& y) {
    return x.name == "square" && y.name == "sequences";
  };
  return a.group != b.group && !clash(a, b) && !clash(b, a);
}

}  // namespace heed::test
