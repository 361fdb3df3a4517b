#pragma once
#include <algorithm>
#include <cmath>
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
/// largest score of its chunk. A page that is not scanned is stood for by its guess (PageLook).
struct PageScan {
  static constexpr Index chunk_pages = 64;

  Index first = 0, end = 0;
  PageSums* sums = nullptr;    ///< a page each, from `first` on
  float* base = nullptr;       ///< a page each: q . mean key
  float* top = nullptr;        ///< a chunk each: its largest score
  float* far_field = nullptr;  ///< a chunk each: sum of mass * mean value
  Index far_stride = 0;
  bool has_guesses = false;
  bool* scanned = nullptr;    ///< a page each
  float* guess = nullptr;     ///< what its keys may weigh, in units of a key of score guess_top
  float* variance = nullptr;  ///< of its scores, in natural exponents
  float* share = nullptr;     ///< how much of the answer a key of it may be
  float guess_top = 0, scale = 1;

  PageScan(Scratch& scratch, Index first_page, Index end_page, Index d_v) : first(first_page), end(end_page) {
    const Index n = end - first;
    far_stride = (d_v + 15) / 16 * 16;
    sums = scratch.take<PageSums>(n);
    base = scratch.take<float>(n);
    top = scratch.take<float>(n_chunks());
    far_field = scratch.take<float>(n_chunks() * far_stride);
    scanned = scratch.take<bool>(n);
    guess = scratch.take<float>(n + 16);
    variance = scratch.take<float>(n);
    share = scratch.take<float>(n);
  }
  /// Pages whose share is past `least` are to be scanned, and all where there are no guesses.
  void want(double least) {
    for (Index p = 0; p < end - first; ++p) scanned[p] = !has_guesses || !(static_cast<double>(share[p]) <= least);
  }
  Index n_scanned() const { return std::count(scanned, scanned + (end - first), true); }
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

  /// A page that one head wants is scanned for all.
  void run(const Int8Rows& tokens, const ScanQuery* queries, Index n_heads, Index chunk, PageScan* const* scans) {
    const Index from = scans[0]->first + chunk * PageScan::chunk_pages;
    const Index n = std::min(PageScan::chunk_pages, scans[0]->end - from), at = from - scans[0]->first;
    Int8Query own[max_heads] = {};
    float top[max_heads] = {};
    for (Index h = 0; h < n_heads; ++h) {
      own[h] = queries[h].query;
      top[h] = scans[h]->has_guesses ? scans[h]->guess_top : minus_infinity<float>;
    }
    const auto is_wanted = [&](Index p) {
      return std::any_of(scans, scans + n_heads, [&](const PageScan* scan) { return scan->scanned[at + p]; });
    };
    Index runs[PageScan::chunk_pages + 1], n_runs = 0;  // begins and ends of neighbours that are wanted
    for (Index p = 0; p < n; ++p) {
      const bool wanted = is_wanted(p);
      if (wanted == (n_runs % 2 == 0)) runs[n_runs++] = p;
    }
    if (n_runs % 2 == 1) runs[n_runs++] = n;
    for (Index r = 0; r < n_runs; r += 2) {
      const Index first = runs[r], count = runs[r + 1] - first;
      float* s = s_ + first * Int8Layout::keys;
      pages_.scan(tokens.layout, tokens.pages_from(from + first), count, own, n_heads, s, chunk_keys, base_ + first,
                  PageScan::chunk_pages);
      for (Index h = 0; h < n_heads; ++h) {
        top[h] = tiles_.row_top(count * Int8Layout::keys, s + h * chunk_keys, top[h]);
        std::copy_n(base_ + h * PageScan::chunk_pages + first, count, scans[h]->base + at + first);
        std::fill_n(scans[h]->scanned + at + first, count, true);
      }
    }
    for (Index h = 0; h < n_heads; ++h) {
      PageScan& scan = *scans[h];
      scan.top[chunk] = top[h];
      for (Index r = 0; r < n_runs; r += 2) {
        const Index first = runs[r];
        pages_.weigh_pages(runs[r + 1] - first, queries[h].factor, is_minus_infinity(top[h]) ? 0.0f : top[h],
                           s_ + h * chunk_keys + first * Int8Layout::keys, scan.base + at + first,
                           scan.sums + at + first);
      }
      finish_chunk(tokens, queries[h], chunk, scan);
    }
  }

  /// Makes of a scan of all pages with guesses the one that leaves out those of a share of at most `least`.
  void leave_out(const Int8Rows& tokens, const ScanQuery& query, double least, const PageScan& all, PageScan& to) {
    const Index n = all.end - all.first;
    to.has_guesses = true;
    to.guess_top = all.guess_top;
    to.scale = all.scale;
    std::copy_n(all.base, n, to.base);
    std::copy_n(all.guess, n, to.guess);
    std::copy_n(all.variance, n, to.variance);
    std::copy_n(all.share, n, to.share);
    std::copy_n(all.sums, n, to.sums);
    std::copy_n(all.top, all.n_chunks(), to.top);
    to.want(least);
    for (Index chunk = 0; chunk < to.n_chunks(); ++chunk) finish_chunk(tokens, query, chunk, to);
  }

 private:
  // Sums of the pages that are not scanned, and the far field.
  void finish_chunk(const Int8Rows& tokens, const ScanQuery& query, Index chunk, PageScan& scan) {
    const Index at = chunk * PageScan::chunk_pages;
    const Index n = std::min(PageScan::chunk_pages, scan.end - scan.first - at);
    const float unit = scan.has_guesses ? std::exp2(query.factor * (scan.guess_top - scan.top[chunk])) : 0.0f;
    for (Index p = 0; p < n; ++p) {
      PageSums& of = scan.sums[at + p];
      if (!scan.scanned[at + p]) {
        const float mass = scan.guess[at + p] * unit;
        of = {mass, mass * std::min(scan.variance[at + p], 1.0f) / scan.scale, {0, 0}};
      }
      s_[p] = of.mass;
    }
    float* far = scan.far_field + chunk * scan.far_stride;
    std::fill_n(far, scan.far_stride, 0.0f);
    const float one = 1;
    values_.row_values(tokens.pages_from(scan.first + at).mean_values, tokens.layout.v_padded, n, s_, n, 1,
                       tokens.layout.d_v, &one, far, scan.far_stride);
  }

  static constexpr Index chunk_keys = PageScan::chunk_pages * Int8Layout::keys;

  const Int8Kernels& pages_;
  const TileKernels<float>& tiles_;
  const StorageKernels<float, Bfloat>& values_;
  float *s_, *base_;
};

}  // namespace heed::detail
