#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <span>
#include <string>

#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/number_range.hpp"
#include "heed/core/options.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"

namespace heed {

/// Sizes of one call, per head.
struct CallShape {
  Index n_q = 0;
  Index n_k = 0;
  Index d = 0;
  Index d_v = 0;
  Index n_heads = 1;
  Index n_entries = 1;  ///< of a batch
};

namespace detail {

/// Throws where sizes are more than memory can hold, so that nothing made of them overflows.
inline void check_sizes(const CallShape& shape) {
  checked_size(shape.n_heads, "n_heads");
  const Index sizes[] = {shape.n_q, shape.n_k, shape.d, shape.d_v};
  const char* const names[] = {"rows(q)", "rows(k)", "cols(k)", "cols(v)"};
  for (std::size_t s = 0; s < std::size(sizes); ++s) {
    if (sizes[s] > most_size)
      throw ShapeError(message(names[s], " = ", sizes[s], " must be at most 2^", size_bits, " = ", most_size));
  }
  checked_product("n_heads * (rows(q) + rows(k)) * (cols(q) + cols(v) + 2)",
                  {shape.n_heads, shape.n_q + shape.n_k, shape.d + shape.d_v + 2});
}

inline void check_offsets(std::span<const Index> offsets, const char* name, const char* rows, Index n) {
  if (offsets.size() < 2) {
    throw OptionError(
        message(name, " has ", offsets.size(), " entries but must have one per sequence and one more (at least 2)"));
  }
  if (offsets.front() != 0) throw OptionError(message(name, "[0] = ", offsets.front(), " must be 0"));
  for (std::size_t b = 1; b < offsets.size(); ++b) {
    if (offsets[b] < offsets[b - 1]) {
      throw OptionError(
          message(name, "[", b, "] = ", offsets[b], " must be >= ", name, "[", b - 1, "] = ", offsets[b - 1]));
    }
  }
  if (offsets.back() != n) {
    throw OptionError(message(name, "[", offsets.size() - 1, "] = ", offsets.back(), " must be ", rows, " = ", n));
  }
}

inline void check_tensor_size(Index size, Index expected, const char* name, const char* dimension, const char* what) {
  if (size != 1 && size != expected)
    throw ShapeError(message(name, " has ", size, " ", dimension, " but must have 1 or ", what, " = ", expected));
}

/// For a column where a row belongs, what to pass.
inline std::string as_a_row(const PairView& pairs, Index n_k) {
  return pairs.rows() == n_k && pairs.cols() == 1 ? " (it is a column: pass its transpose(), a row for all queries)"
                                                  : "";
}

inline void check_pairs(const PairView& pairs, const char* name, const CallShape& shape) {
  if (!pairs.given()) return;
  if (pairs.cols() != shape.n_k) {
    throw ShapeError(
        message("cols(", name, ") = ", pairs.cols(), " must be rows(k) = ", shape.n_k, as_a_row(pairs, shape.n_k)));
  }
  if (pairs.is_tensor()) {
    check_tensor_size(pairs.n_entries(), shape.n_entries, name, "batch entries", "those of q");
    check_tensor_size(pairs.n_heads(), shape.n_heads, name, "heads", "n_heads");
    check_tensor_size(pairs.rows(), shape.n_q, name, "rows", "rows(q)");
  } else if (pairs.rows() != 1 && pairs.rows() != shape.n_q && pairs.rows() != shape.n_heads * shape.n_q) {
    const std::string or_heads =
        shape.n_heads > 1 ? joined({" or n_heads * rows(q) = ", shape.n_heads * shape.n_q}) : std::string();
    throw ShapeError(
        message("rows(", name, ") = ", pairs.rows(), " must be rows(q) = ", shape.n_q, or_heads, ", or 1 for all"));
  }
}

/// Mask::keys, which has a row for each entry, or one for all.
inline void check_keys(const PairView& keys, const CallShape& shape) {
  if (!keys.given()) return;
  if (keys.is_tensor()) throw OptionError("heed: mask.keys is a tensor but must be a matrix of 1 or batch rows");
  if (keys.cols() != shape.n_k) {
    throw ShapeError(
        message("cols(mask.keys) = ", keys.cols(), " must be rows(k) = ", shape.n_k, as_a_row(keys, shape.n_k)));
  }
  if (keys.rows() != 1 && keys.rows() != shape.n_entries) {
    throw ShapeError(
        message("rows(mask.keys) = ", keys.rows(), " must be 1, or one per batch entry (", shape.n_entries, ")"));
  }
}

/// Lengths, one an entry of the batch.
inline void check_lengths(std::span<const Index> lengths, const char* name, const char* rows, Index n,
                          const CallShape& shape) {
  if (lengths.empty()) return;
  if (static_cast<Index>(lengths.size()) != shape.n_entries) {
    throw OptionError(
        message(name, " has ", lengths.size(), " entries but must have one per batch entry: ", shape.n_entries));
  }
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    if (lengths[b] < 0 || lengths[b] > n)
      throw OptionError(message(name, "[", b, "] = ", lengths[b], " must be 0 .. ", rows, " = ", n));
  }
}

/// Where queries stand, and the sizes beyond shapes: Mask::shift and lengths.
inline void check_positions(const Mask& mask, const CallShape& shape) {
  if (mask.shift) {
    if (mask.causal == Causal::square || mask.causal == Causal::bottom_right) {
      throw OptionError(message("Mask::shift = ", *mask.shift,
                                " is given but Mask::causal names its own: use Causal::top_left or Causal::none"));
    }
    if (*mask.shift > most_size || *mask.shift < -most_size)
      throw OptionError(message("Mask::shift = ", *mask.shift, " must be at most 2^", size_bits, " in size"));
  }
  check_keys(mask.keys, shape);
  check_lengths(mask.key_lengths, "Mask::key_lengths", "rows(k)", shape.n_k, shape);
  check_lengths(mask.query_lengths, "Mask::query_lengths", "rows(q)", shape.n_q, shape);
  if (!mask.sequence_offsets.empty() && !(mask.key_lengths.empty() && mask.query_lengths.empty())) {
    throw OptionError(
        "heed: Mask::key_lengths and Mask::query_lengths must not be given with "
        "Mask::sequence_offsets, which say how long packed sequences are");
  }
}

/// `span`: what numbers are multiplied by at most.
inline void check_per_head(const PerHead& numbers, const char* name, Index n_heads, bool allow_minus_infinity,
                           const NumberRange& range, double span = 1) {
  if (!numbers.given()) return;
  if (numbers.size() != PerHead::every_head && numbers.size() != n_heads) {
    throw OptionError(
        message(name, " has ", numbers.size(), " values but must have one, or one per head (", n_heads, ")"));
  }
  const Index n = numbers.size() == PerHead::every_head ? 1 : n_heads;
  for (Index h = 0; h < n; ++h) {
    const double value = numbers.of(h);
    if (allow_minus_infinity && is_minus_infinity(value)) continue;
    if (!is_finite(value)) throw OptionError(message(name, " of head ", h, " = ", value, " must be finite"));
    check_number(value, range, name, " of head ", h);
    if (std::abs(value) > range.largest / span) {
      throw OptionError(message(name, " of head ", h, " = ", value, " must be at most ", range.largest / span,
                                " in size, so that a score of every distance fits in ", range.scalar));
    }
  }
}

inline void check_bound(Index value, const char* name) {
  if (value < 0) throw OptionError(message(name, " = ", value, " must be >= 0 (or Mask::unlimited)"));
}

/// The scale and the softcap, and their quotient, which products are multiplied by before they are bent.
inline void check_scores(const AttentionOptions& options, Index d, const NumberRange& range) {
  if (options.scale) {
    if (!is_finite(*options.scale))
      throw OptionError(message("AttentionOptions::scale = ", *options.scale, " must be finite"));
    check_number(*options.scale, range, "AttentionOptions::scale");
  }
  if (!options.softcap) return;
  const double softcap = *options.softcap;
  if (!is_finite(softcap) || softcap <= 0)
    throw OptionError(message("AttentionOptions::softcap = ", softcap, " must be > 0 and finite"));
  check_number(softcap, range, "AttentionOptions::softcap");
  const double scale = options.scale.value_or(d > 0 ? 1.0 / std::sqrt(static_cast<double>(d)) : 1.0);
  constexpr double two_log2_e = 2.8853900817779268147;
  const double most = range.largest / two_log2_e;
  if (std::abs(scale) > most * softcap) {
    throw OptionError(
        message("AttentionOptions::softcap = ", softcap, " is too small for AttentionOptions::scale = ", scale,
                ": scale / softcap must be at most ", most, " in size, so that it fits in ", range.scalar));
  }
}

inline void check_options(const AttentionOptions& options, const CallShape& shape, const NumberRange& range) {
  const Mask& mask = options.mask;
  check_sizes(shape);
  check_positions(mask, shape);
  check_scores(options, shape.d, range);
  const NumberRange sinks{range.none, std::min(range.largest, 0x1p1023),
                          range.scalar};  // their base is changed in double
  check_per_head(options.sinks, "AttentionOptions::sinks", shape.n_heads, true, sinks);
  check_per_head(mask.alibi_slope, "Mask::alibi_slope", shape.n_heads, false, range,
                 static_cast<double>(reach_of(mask, shape.n_q, shape.n_k) + 1));
  check_bound(mask.window_left, "Mask::window_left");
  check_bound(mask.window_right, "Mask::window_right");
  check_bound(mask.n_real_keys, "Mask::n_real_keys");
  if (mask.n_real_keys != Mask::unlimited && mask.n_real_keys > shape.n_k) {
    throw OptionError(message("Mask::n_real_keys = ", mask.n_real_keys, " must be <= rows(k) = ", shape.n_k));
  }
  check_pairs(mask.allowed, "mask.allowed", shape);
  check_pairs(mask.bias, "mask.bias", shape);
  const std::span<const Index> q_offsets = mask.sequence_offsets;
  const std::span<const Index> k_offsets = mask.key_sequence_offsets.empty() ? q_offsets : mask.key_sequence_offsets;
  if (q_offsets.empty()) {
    if (!k_offsets.empty())
      throw OptionError("heed: Mask::key_sequence_offsets is given but Mask::sequence_offsets is not: give both");
    if (mask.causal == Causal::square && shape.n_q != shape.n_k) {
      throw OptionError(message("Mask::causal = Causal::square but rows(q) = ", shape.n_q, " and rows(k) = ", shape.n_k,
                                ": name the corner, Causal::top_left or Causal::bottom_right (decoding)"));
    }
    return;
  }
  check_offsets(q_offsets, "Mask::sequence_offsets", "rows(q)", shape.n_q);
  check_offsets(k_offsets, mask.key_sequence_offsets.empty() ? "Mask::sequence_offsets" : "Mask::key_sequence_offsets",
                "rows(k)", shape.n_k);
  if (k_offsets.size() != q_offsets.size()) {
    throw OptionError(message("Mask::key_sequence_offsets has ", k_offsets.size(),
                              " entries but must have as many as sequence_offsets: ", q_offsets.size()));
  }
  for (std::size_t b = 1; b < q_offsets.size() && mask.causal == Causal::square; ++b) {
    const Index n_q = q_offsets[b] - q_offsets[b - 1], n_k = k_offsets[b] - k_offsets[b - 1];
    if (n_q != n_k) {
      throw OptionError(message("Mask::causal = Causal::square but sequence ", b - 1, " has ", n_q, " queries and ",
                                n_k, " keys: name the corner, Causal::top_left or Causal::bottom_right (decoding)"));
    }
  }
}

/// Throws OptionError or ShapeError for whatever no method could run with; the message names the argument, its value
/// and what it must be. T: the scalar that sums are kept in, by which numbers are judged.
template <class T>
void check_options(const AttentionOptions& options, const CallShape& shape) {
  check_options(options, shape, number_range<T>());
}

/// Throws where shapes of q, k and v do not fit, of one head or of packed rows whose widths the caller has divided, and
/// then where options do not. `values`: the argument that has a row for each key.
template <class T>
void check_attention(Index q_cols, Index k_rows, Index k_cols, Index v_rows, const CallShape& shape,
                     const AttentionOptions& options, const char* values = "v") {
  if (q_cols != k_cols)
    throw ShapeError(message("cols(q) = ", q_cols, " but cols(k) = ", k_cols, ": they must be equal"));
  if (k_rows != v_rows)
    throw ShapeError(message("rows(k) = ", k_rows, " but rows(", values, ") = ", v_rows, ": they must be equal"));
  if (q_cols == 0 && !options.scale && shape.n_q > 0 && shape.n_k > 0) {
    throw ShapeError("heed: cols(q) = 0 must be >= 1 (the default scale is 1/sqrt(cols(k)))");
  }
  check_options<T>(options, shape);
}

/// Throws OptionError where an option that a method cannot mean is given. `why` follows the option's name.
inline void refuse_option(bool given, const char* name, const char* why) {
  if (given) throw OptionError(message(name, " is given but must not be: ", why));
}

/// The same for all that says something of single pairs: windows, pair masks, ALiBi.
inline void refuse_pair_masks(const Mask& mask, const char* why) {
  refuse_option(mask.window_left != Mask::unlimited, "Mask::window_left", why);
  refuse_option(mask.window_right != Mask::unlimited, "Mask::window_right", why);
  refuse_option(mask.allowed.given(), "Mask::allowed", why);
  refuse_option(mask.bias.given(), "Mask::bias", why);
  refuse_option(mask.alibi_slope.given(), "Mask::alibi_slope", why);
}

/// The same for all that needs a score for each pair: these, softcap and sinks.
inline void refuse_pair_scores(const AttentionOptions& options, const char* why) {
  refuse_pair_masks(options.mask, why);
  refuse_option(options.softcap.has_value(), "AttentionOptions::softcap", why);
  refuse_option(options.sinks.given(), "AttentionOptions::sinks", why);
}

}  // namespace detail
}  // namespace heed
