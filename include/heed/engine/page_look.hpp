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
/// mean key and sigma^2 = scale^2 sum_c q_c^2 var_c the variance of its scores, F is a guess of what its keys weigh,
/// and share is how much of the answer a key 4 sigma above the mean would be:
///
///   F     = 32 exp(b + min(sigma^2 / 2, 3))
///   share = exp(b + 4 sigma) sqrt(32 spread) min(1, sigma) / (Z |out|)
///
/// Z out is the sum of all pages' F times their mean values and of what was read exactly; spread is the mean of
/// |value - mean value|^2 over a page.
class PageLook {
 public:
  PageLook(Scratch& scratch, Index most_pages, const Int8Layout& layout, Isa isa)
      : tiles_(tile_kernels<float>(isa)),
        means_(storage_kernels<float, Bfloat>(isa)),
        width_((layout.d_v + 15) / 16 * 16),
        squares_(scratch.take<float>(layout.d_padded + 16)),
        loudest_(scratch.take<float>(most_pages + 16)),
        out_(scratch.take<float>(width_)) {}

  /// Fills the guesses of `scan`. `scale`: of scores, > 0.
  void run(const Int8Rows& tokens, const ScanQuery& query, float scale, const SoftmaxState<float>& exact,
           PageScan& scan) {
    const Int8Layout& layout = tokens.layout;
    const Index n = scan.end - scan.first;
    const float* q = query.query.q;
    std::fill_n(squares_, layout.d_padded + 16, 0.0f);
    for (Index c = 0; c < layout.d; ++c) squares_[c] = scale * q[c] * scale * q[c];
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
    for (Index p = 0; p < n; ++p) scan.guess[p] *= keys;
    const float one = 1;
    means_.row_values(tokens.pages_from(scan.first).mean_values, layout.v_padded, n, scan.guess, n, 1, layout.d_v, &one,
                      out_, width_);
    double square = 0;
    for (Index c = 0; c < layout.d_v; ++c) {
      const double all = static_cast<double>(out_[c] + exact.out[c] * mine);
      square += all * all;
    }
    const float whole = 1 / static_cast<float>(std::sqrt(std::max(square, 1e-60)));
    for (Index p = 0; p < n; ++p) {
      const float spread = tokens.pages.statistics[scan.first + p].spread;
      scan.share[p] = loudest_[p] * std::sqrt(keys * spread) * std::min(1.0f, scan.share[p]) * whole;
    }
    scan.has_guesses = true;
    scan.guess_top = top;
    scan.scale = scale;
  }

 private:
  const TileKernels<float>& tiles_;
  const StorageKernels<float, Bfloat>& means_;
  Index width_;
  float *squares_, *loudest_, *out_;
};

}  // namespace heed::detail
