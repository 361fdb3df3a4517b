#pragma once
#include "heed/core/macros_away.inl"

#include <cstdint>
#include <span>
#include <vector>

#include "heed/core/context.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/rows.hpp"
#include "heed/layers/transformer.hpp"
#include "heed/train/batch.hpp"
#include "heed/train/cross_entropy.hpp"

namespace heed {

/// A batch through a model, forward and backward, with memory that is reused: a second pass of the same sizes by the
/// same methods allocates nothing.
///
/// Errors  ShapeError for a batch that does not fit the model; OptionError for tokens and targets outside.
/// Threads one pass per concurrent call; context.threads changes no bit. context.flops counts attention, which
///         is what layers count, forward and backward.
template <class T>
class ModelPass {
 public:
  using Kept = typename Transformer<T>::Kept;

  /// The loss of a batch.
  LossReport loss(const Transformer<T>& model, const ParameterStore<T>& store, const Batch& batch,
                  const Context& context = {}) {
    return run(model, store, batch, context, false, [](Kept&, const LossReport&, const View<T>&) {});
  }

  /// Forward, then use(kept, report, d_logits) while what forward kept stands. d_logits, the gradient of the loss by
  /// the logits, has no data unless asked for. `use` may give attention layers more_d_out.
  template <class Use>
  LossReport run(const Transformer<T>& model, const ParameterStore<T>& store, const Batch& batch,
                 const Context& context, bool wants_gradient, const Use& use) {
    tokens_.assign(batch.tokens.begin(), batch.tokens.end());
    Workspace::Frame frame(kept_in_);
    const View<T> logits = model.forward(store, tokens_, batch.n, kept_, frame, with_scratch(context));
    View<T> d_logits;
    if (wants_gradient) d_logits = detail::take_rows<T>(frame, logits.rows, logits.cols);
    const LossReport report = cross_entropy<T>(detail::read_only(logits), batch.targets, d_logits);
    use(kept_, report, d_logits);
    return report;
  }

  /// Within `use`: adds `weight` times the gradients of the loss to those of the store.
  void backward(const Transformer<T>& model, ParameterStore<T>& store, const Kept& kept, const View<T>& d_logits,
                double weight, const Context& context) {
    for (Index i = 0; weight != 1 && i < d_logits.rows; ++i) detail::row_of(d_logits, i) *= static_cast<T>(weight);
    model.backward(store, tokens_, detail::read_only(d_logits), kept, with_scratch(context));
  }

 private:
  Context with_scratch(Context context) {
    if (context.workspace == nullptr) context.workspace = &scratch_;
    return context;
  }

  Workspace scratch_, kept_in_;
  Kept kept_;
  std::vector<std::span<const std::int32_t>> tokens_;
};

}  // namespace heed

#include "heed/core/macros_back.inl"
