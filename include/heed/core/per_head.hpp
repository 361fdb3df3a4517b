#pragma once
#include <concepts>
#include <cstddef>
#include <span>
#include <type_traits>

#include <Eigen/Core>

#include "heed/core/sequence_offsets.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

namespace detail {

/// Anything that holds float or double numbers side by side in memory, but Eigen's own types.
template <class List>
concept NumberList = !is_dense_eigen<List> && (ListOf<List, float> || ListOf<List, double>);

}  // namespace detail

/// An optional number that may differ between heads: not given, one for all heads, or one per query head.
/// Views a vector, array or span of float or double, or an Eigen vector, which must outlive it: no temporary becomes
/// one.
class PerHead {
 public:
  static constexpr Index every_head = -1;

  PerHead() = default;
  /// One value for every head.
  template <class T>
    requires std::is_arithmetic_v<T> PerHead(T value) : common_(static_cast<double>(value)), size_(every_head) {}
    /// One value a head.
    template <detail::NumberList List>
    PerHead(List&& values) {
      static_assert(!detail::TemporaryList<List>,
                    "heed: numbers per head would dangle: they view a temporary list; name the list first");
      if constexpr (detail::ListOf<List, float>) {
        const std::span<const float> list(values);
        see(list.data(), static_cast<Index>(list.size()), 1);
      } else {
        const std::span<const double> list(values);
        see(list.data(), static_cast<Index>(list.size()), 1);
      }
    }
    template <class Values>
      requires detail::is_dense_eigen<Values> PerHead(Values&& values) {
        using Plain = std::remove_cvref_t<Values>;
        static_assert(std::is_lvalue_reference_v<Values> || !OwningMatrix<Plain>,
                      "heed: numbers per head would dangle: they view a temporary vector; name the vector first");
        static_assert(TokenMatrix<Plain>,
                      "heed: an Eigen expression has no memory to view: store the numbers per head in a vector first");
        static_assert(bool(Plain::IsVectorAtCompileTime),
                      "heed: numbers per head must be an Eigen vector, not a matrix");
        see(values.data(), values.size(), values.innerStride());
      }

    bool given() const { return size_ != 0; }
    /// Number of heads it names, or `every_head`.
    Index size() const { return size_; }
    double of(Index head) const {
      if (size_ == every_head) return common_;
      return floats_ != nullptr ? static_cast<double>(floats_[head * stride_]) : doubles_[head * stride_];
    }

   private:
    template <class T>
    void see(const T* values, Index size, Index stride) {
      static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                    "heed: numbers per head must be float or double: cast them first");
      if constexpr (std::is_same_v<T, float>) {
        floats_ = values;
      } else {
        doubles_ = values;
      }
      size_ = size;
      stride_ = stride;
    }

    double common_ = 0.0;
    const float* floats_ = nullptr;
    const double* doubles_ = nullptr;
    Index size_ = 0;
    Index stride_ = 1;
};

}  // namespace heed
