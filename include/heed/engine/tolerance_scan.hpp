#pragma once
#include <algorithm>
#include <cstdint>

#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/int8_rows.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Query of one head as pages meet it, and the factor that brings its scores to base-2 exponents.
struct ScanQuery {
  Int8Query query;
  float factor = 1;
};

/// What a scan of pages [first, end) in 4 bits says of one head: every page's weights are in units of those of the
/// largest score of its chunk.
struct PageScan {
  static constexpr Index chunk_pages = 64;

  Index first = 0, end = 0;
  PageSums* sums = nullptr;    ///< a page each, from `first` on
  float* base = nullptr;       ///< a page each: q . mean key
  float* top = nullptr;        ///< a chunk each: its largest score
  float* far_field = nullptr;  ///< a chunk each: sum of mass * mean value
  Index far_stride = 0;

  PageScan(Scratch& scratch, Index first_page, Index end_page, Index d_v) : first(first_page), end(end_page) {
    const Index n = end - first;
    far_stride = (d_v + 15) / 16 * 16;
    sums = scratch.take<PageSums>(n);
    base = scratch.take<float>(n);
    top = scratch.take<float>(n_chunks());
    far_field = scratch.take<float>(n_chunks() * far_stride);
  }
  Index n_chunks() const { return (end - first + chunk_pages - 1) / chunk_pages; }
};

/// Scans chunks of pages for up to four heads that share them, on one thread.
class PageScanner {
 public:
  static constexpr Index max_heads = 4;

  PageScanner(Scratch& scratch, Isa isa)
      : pages_(int8_kernels(isa)),
        tiles_(tile_kernels<float>(isa)),
        values_(storage_kernels<float, Bfloat>(isa)),
        s_(scratch.take<float>(max_heads * chunk_keys)),
        base_(scratch.take<float>(max_heads * PageScan::chunk_pages)) {}

  void run(const Int8Rows& tokens, const ScanQuery* queries, Index n_heads, Index chunk, PageScan* const* scans) {
    const Index from = scans[0]->first + chunk * PageScan::chunk_pages;
    const Index n = std::min(PageScan::chunk_pages, scans[0]->end - from), at = from - scans[0]->first;
    const Int8Layout& layout = tokens.layout;
    Int8Query own[max_heads] = {};
    for (Index h = 0; h < n_heads; ++h) own[h] = queries[h].query;
    pages_.scan(layout, tokens.pages_from(from), n, own, n_heads, s_, chunk_keys, base_, PageScan::chunk_pages);
    for (Index h = 0; h < n_heads; ++h) {
      PageScan& scan = *scans[h];
      float *s = s_ + h * chunk_keys, *base = base_ + h * PageScan::chunk_pages;
      const float top = tiles_.row_top(n * Int8Layout::keys, s, minus_infinity<float>);
      scan.top[chunk] = top;
      std::copy_n(base, n, scan.base + at);
      pages_.weigh_pages(n, queries[h].factor, is_minus_infinity(top) ? 0.0f : top, s, base, scan.sums + at);
      float* far = scan.far_field + chunk * scan.far_stride;
      std::fill_n(far, scan.far_stride, 0.0f);
      for (Index p = 0; p < n; ++p) s[p] = scan.sums[at + p].mass;
      const float one = 1;
      values_.row_values(tokens.pages_from(from).mean_values, layout.v_padded, n, s, n, 1, layout.d_v, &one, far,
                         scan.far_stride);
    }
  }

 private:
  static constexpr Index chunk_keys = PageScan::chunk_pages * Int8Layout::keys;

  const Int8Kernels& pages_;
  const TileKernels<float>& tiles_;
  const StorageKernels<float, Bfloat>& values_;
  float *s_, *base_;
};

}  // namespace heed::detail
