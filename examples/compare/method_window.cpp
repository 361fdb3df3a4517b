// Softmax attention over neighbours only: --window keys to the left and, where the mask is not causal, to the right.
#include <algorithm>

#include "attend_attempt.hpp"

namespace compare {
namespace {

std::unique_ptr<Attempt> window(const Head& head, const Settings& settings) {
  heed::AttentionOptions options = settings.options;
  options.mask.window_left = std::min(options.mask.window_left, settings.window);
  options.mask.window_right = std::min(options.mask.window_right, settings.window);  // the causal mask cuts it to 0
  return attend_attempt<float>(head, options, settings.threads, heed::ExactAttention{});
}

const Registration window_registration{{.name = "window",
                                        .description = "softmax attention over the --window nearest keys on each side",
                                        .family = Family::near,
                                        .by_default = true,
                                        .bind = window}};

}  // namespace
}  // namespace compare
