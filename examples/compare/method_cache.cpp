// Decoding over a cache in 8 bits: all of it, or as much as a tolerance asks for.
#include "cache_attempt.hpp"

namespace compare {
namespace {

std::unique_ptr<Attempt> all(const Head& head, const Settings& settings) {
  return std::make_unique<CacheAttempt<heed::Int8>>(head, settings);
}
template <int percent>
std::unique_ptr<Attempt> within(const Head& head, const Settings& settings) {
  return std::make_unique<CacheAttempt<heed::Int8>>(head, settings, percent / 100.0);
}

const Registration int8{
    {.name = "cache-int8", .description = "keys and values in pages of 8 bits", .runs = Runs::decoding, .bind = all}};
const Registration within_5{{.name = "within-5%",
                             .description = "the same, all keys in 4 bits and in 8 what a tolerance of 5% asks for",
                             .family = Family::within,
                             .runs = Runs::decoding,
                             .bind = within<5>}};
const Registration within_1{{.name = "within-1%",
                             .description = "the same for 1%",
                             .family = Family::within,
                             .runs = Runs::decoding,
                             .bind = within<1>}};

}  // namespace
}  // namespace compare
