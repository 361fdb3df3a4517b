#pragma once
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

#include <Eigen/Core>

#include "heed/core/types.hpp"

namespace heed {

/// An optional number that may differ between heads: not given, one for all heads, or one per query head.
/// Views of a vector: the vector must outlive it.
class PerHead {
 public:
  PerHead() = default;
  /// One value for every head.
  template <class T>
    requires std::is_arithmetic_v<T> PerHead(T value) : common_(static_cast<double>(value)), size_(every_head) {}
    PerHead(std::span<const float> values) : floats_(values.data()), size_(static_cast<Index>(values.size())) {}
    PerHead(std::span<const double> values) : doubles_(values.data()), size_(static_cast<Index>(values.size())) {}
    template <class T>
      requires(std::is_same_v<T, float> || std::is_same_v<T, double>)
    PerHead(const std::vector<T>& values) : PerHead(std::span<const T>(values)) {}
    template <class T>
      requires(std::is_same_v<T, float> || std::is_same_v<T, double>)
    PerHead(const Eigen::Matrix<T, Eigen::Dynamic, 1>& values)
        : PerHead(std::span<const T>(values.data(), static_cast<std::size_t>(values.size()))) {}

    static constexpr Index every_head = -1;

    bool given() const { return size_ != 0; }
    /// Number of heads it names, or `every_head`.
    Index size() const { return size_; }
    double of(Index head) const {
      if (size_ == every_head) return common_;
      return floats_ != nullptr ? static_cast<double>(floats_[head]) : doubles_[head];
    }

   private:
    double common_ = 0.0;
    const float* floats_ = nullptr;
    const double* doubles_ = nullptr;
    Index size_ = 0;
};

}  // namespace heed
