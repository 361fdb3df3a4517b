#pragma once
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <type_traits>

#include "heed/core/types.hpp"

namespace heed {

namespace detail {

/// A list that is gone after the statement it is written in: a temporary that owns its entries.
template <class List>
concept TemporaryList =
    !std::is_lvalue_reference_v<List> && !std::ranges::enable_borrowed_range<std::remove_cvref_t<List>>;

/// Anything whose entries are of type T and lie side by side in memory.
template <class List, class T>
concept ListOf = std::is_constructible_v<std::span<const T>, std::add_lvalue_reference_t<List>>;

}  // namespace detail

/// Where packed sequences begin, and one past the end of the last: a std::span<const Index> that no temporary becomes,
/// because it would dangle. Views a std::vector<Index>, an array or a span, which must outlive it. Empty means "not
/// given".
class SequenceOffsets : public std::span<const Index> {
 public:
  using Span = std::span<const Index>;

  SequenceOffsets() = default;
  template <detail::ListOf<Index> List>
    requires(!std::derived_from<std::remove_cvref_t<List>, SequenceOffsets>)
  SequenceOffsets(List&& list) : Span(list) {
    static_assert(!detail::TemporaryList<List>,
                  "heed: sequence offsets would dangle: they view a temporary list; name the list first");
  }
  /// `count` of them from a pointer or iterator on, or those up to another.
  template <class First>
    requires std::is_constructible_v<std::span<const Index>, First, std::size_t> SequenceOffsets(First first,
                                                                                                 std::size_t count)
        : Span(first, count) {}
    template <class First, class End>
      requires(!std::is_integral_v<End> && std::is_constructible_v<std::span<const Index>, First, End>)
    SequenceOffsets(First first, End end) : Span(first, end) {}
    template <std::integral T>
    SequenceOffsets(std::initializer_list<T>) {
      static_assert(sizeof(T) == 0,
                    "heed: sequence offsets would dangle: they view a temporary list; name the list first");
    }
};

}  // namespace heed
