#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/int8_row_operands.hpp"
#include "heed/engine/detail/softmax_state.hpp"
#include "heed/engine/int8_rows.hpp"
#include "heed/engine/partial_pages.hpp"
#include "heed/engine/tolerance_levels.hpp"
#include "heed/engine/tolerance_scan.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// One head's answer from a scan of its pages, made better where it pays: keys in groups of 16 whose share of the error
/// is too large are read in full. With w the weights of the scan, t a score less that of its page's mean key, v a
/// page's mean value,
///
///   out = (sum over what is read in full + sum_p (sum w) v_p + (sum w t) beta) / Z,
///   beta = G q / (q C q + sum s^2 |q|^2 16^2 / 12),
///
/// beta the regression of values on scores within pages (G, C: Int8Rows), which are rounded: s is the step of a key. A
/// group errs by at most
///
///   E = sum w^2 (spread_p + sigma_p^2 (|v_p - out|^2 + spread_p)) / |out|^2 / Z^2
///
/// squared and relative, were signs random; sigma_p^2 = (scale |q| 16 s_p)^2 / 12 and s_p the root mean square of the
/// steps of its page's keys. A page that was not scanned, of guess F and scores of variance var, errs by
///
///   F^2 min(exp(var) - 1, 31) / 32 spread_p / |out|^2 / Z^2.
class ToleranceRow {
 public:
  ToleranceRow(Scratch& scratch, Index most_pages, const Int8Layout& layout, Isa isa)
      : pages_(int8_kernels(isa)),
        tiles_(tile_kernels<float>(isa)),
        rows_(storage_kernels<float, float>(isa)),
        means_(storage_kernels<float, Bfloat>(isa)),
        width_((layout.d_v + 15) / 16 * 16),
        num_(scratch.take<float>(width_)),
        out_(scratch.take<float>(width_)),
        beta_(scratch.take<float>(layout.d_v + 16)),
        product_(scratch.take<float>(Int8Rows::moment_width(layout.d) + width_)),
        distance_(scratch.take<float>(most_pages)),
        bin_(scratch.take<std::uint16_t>(2 * most_pages)),
        groups_(scratch.take<Size>(batch)),
        rough_(scratch.take<float>(batch * group)),
        fine_(scratch.take<float>(batch * group)),
        weights_(scratch.take<float>(batch * group)),
        excess_(scratch.take<float>(batch)),
        places_(scratch.take<Size>(batch)),
        error_of_bin_(scratch.take<double>(n_bins)) {}

  /// Starts from `exact`, what is read in full already, `partial` being what of it is in 8 bits, and a scan of all
  /// other keys. `scale`: of scores, not 0.
  void begin(const Int8Rows& tokens, const ScanQuery& query, float scale, const SoftmaxState<float>& exact,
             const PartialPages& partial, const PageScan& scan) {
    tokens_ = &tokens;
    query_ = &query;
    scan_ = &scan;
    n_read_ = 0;
    top_ = exact.m[0];
    for (Index c = 0; c < scan.n_chunks(); ++c) top_ = std::max(top_, scan.top[c]);
    const float mine = exact.weight(exact.m[0], top_);
    mass_ = exact.l[0] * mine;
    most_ = moment_ = 0;
    std::fill_n(num_, width_, 0.0f);
    std::fill_n(out_, width_, 0.0f);
    for (Index c = 0; c < tokens.layout.d_v; ++c) num_[c] = exact.out[c] * mine;
    for (Index chunk = 0; chunk < scan.n_chunks(); ++chunk) {
      const float unit = unit_of(chunk);
      const auto [from, to] = pages_of(chunk);
      for (Index p = from; p < to; ++p) {
        mass_ += scan.sums[p].mass * unit;
        moment_ += scan.sums[p].moment * unit;
      }
      for (Index c = 0; c < tokens.layout.d_v; ++c) num_[c] += scan.far_field[chunk * scan.far_stride + c] * unit;
    }
    most_ = mass_;
    make_beta();
    estimate(scale, partial, mine);
  }

  /// Squared relative error, by the budget, of leaving out the groups below a bin; and the first bin to read so that it
  /// stays within tau.
  struct Cut {
    Index bin = 0;
    double budget = 0;
  };
  Cut cut_for(double tau) const {
    Cut cut;
    while (cut.bin < n_bins && cut.budget + error_of_bin_[cut.bin] <= tau * tau) cut.budget += error_of_bin_[cut.bin++];
    cut.budget += skipped_;
    return cut;
  }
  /// Reads in full the groups of bins [from, to).
  void read(Index from, Index to) {
    Index n = 0;
    for (Index g = 0; g < 2 * (scan_->end - scan_->first); ++g) {
      if (bin_[g] < from || bin_[g] >= to) continue;
      groups_[n++] = 2 * scan_->first + g;
      if (n == batch) read_groups(std::exchange(n, 0));
    }
    read_groups(n);
  }

