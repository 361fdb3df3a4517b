#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/row_operands.hpp"
#include "heed/engine/int8_rows.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// A query in whole numbers of 8 bits: q is about query.scale * bytes. One that holds NaN or Inf gets scores of NaN.
inline Int8Query quantised_query(const float* q, Index d, Index d_padded, std::int8_t* bytes) {
  float most = 0;
  bool finite = true;
  for (Index c = 0; c < d; ++c) {
    finite = finite && is_finite(q[c]);
    most = std::max(most, std::abs(q[c]));
  }
  std::fill_n(bytes, d_padded, static_cast<std::int8_t>(0));
  if (!finite) return {q, bytes, std::numeric_limits<float>::quiet_NaN(), 0};
  const float scale = most / 127.0f;
  std::int32_t sum = 0;
  for (Index c = 0; c < d && scale > 0; ++c) {
    const float whole = std::clamp(std::nearbyint(q[c] / scale), -127.0f, 127.0f);
    bytes[c] = static_cast<std::int8_t>(whole);
    sum += bytes[c];
  }
  return {q, bytes, scale, sum};
}

/// True where rounding a query to 8 bits would move scores, and so weights, by more than .6%: one channel of it is much
/// larger than the others. `scale` multiplies scores. Judged by the first page, so that all chunks of a call agree.
inline bool is_coarse(const Int8Query& query, const Int8Rows& tokens, float scale) {
  if (tokens.n_pages == 0) return false;
  const double step = static_cast<double>(query.scale) * static_cast<double>(scale);
  return step * step / 12 * static_cast<double>(tokens.pages.statistics[0].key_spread) > .006 * .006;
}

/// How tokens of an 8-bit cache meet one query of each of several heads: those in float as they are, those in pages by
/// products of whole numbers, of a query rounded to 8 bits. A coarse one is two: what 8 bits leave of it is rounded to
/// 8 bits again, and both are summed.
template <>
class RowOperands<float, Int8> {
 public:
  static constexpr bool all_finite = true;
  static constexpr Index first_edge = Int8Rows::n_first;

  RowOperands(Scratch& scratch, Index /*tile_keys*/, Index max_heads, Index d, Index d_v, Isa isa)
      : pages_(int8_kernels(isa)), rows_(storage_kernels<float, float>(isa)), layout_(d, d_v) {
    const Index width = layout_.d_padded + 16;
    q_ = scratch.take<float>(2 * max_heads * width);  // and what is left of each
    bytes_ = scratch.take<std::int8_t>(2 * max_heads * layout_.d_padded);
    queries_ = scratch.take<Int8Query>(2 * max_heads);
    part_ = scratch.take<float>(max_heads * page);
    rest_scores_ = scratch.take<float>(pages_at_once * page);
    coarse_ = scratch.take<bool>(max_heads);
  }

  void begin(const ConstView<Int8>& k, const float* q, Index q_stride, Index n_heads, float scale) {
    const Index width = layout_.d_padded + 16, d = k.cols;
    std::fill_n(q_, 2 * n_heads * width, 0.0f);
    for (Index h = 0; h < n_heads; ++h) {
      float *own = q_ + 2 * h * width, *rest = own + width;
      std::int8_t *bytes = bytes_ + 2 * h * layout_.d_padded, *rest_bytes = bytes + layout_.d_padded;
      std::copy_n(q + h * q_stride, d, own);
      queries_[h] = quantised_query(own, d, layout_.d_padded, bytes);
      coarse_[h] = is_coarse(queries_[h], *k.tokens, scale);
      if (!coarse_[h]) continue;
      for (Index c = 0; c < d; ++c) rest[c] = own[c] - queries_[h].scale * static_cast<float>(bytes[c]);
      Int8Query& second = queries_[n_heads + h] = quantised_query(rest, d, layout_.d_padded, rest_bytes);
      std::fill_n(rest, d, 0.0f);  // its product with the mean is in the first
      second.q = rest;
    }
  }

  static Index tile_end(Index at, Index n) {
    const Index end = (at + n - first_edge) / page * page + first_edge;
    return end > at ? end : at + n;
  }

