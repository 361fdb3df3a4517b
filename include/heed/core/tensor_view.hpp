#pragma once
#include <array>
#include <type_traits>

#include "heed/core/types.hpp"

namespace heed {

/// A strided view of batch x heads x tokens x width numbers of T, which may be const, without a copy. Entry
/// (b, h, i, c) is data[b * strides[0] + h * strides[1] + i * strides[2] + c * strides[3]]; strides count elements, and
/// a stride of 0 repeats. The memory must outlive the view.
template <class T>
struct TensorView {
  using Scalar = std::remove_const_t<T>;

  T* data = nullptr;
  std::array<Index, 4> sizes{};    ///< batch, heads, tokens, width
  std::array<Index, 4> strides{};  ///< from an element to the next of its batch, head, token, width

  Index batch() const { return sizes[0]; }
  Index n_heads() const { return sizes[1]; }
  Index tokens() const { return sizes[2]; }
  Index width() const { return sizes[3]; }

  operator TensorView<const T>() const requires(!std::is_const_v<T>) { return {data, sizes, strides}; }
};

/// Contiguous batch x heads x tokens x width, the last index moving fastest: PyTorch, four-dimensional ONNX.
template <class T>
TensorView<T> heads_first(T* data, Index batch, Index n_heads, Index n_tokens, Index width) {
  return {data, {batch, n_heads, n_tokens, width}, {n_heads * n_tokens * width, n_tokens * width, width, 1}};
}

/// Contiguous batch x tokens x heads x width, the last index moving fastest: flash-attn, three-dimensional ONNX.
template <class T>
TensorView<T> tokens_first(T* data, Index batch, Index n_tokens, Index n_heads, Index width) {
  return {data, {batch, n_heads, n_tokens, width}, {n_tokens * n_heads * width, width, n_heads * width, 1}};
}

namespace detail {

template <class T>
inline constexpr bool is_tensor_view = false;
template <class T>
inline constexpr bool is_tensor_view<TensorView<T>> = true;

}  // namespace detail
}  // namespace heed
