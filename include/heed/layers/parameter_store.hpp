#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include "heed/core/check_option.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/random.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

/// One parameter of a model: a matrix inside a ParameterStore.
struct Slice {
  Index number = -1;  ///< in order of making; -1: none
  Index first = 0;    ///< entry of the flat arrays
  Index rows = 0, cols = 0;
  Index size() const { return rows * cols; }
  bool given() const { return number >= 0; }
};

/// How an optimiser treats one parameter.
struct SliceOptions {
  bool decays = true;  ///< weight decay pulls it to 0; off for biases, gains, and the planes of trees
  double rate = 1;     ///< factor of the learning rate; 0 freezes it; >= 0 and finite
};

namespace detail {

/// Throws OptionError where normal numbers of this deviation could overflow: none is 16 deviations from 0.
template <class T, class... Name>
void check_deviation(double deviation, const Name&... name) {
  check_within(deviation, 0, number_range<T>().largest / 16, name...);
}

}  // namespace detail

/// All parameters of a model in one flat array, and beside it their gradients and two moments for the optimiser: an
/// optimiser is one loop, a checkpoint one file, and a step allocates nothing.
///
/// Threads layers read values from many threads at once; a gradient is added to by one layer at a time.
/// T: the scalar of everything, float or double.
template <class T>
class ParameterStore {
 public:
  using Scalar = T;

  /// Adds a parameter of zeros. Views made before are void, also where it throws.
  /// Errors  OptionError for a name that is there already or empty, or a rate out of range; ShapeError for negative
  ///         sizes; std::bad_alloc. Nothing is added then.
  Slice add(std::string name, Index rows, Index cols, const SliceOptions& options = {}) {
    if (name.empty() || find(name).given())
      throw OptionError(detail::message("ParameterStore: the name '", name, "' must be new and not empty"));
    if (rows < 0 || cols < 0)
      throw ShapeError(
          detail::message("ParameterStore: '", name, "' is ", rows, " x ", cols, " but must not be negative"));
    detail::check_not_negative(options.rate, "SliceOptions::rate");
    const Slice slice{static_cast<Index>(entries_.size()), size(), rows, cols};
    const auto n = static_cast<std::size_t>(slice.first + detail::checked_product("rows * cols", {rows, cols}));
    add_all_or_none([&] {
      for (Numbers* all : arrays()) all->resize(n, T(0));
      entries_.push_back({std::move(name), slice, options});
    });
    return slice;
  }

  /// Calls add_some(), which adds parameters: all of them or, where it throws, none.
  template <class AddSome>
  void add_all_or_none(const AddSome& add_some) {
    const std::size_t n_entries = entries_.size(), n_numbers = values_.size();
    try {
      add_some();
    } catch (...) {
      entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(n_entries), entries_.end());
      for (Numbers* all : arrays()) all->resize(n_numbers);
      throw;
    }
  }

  /// The parameter of this name; `given()` is false where there is none.
  Slice find(std::string_view name) const {
    for (const Entry& entry : entries_) {
      if (entry.name == name) return entry.slice;
    }
    return {};
  }

  Index n_slices() const { return static_cast<Index>(entries_.size()); }
  const std::string& name(Index number) const { return entry(number).name; }
  const Slice& slice(Index number) const { return entry(number).slice; }
  const SliceOptions& options(Index number) const { return entry(number).options; }
  /// Errors  OptionError for a rate out of range, and for a slice that is not of this store, such as one not found.
  void set_rate(const Slice& slice, double rate) {
    SliceOptions changed = options_of(slice);
    changed.rate = rate;
    set_options(slice, changed);
  }
  /// Errors  as set_rate.
  void set_options(const Slice& slice, const SliceOptions& options) {
    detail::check_not_negative(options.rate, "SliceOptions::rate");
    options_of(slice) = options;
  }
  /// Entries of all parameters.
  Index size() const { return static_cast<Index>(values_.size()); }

  ConstView<T> values(const Slice& slice) const {
    return {values_.data() + slice.first, slice.rows, slice.cols, slice.cols, 1};
  }
  View<T> values(const Slice& slice) { return view(values_, slice); }
  View<T> gradients(const Slice& slice) { return view(gradients_, slice); }
  ConstView<T> gradients(const Slice& slice) const {
    return {gradients_.data() + slice.first, slice.rows, slice.cols, slice.cols, 1};
  }

  /// The flat arrays.
  std::span<T> all_values() { return values_; }
  std::span<const T> all_values() const { return values_; }
  std::span<T> all_gradients() { return gradients_; }
  std::span<const T> all_gradients() const { return gradients_; }
  std::span<T> first_moments() { return first_moments_; }
  std::span<const T> first_moments() const { return first_moments_; }
  std::span<T> second_moments() { return second_moments_; }
  std::span<const T> second_moments() const { return second_moments_; }

  void clear_gradients() { std::fill(gradients_.begin(), gradients_.end(), T(0)); }

  /// Independent normal numbers of mean 0: a function of (seed, number of the parameter, entry) alone.
  /// Errors  OptionError for a deviation that is negative, or too large for the numbers to be finite.
  void fill_normal(const Slice& slice, double deviation, std::uint64_t seed) {
    detail::check_deviation<T>(deviation, "the deviation");
    CounterRng numbers(seed, static_cast<std::uint64_t>(slice.number));
    T* to = values_.data() + slice.first;
    for (Index e = 0; e < slice.size(); ++e) {
      const double radius = std::sqrt(-2.0 * std::log(1.0 - numbers.uniform()));
      to[e] = static_cast<T>(deviation * radius * std::cos(2.0 * std::numbers::pi * numbers.uniform()));
    }
  }
  void fill(const Slice& slice, T value) { std::fill_n(values_.data() + slice.first, slice.size(), value); }

 private:
  // Aligned to whole vectors: where Eigen's loops begin with single numbers, and so the bits of a step, must not depend
  // on the addresses of one process.
  using Numbers = std::vector<T, Eigen::aligned_allocator<T>>;
  struct Entry {
    std::string name;
    Slice slice;
    SliceOptions options;
  };
  const Entry& entry(Index number) const { return entries_[static_cast<std::size_t>(number)]; }
  SliceOptions& options_of(const Slice& slice) {
    if (!slice.given() || slice.number >= n_slices()) {
      throw OptionError(detail::message("ParameterStore: the slice has the number ", slice.number,
                                        " but must be one of the store's ", n_slices()));
    }
    return entries_[static_cast<std::size_t>(slice.number)].options;
  }
  std::array<Numbers*, 4> arrays() { return {&values_, &gradients_, &first_moments_, &second_moments_}; }
  static View<T> view(Numbers& all, const Slice& slice) {
    return {all.data() + slice.first, slice.rows, slice.cols, slice.cols, 1};
  }

  std::vector<Entry> entries_;
  Numbers values_, gradients_, first_moments_, second_moments_;
};

}  // namespace heed