  void scores(const ConstView<Int8>& k, Index at, Index n, const float* q, Index q_stride, Index n_heads, float* s,
              Index s_stride) {
    const Int8Rows& tokens = *k.tokens;
    for_each_run(
        tokens, at, n,
        [&](const float* keys, const float*, Index from, Index count) {
          rows_.row_scores(keys, k.cols, count, q, q_stride, n_heads, k.cols, s + from, s_stride);
        },
        [&](const Int8PagesView& pages, Index from, Index n_pages) {
          pages_.scores(tokens.layout, pages, n_pages, queries_, n_heads, s + from, s_stride);
          add_rests(tokens.layout, pages, n_pages, n_heads, s + from, s_stride);
        },
        [&](const Int8PagesView& pages, Index from, Index first, Index count) {
          pages_.scores(tokens.layout, pages, 1, queries_, n_heads, part_, page);
          add_rests(tokens.layout, pages, 1, n_heads, part_, page);
          for (Index h = 0; h < n_heads; ++h) std::copy_n(part_ + h * page + first, count, s + h * s_stride + from);
        });
  }

  void load_values(const ConstView<Int8>&, Index, Index) {}
  void add_values(const ConstView<Int8>& v, Index at, Index from, Index n, const float* w, Index w_stride,
                  Index n_heads, const float* factor, float* out, Index out_stride) {
    const Int8Rows& tokens = *v.tokens;
    const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    const float* once = factor;  // what is there is corrected by the first run alone
    for_each_run(
        tokens, at + from, n,
        [&](const float*, const float* values, Index first, Index count) {
          rows_.row_values(values, v.cols, count, w + first, w_stride, n_heads, v.cols, once, out, out_stride);
          once = ones;
        },
        [&](const Int8PagesView& pages, Index first, Index n_pages) {
          pages_.values(tokens.layout, pages, n_pages, w + first, w_stride, n_heads, once, out, out_stride);
          once = ones;
        },
        [&](const Int8PagesView& pages, Index first, Index slot, Index count) {
          std::fill_n(part_, n_heads * page, 0.0f);
          for (Index h = 0; h < n_heads; ++h) std::copy_n(w + h * w_stride + first, count, part_ + h * page + slot);
          pages_.values(tokens.layout, pages, 1, part_, page, n_heads, once, out, out_stride);
          once = ones;
        });
    if (once == factor) rows_.row_values(nullptr, v.cols, 0, w, w_stride, n_heads, v.cols, once, out, out_stride);
  }

 private:
  static constexpr Index page = Int8Layout::keys, pages_at_once = 8;

  void add_rests(const Int8Layout& layout, const Int8PagesView& pages, Index n_pages, Index n_heads, float* s,
                 Index s_stride) const {
    for (Index h = 0; h < n_heads; ++h) {
      for (Index p = 0; coarse_[h] && p < n_pages; p += pages_at_once) {
        const Index n = std::min(pages_at_once, n_pages - p);
        pages_.scores(layout, pages.from(layout, p), n, queries_ + n_heads + h, 1, rest_scores_, n * page);
        for (Index j = 0; j < n * page; ++j) s[h * s_stride + p * page + j] += rest_scores_[j];
      }
    }
  }

  // Cuts tokens [at, at + n) into runs in order: rows(keys, values, place of the first among the n, how many), then
  // whole(pages, place, how many pages) and part(page, place, first slot, how many) of pages.
  template <class Rows, class Whole, class Part>
  static void for_each_run(const Int8Rows& tokens, Index at, Index n, const Rows& rows, const Whole& whole,
                           const Part& part) {
    const Int8Layout& layout = tokens.layout;
    const Index begin = at, end = at + n;
    if (at < tokens.first_end()) {
      const Index stop = std::min(end, tokens.first_end());
      rows(tokens.first_keys + at * layout.d, tokens.first_values + at * layout.d_v, at - begin, stop - at);
      at = stop;
    }
    for (const Index pages_end = tokens.pages_end(); at < end && at < pages_end;) {
      const Index index = (at - first_edge) / page, slot = (at - first_edge) % page;
      const Int8PagesView pages = tokens.pages_from(index);
      const Index n_pages = slot == 0 ? (std::min(end, pages_end) - at) / page : 0;
      if (n_pages > 0) {
        whole(pages, at - begin, n_pages);
        at += n_pages * page;
      } else {
        const Index count = std::min({page - slot, end - at, pages_end - at});
        part(pages, at - begin, slot, count);
        at += count;
      }
    }
    if (at < end) {
      const Index from = at - tokens.pages_end();
      rows(tokens.last_keys + from * layout.d, tokens.last_values + from * layout.d_v, at - begin, end - at);
    }
  }

  const Int8Kernels& pages_;
  const StorageKernels<float, float>& rows_;
  Int8Layout layout_;
  float *q_, *part_, *rest_scores_;
  bool* coarse_;  // of each head
  std::int8_t* bytes_;
  Int8Query* queries_;
};

}  // namespace heed::detail
