#pragma once
#include "heed/core/macros_away.inl"

#include <cstddef>

#include "heed/core/context.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/layers/attention_choice.hpp"
#include "heed/layers/rows.hpp"
#include "heed/layers/transformer.hpp"

namespace heed {

/// How far the attention of converted layers is from exact attention of the same queries, keys and values,
///   D_l = ||out_l - exact_l||^2 / ||exact_l||^2,
/// summed over the layers whose method is not exact; and `weight` dD_l/dout_l, exact_l standing as it is, for backward
/// to add. Between forward and backward of one batch.
///
/// Memory  n d_model numbers a layer from `frame`, which must be open until backward is done.
/// Cost    exact attention forward of each such layer: what its method saves forward is spent again on that.
/// Source  Hinton, Vinyals, Dean 2015 (distillation); a term a layer as in Jiao et al. 2020 (TinyBERT). Little or no
///         gain was measured on recall (one seed).
template <class T>
double distil_attention(const Transformer<T>& model, typename Transformer<T>::Kept& kept, double weight,
                        Workspace::Frame& frame, const Context& context) {
  double sum = 0;
  for (Index l = 0; l < model.n_layers(); ++l) {
    const auto& layer = model.attention(l);
    if (layer.method().choice().kind == AttentionKind::exact) continue;
    auto& own = kept.blocks[static_cast<std::size_t>(l)].attention;
    const View<T> difference = detail::take_rows<T>(frame, own.out.rows, own.out.cols);
    layer.exact_out(kept.n, own, difference, context);
    double square = 0, norm = 0;
    for (Index i = 0; i < difference.rows; ++i) {
      for (Index c = 0; c < difference.cols; ++c) {
        const double exact = static_cast<double>(difference(i, c));
        norm += exact * exact;
        difference(i, c) = own.out(i, c) - difference(i, c);
        square += static_cast<double>(difference(i, c)) * static_cast<double>(difference(i, c));
      }
    }
    if (norm == 0) continue;
    sum += square / norm;
    const T factor = static_cast<T>(2 * weight / norm);
    for (Index i = 0; i < difference.rows; ++i) detail::row_of(difference, i) *= factor;
    own.more_d_out = detail::read_only(difference);
  }
  return sum;
}

}  // namespace heed

#include "heed/core/macros_back.inl"
