#pragma once
#include <functional>
#include <string>
#include <vector>

#include <heed/core/flops.hpp>

#include "method.hpp"

namespace compare {

/// What one method cost on all heads together, and how far off it was on each.
struct Measurement {
  Method method;
  heed::FlopCounter flops;                  ///< of one pass over all heads
  std::vector<double> seconds;              ///< of each timed pass over all heads
  std::vector<Attempt::Decoding> decoding;  ///< of each head
  std::vector<double> errors;  ///< of each head: |out - oracle| / |oracle|, Frobenius norms; NaN: out is not finite
};

/// Told now and then how far the run has come.
using Report = std::function<void(const std::string& phase, double share)>;

/// Runs the methods on every head.
///
/// Errors are against heed's exact engine in double on the same inputs. Time is measured in rounds: each round runs
/// every method once over all heads, so that a machine that slows down slows all alike. `repeats` rounds, or for 0 as
/// many as fit about three seconds, at least 3 and at most 1001.
/// Errors  heed::OptionError where even the oracle is not finite: the scale is too large.
std::vector<Measurement> measure(const Inputs& inputs, const std::vector<Method>& methods, const Settings& settings,
                                 int repeats, const Report& report);

}  // namespace compare
