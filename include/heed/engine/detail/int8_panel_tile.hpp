#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "heed/core/floating.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Keys and values of one tile in whole numbers of 8 bits (kernels/int8_panel_kernels.hpp). Keys are held less their
/// mean, of all keys of the tile but those whose numbers stand out: one key of a thousand times the size would cost the
/// others their digits, and where there are many of them the others go without a mean. See KeyTile.
template <class S>
class Int8PanelTile {
 public:
  /// `keys`: of the largest tile to come.
  Int8PanelTile(Scratch& scratch, Index keys, Index d, Index d_v, Isa isa)
      : storage_(storage_kernels<float, KernelScalar<S>>(isa)), kernels_(*int8_panel_kernels(isa)), d_v_(d_v) {
    constexpr Index vector = 64;  // a power of two that whole vectors divide
    k_rows_ = scratch.take<float>(keys * d);
    v_rows_ = scratch.take<float>(keys * d_v);
    for (float** row : {&top_, &sorted_, &share_}) *row = scratch.take<float>(keys);
    mean_ = scratch.take<float>(d + vector);
    k_.stride = (d + 3) / 4 * 4;
    k_.bytes = scratch.take<std::int8_t>((keys + 2) * k_.stride);
    k_.offset = scratch.take<std::int32_t>(keys + 2);
    k_.scale = scratch.take<float>(keys + 2);
    k_.of_mean = scratch.take<float>(keys + 2);
    const Index columns = (d_v + vector - 1) / vector * vector;
    v_.block_stride = ((keys + 3) / 4 + 1) * Int8ValueWords::columns;  // one quad more, see KeyTile
    v_.words = scratch.take<std::int32_t>(columns / Int8ValueWords::columns * v_.block_stride);
    v_.scale = scratch.take<float>(keys);
  }

  void load(const ConstView<S>& keys_of, const ConstView<S>& values_of, const TokenSet& keys, Index) {
    size_ = keys.size;
    const Rows k = rows_of(keys_of, keys, k_rows_), v = rows_of(values_of, keys, v_rows_);
    values_ = v;
    kernels_.largest(k.data, k.stride, keys.size, keys_of.cols, top_);
    share_mean();
    kernels_.pack_keys(k.data, k.stride, keys.size, keys_of.cols, top_, share_, mean_, k_);
    all_finite_ = kernels_.pack_values(v.data, v.stride, keys.size, d_v_, v_);
  }

  const Int8KeyRows& k() const { return k_; }
  const Int8ValueWords& v() const { return v_; }
  /// Four keys of values from key j on; j is a multiple of 4.
  const std::int32_t* words(Index j) const { return v_.words + j / 4 * Int8ValueWords::columns; }
  Index d_v() const { return d_v_; }

  /// True when the values of keys [j, j + n) hold no NaN or Inf.
  bool finite(Index j, Index n) const {
    for (Index r = j; r < j + n && !all_finite_; ++r) {
      for (Index c = 0; c < d_v_; ++c) {
        if (!is_finite(value(r, c))) return false;
      }
    }
    return true;
  }
  /// Value (j, c).
  float value(Index j, Index c) const { return values_.data[j * values_.stride + c]; }

 private:
  struct Rows {
    const float* data = nullptr;
    Index stride = 0;
  };

  Rows rows_of(const ConstView<S>& from, const TokenSet& keys, float* room) const {
    const Index first = keys.list == nullptr ? keys.first : 0;
    const auto* data = kernel_pointer(from.data) + first * from.row_stride;
    if constexpr (std::is_same_v<S, float>) {
      if (keys.list == nullptr && from.col_stride == 1) return {data, from.row_stride};
    }
    storage_.gather(data, from.row_stride, from.col_stride, keys.list, keys.size, from.cols, room, from.cols);
    return {room, from.cols};
  }

  // What each key counts for in the mean: nothing where its largest number is over four times the median.
  void share_mean() {
    std::copy_n(top_, size_, sorted_);
    std::nth_element(sorted_, sorted_ + size_ / 2, sorted_ + size_);
    const float most = 4 * sorted_[size_ / 2];
    const auto counts = [&](Index j) { return is_finite(top_[j]) && top_[j] <= most; };
    Index n = 0;
    for (Index j = 0; j < size_; ++j) n += counts(j) ? 1 : 0;
    for (Index j = 0; j < size_; ++j) share_[j] = counts(j) ? 1 / static_cast<float>(n) : 0.0f;
  }

  const StorageKernels<float, KernelScalar<S>>& storage_;
  const Int8PanelKernels& kernels_;
  Index d_v_, size_ = 0;
  float *k_rows_, *v_rows_, *top_, *sorted_, *share_, *mean_;
  Int8KeyRows k_;
  Int8ValueWords v_;
  Rows values_;
  bool all_finite_ = true;
};

}  // namespace heed::detail
