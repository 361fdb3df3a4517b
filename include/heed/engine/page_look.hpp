#pragma once
#include <algorithm>
#include <cmath>

#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/softmax_state.hpp"
#include "heed/engine/int8_rows.hpp"
#include "heed/engine/tolerance_scan.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// What means and variances of pages say of one head before any of their keys is read. With b the score of a page's
/// mean key and sigma^2 = R scale^2 sum_c q_c^2 var_c the variance of its scores, F is a guess of what its keys
/// weigh, and share is how much of the answer, or of its denominator where that is more, a key 4 sigma above the mean
/// would be:
///
///   F     = 32 exp(b + min(sigma^2 / 2, 3))
///   share = exp(b + 4 sigma) min(1, sigma) max(sqrt(32 spread) / |out|, 1) / Z
///
/// Z is the sum of all pages' F and of what was read exactly, and Z out the same of values, pages having their mean
/// value; spread is the mean of |value - mean value|^2 over a page. Values much alike would hide how far Z is off,
/// which whoever merges answers by their lse would see. R, 1 to 16, is how much more keys vary along q, within pages
/// and over all of these, than they would with columns that know nothing of each other: q^T M q / sum_c q_c^2 M_cc, M
/// being the sum of (key - mean key) (key - mean key)^T.
class PageLook {
 public:
  PageLook(Scratch& scratch, Index most_pages, const Int8Layout& layout, Isa isa)
      : tiles_(tile_kernels<float>(isa)),
        means_(storage_kernels<float, Bfloat>(isa)),
        rows_(storage_kernels<float, float>(isa)),
        width_((layout.d_v + 15) / 16 * 16),
        squares_(scratch.take<float>(layout.d_padded + 16)),
        loudest_(scratch.take<float>(most_pages + 16)),
        out_(scratch.take<float>(width_)),
        product_(scratch.take<float>(Int8Rows::moment_width(layout.d))) {}

  /// Fills the guesses of `scan`. `scale`: of scores, > 0.
  void run(const Int8Rows& tokens, const ScanQuery& query, float scale, const SoftmaxState<float>& exact,
           PageScan& scan) {
    const Int8Layout& layout = tokens.layout;
    const Index n = scan.end - scan.first;
    const float* q = query.query.q;
    std::fill_n(squares_, layout.d_padded + 16, 0.0f);
    const float unit = scale * scale * correlation_of(tokens, q);
    for (Index c = 0; c < layout.d; ++c) squares_[c] = unit * q[c] * q[c];
    means_.row_scores(tokens.pages_from(scan.first).mean_keys, layout.d_padded, n, q, layout.d_padded + 16, 1, layout.d,
                      scan.base, n);
    means_.row_scores(tokens.variances + scan.first * layout.d_padded, layout.d_padded, n, squares_,
                      layout.d_padded + 16, 1, layout.d, scan.variance, n);
    const float top = std::max(exact.m[0], *std::max_element(scan.base, scan.base + n));
    const float per_unit = 1 / scale, loudest = top + 80 / query.factor;  // of 2^80
    for (Index p = 0; p < n; ++p) {
      scan.guess[p] = scan.base[p] + std::min(scan.variance[p] / 2, 3.0f) * per_unit;
      scan.share[p] = std::sqrt(scan.variance[p]);
      loudest_[p] = std::min(scan.base[p] + 4 * scan.share[p] * per_unit, loudest);
    }
    const float keys = Int8Layout::keys;
    tiles_.row_weigh(n, query.factor, top, scan.guess);
    tiles_.row_weigh(n, query.factor, top, loudest_);
    const float mine = exact.weight(exact.m[0], top);
    std::fill_n(out_, width_, 0.0f);
    float mass = exact.l[0] * mine;
    for (Index p = 0; p < n; ++p) {
      scan.guess[p] *= keys;
      mass += scan.guess[p];
    }
    const float one = 1;
    means_.row_values(tokens.pages_from(scan.first).mean_values, layout.v_padded, n, scan.guess, n, 1, layout.d_v, &one,
                      out_, width_);
    double square = 0;
    for (Index c = 0; c < layout.d_v; ++c) {
      const double all = static_cast<double>(out_[c] + exact.out[c] * mine);
      square += all * all;
    }
    const float whole = 1 / static_cast<float>(std::sqrt(std::max(square, 1e-60)));
    const float of_mass = 1 / std::max(mass, 1e-30f);
    for (Index p = 0; p < n; ++p) {
      const float spread = tokens.pages.statistics[scan.first + p].spread;
      scan.share[p] = loudest_[p] * std::min(1.0f, scan.share[p]) * std::max(std::sqrt(keys * spread) * whole, of_mass);
    }
    scan.has_guesses = true;
    scan.guess_top = top;
    scan.scale = scale;
  }

 private:
  // How much more keys vary along q, within their pages and over all of them, than if their columns were independent.
  float correlation_of(const Int8Rows& tokens, const float* q) {
    if (tokens.moments == nullptr) return 1;
    const Index d = tokens.layout.d, width = Int8Rows::moment_width(d);
    const Index stride = width + Int8Rows::moment_width(tokens.layout.d_v);
    const float one = 1;
    std::fill_n(product_, width, 0.0f);
    rows_.row_values(tokens.moments, stride, d, q, d, 1, width, &one, product_, width);
    float along = 0, alone = 0;
    for (Index c = 0; c < d; ++c) {
      along += product_[c] * q[c];
      alone += tokens.moments[c * stride + c] * q[c] * q[c];
    }
    const float ratio = along / alone;
    return ratio > 1 ? std::min(ratio, 16.0f) : 1.0f;
  }

  const TileKernels<float>& tiles_;
  const StorageKernels<float, Bfloat>& means_;
  const StorageKernels<float, float>& rows_;
  Index width_;
  float *squares_, *loudest_, *out_, *product_;
};

}  // namespace heed::detail