  /// False where the scan took some keys for so much more than they are that taking it back has left no digits, or
  /// numbers have left the range of float.
  bool is_sound() {
    const SoftmaxState<float> now = answer();
    return mass_ > 1e-4f * most_ && std::all_of(now.out, now.out + now.d_v, [](float x) { return is_finite(x); });
  }
  /// The answer as it is now.
  SoftmaxState<float> answer() {
    for (Index c = 0; c < tokens_->layout.d_v; ++c) out_[c] = num_[c] + moment_ * beta_[c];
    SoftmaxState<float> state;
    state.width = 1;
    state.d_v = tokens_->layout.d_v;
    state.factor = query_->factor;
    state.m = &top_;
    state.l = &mass_;
    state.out = out_;
    return state;
  }
  Index keys_read() const { return n_read_ * group; }
  /// Squared relative error of reading all in 8 bits.
  double floor_square() const { return floor_; }

  static constexpr Index n_bins = 200;  ///< four an octave, from 2^-48 on

 private:
  static constexpr double rounding = 16.0 * 16.0 / 12;  // mean square error of a high nibble, in squared steps
  static constexpr Index batch = 64, group = Int8Layout::group, least_bin = (127 - 48) * 4;

  struct Range {
    Index from, to;
  };
  Range pages_of(Index chunk) const {
    return {chunk * PageScan::chunk_pages, std::min((chunk + 1) * PageScan::chunk_pages, scan_->end - scan_->first)};
  }
  float unit_of(Index chunk) const {
    const float top = scan_->top[chunk];
    return is_minus_infinity(top) ? 0.0f : std::exp2(query_->factor * (top - top_));
  }

  void make_beta() {
    const Index d = tokens_->layout.d, d_v = tokens_->layout.d_v, width = Int8Rows::moment_width(d);
    std::fill_n(beta_, d_v, 0.0f);
    if (tokens_->moments == nullptr) return;
    const float *q = query_->query.q, one = 1;
    std::fill_n(product_, width + width_, 0.0f);
    rows_.row_values(tokens_->moments, width + width_, d, q, d, 1, width + width_, &one, product_, width + width_);
    double square = 0;
    for (Index c = 0; c < d; ++c) {
      const auto of_query = static_cast<double>(q[c]);
      square += static_cast<double>(product_[c]) * of_query + rounding * tokens_->squared_scales * of_query * of_query;
    }
    if (!(square > 0) || !std::isfinite(square)) return;
    for (Index c = 0; c < d_v; ++c) {
      const auto slope = static_cast<float>(static_cast<double>(product_[width + c]) / square);
      beta_[c] = is_finite(slope) ? slope : 0.0f;
    }
  }

