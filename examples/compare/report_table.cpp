#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "../common/printf_text.hpp"
#include "report.hpp"

namespace compare {

using common::format;
namespace {

constexpr std::size_t columns = 100;

// Three digits and a unit: "361 M", "1.40 G".
std::string count_text(double count) {
  constexpr std::array<const char*, 6> units = {"  ", " k", " M", " G", " T", " P"};
  std::size_t unit = 0;
  for (; count >= 999.5 && unit + 1 < units.size(); ++unit) count /= 1000;
  const int digits = unit == 0 || count >= 99.95 ? 0 : count >= 9.995 ? 1 : 2;
  return format("%.*f%s", digits, count, units[unit]);
}

// Four digits or so, so that a column of milliseconds reads as one.
std::string time_text(double seconds) {
  const double ms = seconds * 1e3;
  return format("%.*f", ms >= 999.5 ? 0 : ms >= 99.95 ? 1 : ms >= 9.995 ? 2 : 3, ms);
}

std::string ratio_text(double ratio) {
  if (!(ratio > 0) || !std::isfinite(ratio)) return "-";
  return format(ratio < 99.95 ? "%.2fx" : "%.0fx", ratio);
}

std::string errors_text(const Row& row) {
  if (!std::isfinite(row.error_max)) return "not finite";
  return format("%9.2e %9.2e %9.2e", row.error_p50, row.error_p90, row.error_max);
}

// `text` in lines of at most `columns`, broken at spaces; all but the first begin with two spaces.
std::string wrapped(std::string_view text) {
  std::string lines;
  std::size_t line_width = 0;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    if (line_width > 0 && line_width + 1 + word.size() > columns) {
      lines += "\n  ";
      line_width = 2;
    } else if (line_width > 0) {
      lines += ' ';
      ++line_width;
    }
    lines += word;
    line_width += word.size();
  }
  return lines + "\n";
}

std::string row_text(const Row& row) {
  return format("%-19s %8s %7s %8s %10s %7s   %s\n", row.name.c_str(), count_text(row.flops).c_str(),
                ratio_text(row.fewer).c_str(), count_text(row.exponentials).c_str(), time_text(row.seconds).c_str(),
                ratio_text(row.faster).c_str(), errors_text(row).c_str());
}

// What methods that make their value rows spent on that, against the products of all real tokens and of all positions.
std::string values_text(const Comparison& comparison) {
  const Inputs& inputs = *comparison.inputs;
  std::string text;
  for (std::size_t m = 0; m < comparison.rows.size(); ++m) {
    const Row& row = comparison.rows[m];
    if (row.value_flops == 0) continue;
    const heed::FlopCounter& flops = (*comparison.measurements)[m].flops;
    const double per_token = 2.0 * static_cast<double>(inputs.heads.front().x->cols() * inputs.d_v());
    text += format(
        "%-19s %8s %7s %7s %10s   %s\n", row.name.c_str(), count_text(row.value_flops).c_str(),
        ratio_text(flops.real_tokens() * per_token / row.value_flops).c_str(),
        ratio_text(flops.padded_tokens() * per_token / row.value_flops).c_str(),
        format("%.0f%%", 100 * flops.sampled_rows() / std::max(1.0, flops.sampled_rows() + flops.projected_rows()))
            .c_str(),
        errors_text(row).c_str());
  }
  if (text.empty()) return "";
  return "\n" +
         format("%-19s %8s %7s %7s %10s   %s\n", "value rows", "FLOPs  ", "fewer", "fewer", "sampled",
                "relative error over heads") +
         format("%-19s %8s %7s %7s %10s   %9s %9s %9s\n", "", "", "(real)", "(padded)", "rows", "p50", "p90", "max") +
         text +
         wrapped(
             "value rows: products spent on making them (phases project and sample); times fewer than x w_v of all "
             "real "
             "tokens, and of all positions with padding; a row that is not sampled is the exact product, or 0.");
}

// What a query of a decoding read, and the error its method says it has.
std::string decoding_text(const Comparison& comparison) {
  if (!comparison.settings->decodes) return "";
  const double whole = comparison.rows.front().bytes;
  const auto queries = static_cast<double>(comparison.inputs->n_q());
  std::string text = "\n" + format("%-19s %10s %7s %10s %9s   %s\n", "one query", "bytes  ", "fewer", "time, us",
                                   "error p90", "reported p90");
  for (const Row& row : comparison.rows) {
    text += format("%-19s %10s %7s %10.1f %9.2e   %s\n", row.name.c_str(), count_text(row.bytes).c_str(),
                   ratio_text(whole / row.bytes).c_str(), row.seconds * 1e6 / queries, row.error_p90,
                   row.reported_p90 > 0 ? format("%.2e", row.reported_p90).c_str() : "-");
  }
  return text + wrapped(
                    "one query: bytes of keys and values read by one query of all heads, on average; reported: the "
                    "relative error the method says its output has.");
}

std::string tokens_text(const Comparison& comparison) {
  const heed::FlopCounter& flops = comparison.measurements->front().flops;
  if (flops.real_tokens() == flops.padded_tokens()) return "";
  const auto heads = static_cast<double>(comparison.inputs->heads.size());
  return wrapped(
      format("tokens: %.0f real of %.0f with padding; FLOPs count pairs with real keys only, errors real rows only.",
             flops.real_tokens() / heads, flops.padded_tokens() / heads));
}

}  // namespace

std::string table_text(const Comparison& comparison) {
  const Inputs& inputs = *comparison.inputs;
  std::string text;
  if (inputs.generated) text += wrapped(std::string("*** ") + generated_warning + " ***");
  text += wrapped(problem_text(comparison));
  std::string data = "data: " + inputs.source;
  for (const std::string& note : inputs.notes) data += "; " + note;
  text += wrapped(data) + "\n";
  text += format("%-19s %8s %7s %8s %10s %7s   %s\n", "", "", "times", "", "", "times", "relative error over heads");
  text += format("%-19s %8s %7s %8s %10s %7s   %9s %9s %9s\n", "method", "FLOPs  ", "fewer", "exps  ", "time, ms",
                 "faster", "p50", "p90", "max");
  for (std::size_t r = 0; r < comparison.rows.size(); ++r) {
    if (r > 0 && comparison.rows[r].family != comparison.rows[r - 1].family) text += "\n";
    text += row_text(comparison.rows[r]);
  }
  text += values_text(comparison);
  text += decoding_text(comparison);
  text += "\n" + tokens_text(comparison);
  text += wrapped("FLOPs: products of kept pairs, 2 per multiply-add, all heads. exps: exponentials. time: median of " +
                  std::to_string(comparison.rounds) + (comparison.rounds == 1 ? " round" : " rounds") +
                  ", one pass over all heads, methods taking turns; the middle half of exact's took " +
                  time_text(comparison.exact_low) + " to " + time_text(comparison.exact_high) +
                  " ms. times fewer, faster: than exact (float), faster in the middle round. error: |out - oracle| / "
                  "|oracle| of a head's output, Frobenius norm; oracle: heed's exact attention in double.");
  text += wrapped("machine: " + comparison.machine.text());
  text += "methods: compare --list-methods says what each of them is; --methods all runs every one\n";
  text += wrapped(verdict_text(comparison));
  if (inputs.generated) text += wrapped(std::string("*** ") + generated_warning + " ***");
  return text;
}

}  // namespace compare
