#include <algorithm>
#include <cstdio>
#include <sstream>

#include "peers/setting.hpp"
#include "support/cpu.hpp"

namespace heed_bench {
namespace {

/// How many times faster the first row was: the median over rounds of the two times of the same round.
double times_faster(const Row& first, const Row& other) {
  std::vector<double> ratios;
  for (std::size_t r = 0; r < std::min(first.seconds.size(), other.seconds.size()); ++r)
    ratios.push_back(other.seconds[r] / first.seconds[r]);
  return median(ratios);
}

void array(std::ostringstream& json, const char* name, const std::vector<double>& values) {
  json << ",\"" << name << "\":[";
  for (std::size_t i = 0; i < values.size(); ++i) json << (i == 0 ? "" : ",") << values[i];
  json << "]";
}

}  // namespace

double share_of_limit(const Setting& setting, const Row& row) {
  const double done = setting.decode ? row.bytes : setting.shape.flops();
  return done / median(row.seconds) / median(setting.decode ? setting.bandwidth : setting.peak);
}

void print(const Setting& setting) {
  const Shape& shape = setting.shape;
  const double peak = median(setting.peak), bandwidth = median(setting.bandwidth);
  std::printf("\n%sn_q = %td, n_k = %td, d = %td, %td heads, %s, %d thread%s\n", shape.backward ? "backward, " : "",
              shape.n_q, shape.n_k, shape.d, shape.n_heads, shape.causal ? "causal" : "no mask", shape.threads,
              shape.threads == 1 ? "" : "s");
  std::printf("float FMA peak %.1f GFLOP/s (%s, registers; best round %.1f)", peak * 1e-9,
              name_of(registers_in_use()).data(), *std::max_element(setting.peak.begin(), setting.peak.end()) * 1e-9);
  if (bandwidth > 0)
    std::printf("; DRAM read %.1f GB/s (best round %.1f); %zu set%s of operands in turn", bandwidth * 1e-9,
                *std::max_element(setting.bandwidth.begin(), setting.bandwidth.end()) * 1e-9, setting.sets,
                setting.sets == 1 ? "" : "s");
  std::printf("\n  %-34s %10s %9s %8s %9s %9s %7s\n", "engine", "ms", setting.decode ? "GB/s" : "GFLOP/s",
              setting.decode ? "of DRAM" : "of peak", "heed is", "error", "rounds");
  for (const Row& row : setting.rows) {
    const double seconds = median(row.seconds);
    const double rate = (setting.decode ? row.bytes : shape.flops()) / seconds;
    std::printf("  %-34s %10.3f %9.1f %7.1f%% %8.2fx %9.1e %7zu\n", row.engine.c_str(), seconds * 1e3, rate * 1e-9,
                100 * share_of_limit(setting, row), times_faster(setting.rows.front(), row), row.error,
                row.seconds.size());
  }
  std::fflush(stdout);
}

std::string to_json(const Setting& setting) {
  const Shape& shape = setting.shape;
  std::ostringstream json;
  json.precision(10);
  json << "{\"n_q\":" << shape.n_q << ",\"n_k\":" << shape.n_k << ",\"d\":" << shape.d
       << ",\"n_heads\":" << shape.n_heads << ",\"causal\":" << (shape.causal ? "true" : "false")
       << ",\"backward\":" << (shape.backward ? "true" : "false")
       << ",\"decode\":" << (setting.decode ? "true" : "false") << ",\"threads\":" << shape.threads
       << ",\"flops\":" << shape.flops() << ",\"sets\":" << setting.sets;
  array(json, "peak_flops_per_second", setting.peak);
  array(json, "dram_bytes_per_second", setting.bandwidth);
  json << ",\"engines\":[";
  for (std::size_t r = 0; r < setting.rows.size(); ++r) {
    const Row& row = setting.rows[r];
    json << (r == 0 ? "" : ",") << "{\"name\":\"" << row.engine << "\",\"seconds\":" << median(row.seconds)
         << ",\"first_is_faster\":" << times_faster(setting.rows.front(), row) << ",\"bytes\":" << row.bytes
         << ",\"error\":" << row.error;
    array(json, "rounds", row.seconds);
    json << "}";
  }
  json << "]}";
  return json.str();
}

}  // namespace heed_bench
