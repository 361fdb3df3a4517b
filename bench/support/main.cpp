// main() of every benchmark: Google Benchmark with the machine, compiler, flags, commit and command in its context.
#include <benchmark/benchmark.h>

#include "support/allocations.hpp"
#include "support/fma_peak.hpp"
#include "support/machine.hpp"

int main(int argc, char** argv) {
  const heed_bench::Machine machine = heed_bench::describe_machine(argc, argv);
  for (const auto& [name, value] : machine.rows()) benchmark::AddCustomContext("heed_" + name, value);
  benchmark::AddCustomContext("heed_counted", "2 flops per multiply-add of kept pairs, products only");
  benchmark::AddCustomContext("heed_allocations",
                              heed_bench::allocations().counted ? "counted" : "not counted in this build");
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