  void estimate(float scale, const PartialPages& partial, float unit_of_partial) {
    const Int8Layout& layout = tokens_->layout;
    const SoftmaxState<float> now = answer();
    double square = 0, q_square = 0;
    for (Index c = 0; c < layout.d_v; ++c) {
      now.out[c] /= mass_;
      square += static_cast<double>(now.out[c]) * static_cast<double>(now.out[c]);
    }
    for (Index c = 0; c < layout.d; ++c)
      q_square += static_cast<double>(query_->query.q[c]) * static_cast<double>(query_->query.q[c]);
    const Index n = scan_->end - scan_->first;
    means_.row_scores(tokens_->pages_from(scan_->first).mean_values, layout.v_padded, n, out_, width_, 1, layout.d_v,
                      distance_, n);
    std::fill_n(error_of_bin_, n_bins, 0.0);
    floor_ = skipped_ = 0;
    const double coarse = static_cast<double>(scale) * static_cast<double>(scale) * q_square * rounding;
    // Of the query's bytes; a coarse query is read in twice as many where all keys are.
    const double step = static_cast<double>(scale) * static_cast<double>(query_->query.scale) /
                        (is_coarse(query_->query, *tokens_, scale) ? 254 : 1);
    const double whole = 1 / (static_cast<double>(mass_) * static_cast<double>(mass_) * std::max(square, 1e-60));
    const auto distance_of = [&](const PageStatistics& of, float product) {
      return std::max(0.0, static_cast<double>(of.mean_value_square) - 2 * static_cast<double>(product) + square);
    };
    // Of reading keys of squared weights `squares` in 8 bits.
    const auto floor_of = [&](const PageStatistics& of, double distance, double squares) {
      return squares * (static_cast<double>(layout.d_v) * static_cast<double>(of.value_scale_square) / 12 +
                        (coarse * static_cast<double>(of.key_scale_square) / 256 +
                         step * step / 12 * static_cast<double>(of.key_spread)) *
                            (distance + static_cast<double>(of.spread)));
    };
    for (std::size_t i = 0; i < static_cast<std::size_t>(partial.n); ++i) {
      const PageStatistics& of = tokens_->pages.statistics[partial.page[i]];
      float product = 0;
      means_.row_scores(tokens_->pages_from(partial.page[i]).mean_values, layout.v_padded, 1, out_, width_, 1,
                        layout.d_v, &product, 1);
      floor_ += whole * static_cast<double>(unit_of_partial) * static_cast<double>(unit_of_partial) *
                floor_of(of, distance_of(of, product), static_cast<double>(partial.square[i]));
    }
    for (Index chunk = 0; chunk < scan_->n_chunks(); ++chunk) {
      const double unit = static_cast<double>(unit_of(chunk)), relative = unit * unit * whole;
      const auto [from, to] = pages_of(chunk);
      for (Index p = from; p < to; ++p) {
        const PageStatistics& of = tokens_->pages.statistics[scan_->first + p];
        const double spread = static_cast<double>(of.spread);
        if (!scan_->scanned[p]) {
          const auto variance = static_cast<double>(scan_->variance[p]), keys = static_cast<double>(Int8Layout::keys);
          const auto mass = static_cast<double>(scan_->sums[p].mass);
          skipped_ += relative * mass * mass * std::min(std::expm1(variance), keys - 1) / keys * spread;
          bin_[2 * p] = bin_[2 * p + 1] = n_bins;
          continue;
        }
        const double distance = distance_of(of, distance_[p]);
        const double sigma = coarse * static_cast<double>(of.key_scale_square);
        const double error = relative * (spread + sigma * (distance + spread));
        floor_ +=
            relative * floor_of(of, distance, static_cast<double>(scan_->sums[p].square[0] + scan_->sums[p].square[1]));
        for (Index half = 0; half < 2; ++half) {
          const auto of_group = static_cast<float>(error * static_cast<double>(scan_->sums[p].square[half]));
          const auto bin = std::clamp<Index>(
              static_cast<Index>(std::bit_cast<std::uint32_t>(of_group) >> 21) - least_bin, 0, n_bins - 1);
          bin_[2 * p + half] = static_cast<std::uint16_t>(bin);
          error_of_bin_[bin] += static_cast<double>(of_group);
        }
      }
    }
  }

  // What the scan said of the groups is taken back, and what 8 bits say put in its place.
  void read_groups(Index n) {
    if (n == 0) return;
    n_read_ += n;
    const float* base = scan_->base - scan_->first;
    pages_.group_scores(tokens_->layout, tokens_->pages, groups_, n, query_->query, base, rough_, fine_);
    const float top = tiles_.row_top(n * group, fine_, top_);
    if (top > top_) {
      const float less = std::exp2(query_->factor * (top_ - top));
      mass_ *= less;
      most_ *= less;
      moment_ *= less;
      for (Index c = 0; c < tokens_->layout.d_v; ++c) num_[c] *= less;
      top_ = top;
    }
    std::copy_n(rough_, n * group, weights_);
    tiles_.row_weigh(n * group, query_->factor, top_, weights_);
    for (Index i = 0; i < n; ++i) {
      const Index page = groups_[i] / 2;
      float sum = 0, moment = 0;
      for (Index j = 0; j < group; ++j) {
        const float w = weights_[i * group + j];
        sum += w;
        moment += w * (rough_[i * group + j] - base[page]);
      }
      excess_[i] = -sum;
      places_[i] = page;
      mass_ -= sum;
      moment_ -= moment;
    }
    means_.add_rows(tokens_->pages.mean_values, tokens_->layout.v_padded, places_, n, tokens_->layout.d_v, excess_,
                    num_);
    mass_ += tiles_.row_weigh(n * group, query_->factor, top_, fine_);
    most_ = std::max(most_, mass_);
    pages_.group_values(tokens_->layout, tokens_->pages, groups_, n, fine_, num_);
  }

  const Int8Kernels& pages_;
  const TileKernels<float>& tiles_;
  const StorageKernels<float, float>& rows_;
  const StorageKernels<float, Bfloat>& means_;
  Index width_;
  float *num_, *out_, *beta_, *product_, *distance_;
  std::uint16_t* bin_;  // of each group, by the size of its error; n_bins where its page was not scanned
  Size* groups_;
  float *rough_, *fine_, *weights_, *excess_;
  Size* places_;
  double* error_of_bin_;
  const Int8Rows* tokens_ = nullptr;
  const ScanQuery* query_ = nullptr;
  const PageScan* scan_ = nullptr;
  float top_ = 0, mass_ = 0, moment_ = 0;
  float most_ = 0;  // the largest mass_ has been
  double floor_ = 0, skipped_ = 0;
  Index n_read_ = 0;
};

}  // namespace heed::detail
