#pragma once
#include <string>
#include <vector>

#include "peers/arguments.hpp"
#include "peers/engine.hpp"
#include "support/read_bandwidth.hpp"

namespace heed_bench {

/// What one engine did at one setting.
struct Row {
  std::string engine;
  std::vector<double> seconds;  ///< a call, one entry a round
  double bytes = 0;             ///< of K and V that a call reads
  double error = 0;             ///< largest relative error of the rows checked against the oracle
};

/// One shape, one thread count, one run: all engines and both limits of the machine, interleaved round by round.
struct Setting {
  Shape shape;
  bool decode = false;
  std::size_t sets = 1;           ///< operands read in turn, so that large ones come from DRAM
  std::vector<double> peak;       ///< float FMA peak, flops per second, one entry a round
  std::vector<double> bandwidth;  ///< DRAM read bandwidth, bytes per second, one entry a round (decoding only)
  std::vector<Row> rows;
};

double median(std::vector<double> values);

/// Runs the setting. `dram` is measured in each round when not null.
Setting measure(const std::vector<Engine*>& engines, const Shape& shape, const Arguments& arguments,
                const ReadBandwidth* dram);

/// The table people read.
void print(const Setting& setting);

/// What share of the limit (FMA peak; decoding: DRAM bandwidth) an engine reached, the median over rounds.
double share_of_limit(const Setting& setting, const Row& row);

/// Bars of these shares, a group of engines a setting. `machine`: a line that says where.
std::string to_svg(const std::vector<Setting>& settings, const std::string& machine);

/// One JSON object: shape, limits, and for every engine median, all rounds, error.
std::string to_json(const Setting& setting);

}  // namespace heed_bench
