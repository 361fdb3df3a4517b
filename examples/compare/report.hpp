#pragma once
#include <string>
#include <vector>

#include "../common/machine.hpp"
#include "measure.hpp"

namespace compare {

/// One method's line in every report.
struct Row {
  std::string name;
  std::string description;
  Family family = Family::exact;
  double flops = 0;  ///< products of kept pairs, 2 per multiply-add, all heads
  double fewer = 1;  ///< exact's flops over these; 0 where there is no such number
  double exponentials = 0;
  double seconds = 0;  ///< median over rounds of one pass over all heads
  double faster = 1;   ///< median over rounds of exact's seconds over these; 0 where there is no such number
  double error_p50 = 0, error_p90 = 0, error_max = 0;  ///< NaN where the output of some head is not finite
  double bytes = 0;         ///< keys and values a query read, where queries decode, all heads
  double reported_p90 = 0;  ///< relative error the method reports; 0: nothing
  double value_flops = 0;   ///< of these, spent on making value rows; 0 for methods that are given v
};

/// Everything a report says.
struct Comparison {
  const Inputs* inputs = nullptr;
  const std::vector<Measurement>* measurements = nullptr;
  const Settings* settings = nullptr;
  common::Machine machine;
  std::vector<Row> rows;
  std::size_t rounds = 0;
  double exact_low = 0, exact_high = 0;  ///< quartiles of exact's seconds
};

Comparison compare_methods(const Inputs& inputs, const std::vector<Measurement>& measurements, const Settings& settings,
                           const common::Machine& machine);

/// The methods whose output is not finite, each with its heads: "the result is not finite: exact-half (heads 0, 3)".
/// Empty where every output is finite.
std::string not_finite_text(const Comparison& comparison);

/// What the numbers say of these heads: the fastest method within 1% and within 10% of exact, if it is faster by more
/// than rounds differ.
std::string verdict_text(const Comparison& comparison);

/// "8 heads, n = 592, d = 64, causal (square), scale 0.125".
std::string problem_text(const Comparison& comparison);

/// What every report of generated inputs must say: nothing follows from their errors.
inline constexpr const char* generated_warning =
    "GENERATED random inputs, no model's: good for timing only. Random inputs invert the ranking of approximations.";

/// The table on stdout, at most 100 columns.
std::string table_text(const Comparison& comparison);

std::string json_text(const Comparison& comparison);

/// What a picture has on its horizontal axis.
enum class Against { time, flops };

/// Error against time or FLOPs, both logarithmic: a marker at the median over heads, a whisker up to the 90th
/// percentile. Against FLOPs only the methods that make their value rows are drawn, where there are some: all have the
/// same attention. A method whose output is not finite is named below and not drawn.
std::string svg_text(const Comparison& comparison, Against against);

/// The rows of one of several lengths.
struct LengthRows {
  Index n = 0;  ///< keys
  std::vector<Row> rows;
};

/// Two panels over the lengths, all logarithmic: the median error of a head, and how many times faster than exact
/// attention. A method is drawn where its error is finite and not 0; `inputs` are those of the last length.
std::string svg_over_lengths_text(const Inputs& inputs, const std::vector<LengthRows>& lengths,
                                  const common::Machine& machine);

}  // namespace compare
