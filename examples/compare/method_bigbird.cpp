// BigBird: blocks of keys near, global and drawn at random.
#include "attend_attempt.hpp"

namespace compare {
namespace {

std::unique_ptr<Attempt> bigbird(const Head& head, const Settings& settings) {
  return attend_attempt<float>(head, settings.options, settings.threads,
                               heed::BigBirdAttention({.block = 32, .seed = settings.seed}));
}

const Registration bigbird_registration{{.name = "bigbird",
                                         .description = "blocks of 32 keys: near, the first two, and three at random",
                                         .family = Family::near,
                                         .by_default = true,
                                         .bind = bigbird}};

}  // namespace
}  // namespace compare
