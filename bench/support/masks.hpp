#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <Eigen/Core>

#include "heed/core/options.hpp"

namespace heed_bench {

/// The masks and score changes that are timed.
enum class MaskKind { none, causal, window, band, padding, boolean, bias, alibi, softcap, packed };

inline const char* name_of(MaskKind kind) {
  constexpr const char* names[] = {"none",    "causal", "window", "band",    "padding",
                                   "boolean", "bias",   "alibi",  "softcap", "packed"};
  return names[static_cast<int>(kind)];
}

/// One of them for n tokens, with the memory that its options view. It cannot be copied: options point into it.
///
///   window   causal, and at most 256 keys back          band     256 keys to either side
///   padding  the last quarter of the keys is padding    boolean  half of all pairs, drawn at random
///   bias     uniform, every pair kept                   packed   8 sequences of equal length
struct MaskCase {
  using BoolMatrix = Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using BiasMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  static constexpr heed::Index reach = 256;
  static constexpr heed::Index n_sequences = 8;
  static constexpr double cap = 30;

  MaskKind kind;
  heed::Index n;
  heed::AttentionOptions options;

  MaskCase(MaskKind mask_kind, heed::Index n_tokens, heed::Index n_heads) : kind(mask_kind), n(n_tokens) {
    std::uint64_t state = 42;
    const auto draw = [&state] { return (state = state * 6364136223846793005U + 1442695040888963407U) >> 33U; };
    switch (kind) {
      case MaskKind::none: break;
      case MaskKind::causal: options.mask.causal = heed::Causal::square; break;
      case MaskKind::window:
        options.mask.causal = heed::Causal::square;
        options.mask.window_left = reach;
        break;
      case MaskKind::band: options.mask.window_left = options.mask.window_right = reach; break;
      case MaskKind::padding: options.mask.n_real_keys = n - n / 4; break;
      case MaskKind::boolean:
        allowed_.resize(n, n);
        for (heed::Index p = 0; p < n * n; ++p) allowed_.data()[p] = draw() % 2 == 0;
        options.mask.allowed = allowed_;
        break;
      case MaskKind::bias:
        bias_.resize(n, n);
        for (heed::Index p = 0; p < n * n; ++p) bias_.data()[p] = static_cast<float>(draw()) * 0x1p-30F - 1.0F;
        options.mask.bias = bias_;
        break;
      case MaskKind::alibi:
        for (heed::Index h = 0; h < n_heads; ++h) slopes_.push_back(std::exp2(-8.0F * float(h + 1) / float(n_heads)));
        options.mask.alibi_slope = slopes_;
        break;
      case MaskKind::softcap: options.softcap = cap; break;
      case MaskKind::packed:
        for (heed::Index s = 0; s <= n_sequences; ++s) offsets_.push_back(s * n / n_sequences);
        options.mask.sequence_offsets = offsets_;
        break;
    }
  }
  MaskCase(const MaskCase&) = delete;
  MaskCase& operator=(const MaskCase&) = delete;

  /// Final score of a pair of head h, from its scaled product, by the definitions; -inf where the mask hides the pair.
  [[nodiscard]] double score(std::ptrdiff_t i, std::ptrdiff_t j, std::ptrdiff_t h, double scaled) const {
    constexpr double masked = -std::numeric_limits<double>::infinity();
    switch (kind) {
      case MaskKind::none: return scaled;
      case MaskKind::causal: return j <= i ? scaled : masked;
      case MaskKind::window: return j <= i && j >= i - reach ? scaled : masked;
      case MaskKind::band: return j <= i + reach && j >= i - reach ? scaled : masked;
      case MaskKind::padding: return j < n - n / 4 ? scaled : masked;
      case MaskKind::boolean: return allowed_(i, j) ? scaled : masked;
      case MaskKind::bias: return scaled + double(bias_(i, j));
      case MaskKind::alibi: return scaled - double(slopes_[static_cast<std::size_t>(h)]) * double(std::abs(i - j));
      case MaskKind::softcap: return cap * std::tanh(scaled / cap);
      case MaskKind::packed: return sequence_of(i) == sequence_of(j) ? scaled : masked;
    }
    return scaled;
  }

  /// Pairs of one head that the mask keeps.
  [[nodiscard]] double kept_pairs() const {
    double kept = 0;
    for (heed::Index i = 0; i < n; ++i) kept += double(kept_in_row(i));
    return kept;
  }

 private:
  [[nodiscard]] std::ptrdiff_t sequence_of(heed::Index row) const {
    return std::upper_bound(offsets_.begin(), offsets_.end(), row) - offsets_.begin();
  }
  [[nodiscard]] heed::Index kept_in_row(heed::Index i) const {
    switch (kind) {
      case MaskKind::causal: return i + 1;
      case MaskKind::window: return std::min(i, reach) + 1;
      case MaskKind::band: return std::min(i, reach) + 1 + std::min(n - 1 - i, reach);
      case MaskKind::padding: return n - n / 4;
      case MaskKind::boolean: return allowed_.row(i).count();
      case MaskKind::packed: {
        const auto s = static_cast<std::size_t>(sequence_of(i));
        return offsets_[s] - offsets_[s - 1];
      }
      default: return n;
    }
  }

  BoolMatrix allowed_;
  BiasMatrix bias_;
  std::vector<float> slopes_;
  std::vector<heed::Index> offsets_;
};

}  // namespace heed_bench
