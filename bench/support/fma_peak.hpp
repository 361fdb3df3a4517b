#pragma once
#include "support/cpu.hpp"

namespace heed_bench {

/// The arithmetic of the products. Half and bfloat16 storage with sums in float has the peak of `f32`.
enum class Arithmetic { f32, f64, bf16_dot };

/// Highest rate of fused multiply-adds with all operands in registers, in flops per second (2 per multiply-add), summed
/// over `threads` threads that run at the same time for about `seconds`.
///
/// There are 12 independent chains a = a * x + y, enough for two pipes of latency 4 or 5. SSE2 has no fused
/// instruction: it multiplies, then adds. bf16_dot counts 4 flops per 32-bit lane, and is 0 where the CPU has no such
/// instruction.
double fma_peak(Arithmetic arithmetic, int threads, Registers registers = registers_in_use(), double seconds = 0.02);

/// The best of `repeats` trials: what the machine can do when nothing else disturbs it.
double best_fma_peak(Arithmetic arithmetic, int threads, Registers registers = registers_in_use(), int repeats = 5);

}  // namespace heed_bench
