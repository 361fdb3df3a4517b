#pragma once
#include <algorithm>

#include "support/fma_peak.hpp"
#include "support/read_bandwidth.hpp"

namespace heed_bench {

/// A limit of the machine around one timed case. It is measured before the case and again after it, and the higher
/// figure counts, so that no slow moment of the machine flatters a share.
class PeakAround {
 public:
  PeakAround(Arithmetic arithmetic, int threads) : arithmetic_(arithmetic), threads_(threads), before_(now()) {}
  [[nodiscard]] double finish() const { return std::max(before_, now()); }

 private:
  [[nodiscard]] double now() const { return best_fma_peak(arithmetic_, threads_, registers_in_use(), 3); }
  Arithmetic arithmetic_;
  int threads_;
  double before_;
};

class BandwidthAround {
 public:
  explicit BandwidthAround(int threads) : threads_(threads), before_(now()) {}
  [[nodiscard]] double finish() const { return std::max(before_, now()); }

 private:
  [[nodiscard]] double now() const {
    static const ReadBandwidth dram;  // 1.5 GiB, made once a program
    return std::max(dram.measure(threads_), dram.measure(threads_));
  }
  int threads_;
  double before_;
};

}  // namespace heed_bench
