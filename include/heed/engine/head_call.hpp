#pragma once
#include <type_traits>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/engine/split_lse.hpp"
#include "heed/kernels/scalars.hpp"

namespace heed::detail {

template <class T>
struct SoftmaxSums;  // engine/softmax_sums.hpp

/// What products of panels of queries and tiles are made of: the operands, or whole numbers of 8 bits next to them.
enum class Products { of_operands, of_int8 };

/// The operands of one query head. SQ, SK, SO: storage of the queries, of keys and values, of the output.
template <class SQ, class SK, class SO, Products made = Products::of_operands>
struct HeadCall {
  using Query = SQ;
  using Key = SK;
  using Out = SO;
  using Sum = Accumulator<SQ>;
  static constexpr Products products = made;

  ConstView<SQ> q;
  ConstView<SK> k;
  ConstView<SK> v;
  View<SO> out;
  Sum* lse = nullptr;  // null: not wanted
  Index lse_stride = 1;
  Index head = 0;                 // names its entry of per-head options and its rows of per-head pair masks
  SplitLse* split_lse = nullptr;  // n_q; null: not wanted
  Index n_padding = 0;            // queries of the operand behind those of q, which are padding
  SoftmaxSums<Sum>* sums =
      nullptr;  // where the softmax is left unfinished, in the place of out and lse; null: it is not

  /// The same call with its products made of something else.
  template <Products other>
  HeadCall<SQ, SK, SO, other> with() const {
    return {q, k, v, out, lse, lse_stride, head, split_lse, n_padding, sums};
  }
};

/// Calls whose sums are kept in T.
template <class Call, class T>
concept SummedIn = std::is_same_v<typename Call::Sum, T>;

/// Storage scalars as the kernels name them.
template <class S>
struct KernelScalarOf {
  using type = S;
};
template <>
struct KernelScalarOf<Eigen::half> {
  using type = Half;
};
template <>
struct KernelScalarOf<Eigen::bfloat16> {
  using type = Bfloat;
};
template <>
struct KernelScalarOf<bool> {
  using type = Bool;
};
template <class S>
using KernelScalar = typename KernelScalarOf<S>::type;

template <class S>
const KernelScalar<S>* kernel_pointer(const S* p) {
  static_assert(sizeof(S) == sizeof(KernelScalar<S>));
  return reinterpret_cast<const KernelScalar<S>*>(p);
}

}  // namespace heed::detail
