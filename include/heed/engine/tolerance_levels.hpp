#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "heed/core/types.hpp"

namespace heed::detail {

/// How much of a cache a query reads in full: what is left out may cost tau of the output at most, by a budget of
/// errors of random signs. The first levels do not even scan pages of which no key may be more than `skip` of the
/// answer. Level n_levels reads all.
struct ToleranceLevels {
  static constexpr Index n_skipping = 3, n_levels = 12;
  static constexpr std::array<double, n_levels> tau = {.05, .03, .015, .1, .05, .03, .02, .015, .01, .006, .004, .002};
  static constexpr std::array<double, n_skipping> skip = {.1, .03, .01};

  static constexpr bool skips(Index level) { return level < n_skipping; }
};

/// What queries of one head that were answered at every level have said of them. A budget of errors falls behind the
/// truth as contexts grow, so that levels are chosen, and errors reported, by what probes measure.
class ToleranceProbes {
 public:
  struct Probe {
    std::array<double, ToleranceLevels::n_levels> error{};      ///< |out - out of all keys|^2 / |out|^2 of each level,
                                                                ///< or the squared error of lse where that is more
    std::array<double, ToleranceLevels::n_levels> budget{};     ///< what the budget said of it
    std::array<double, ToleranceLevels::n_skipping> scanned{};  ///< share of the pages that are scanned
    double floor = 0;                                           ///< relative error of reading all in 8 bits
  };

  /// True for a query that should be a probe: 0, 1, 2, 4, 7, 12, ..., then every 61st, or every 13th while reports are
  /// past the tolerance. Both are prime: queries of several kinds that take turns, such as rows of a call, all meet
  /// probes. Tokens a quarter more than the last probe met are other tokens: probes begin anew, as often as at first.
  bool is_due(Index n_tokens) const { return n_queries_ >= next_ || has_grown(n_tokens); }

  /// `n_tokens`: of the cache that the probe met.
  void add(const Probe& probe, Index n_tokens) {
    if (has_grown(n_tokens)) first_ = n_queries_;
    n_tokens_ = n_tokens;
    last_ = n_queries_;
    next_ = n_queries_ + std::min(seldom, 1 + (n_queries_ - first_) * 5 / 8);
    double all = probe.floor;
    for (std::size_t level = 0; level < probe.error.size(); ++level) all += probe.error[level] + probe.budget[level];
    if (!std::isfinite(all)) return;  // a query with NaN teaches nothing
    recent_[static_cast<std::size_t>(n_probes_ % n_recent)] = probe;
    ++n_probes_;
  }
  /// Ends a query.
  void count_query() { ++n_queries_; }
  /// After a report past the tolerance a probe comes soon.
  void alarm() { next_ = std::min(next_, last_ + soon); }

  /// The cheapest level whose errors in probes meet `tolerance`; the last probe's must too, and reports nearly. Few
  /// probes do not suffice: until there are some tau must be half of it, and no page is left out until there are more.
  Index level_for(double tolerance) const {
    if (n_probes_ == 0) return ToleranceLevels::n_levels;
    for (std::size_t level = 0; level < last().error.size(); ++level) {
      const double floor = mean([](const Probe& probe) { return probe.floor * probe.floor; });
      const double error = likely_error(level);
      if (std::sqrt(2.25 * error + floor) > tolerance) continue;
      if (std::hypot(std::sqrt(last().error[level]), last().floor) > tolerance) continue;
      if (std::hypot(factor_of(static_cast<Index>(level)) * std::sqrt(budget_of(level)), std::sqrt(floor)) >
          room * tolerance)
        continue;
      if (ToleranceLevels::skips(static_cast<Index>(level)) && !may_skip(level)) continue;
      if (n_probes_ < enough && 2 * ToleranceLevels::tau[level] > tolerance) continue;
      return static_cast<Index>(level);
    }
    return ToleranceLevels::n_levels;
  }

  /// What the root of a level's budget is multiplied by to be a report: at least 2.
  double factor_of(Index level) const {
    const auto at = static_cast<std::size_t>(level);
    const double error = mean([&](const Probe& probe) { return probe.error[at]; });
    const double budget = budget_of(at);
    return budget > 0 ? std::max(2.0, 1.5 * std::sqrt(error / budget)) : 2.0;
  }
  /// Relative error of a query that was answered at `level`, but for that of reading all, where its own budget is
  /// `budget`. It is no less than what probes measured where budgets say little of a query: at levels that leave out
  /// pages, which have a share in it by the guess that left them out, and where probes erred far more than they said,
  /// as of the lse where values are much alike.
  double report_of(Index level, double budget) const {
    const auto at = static_cast<std::size_t>(level);
    const double own = factor_of(level) * std::sqrt(budget);
    const double measured = 1.5 * std::sqrt(mean([&](const Probe& probe) { return probe.error[at]; }));
    const bool says_little = ToleranceLevels::skips(level) || measured > 4 * std::sqrt(budget_of(at));
    return says_little ? std::max(own, measured) : own;
  }
  /// Relative error of reading all, as probes found it: of late, and no less than the last one did.
  double floor() const {
    if (n_probes_ == 0) return least_floor;
    return std::max(last().floor, std::sqrt(mean([](const Probe& probe) { return probe.floor * probe.floor; })));
  }

  /// The same where no query of these options can be a probe: no less than what 8 bits err on nearly all real heads.
  double unprobed_floor() const { return std::max(floor(), most_floor); }

  static constexpr double least_floor = .003;  ///< rounding a query errs for all keys alike

 private:
  static constexpr double most_floor = .012;
  static constexpr double room = 1.25;         // what a report may be past the tolerance
  static constexpr double most_scanned = 0.5;  // past it a skip saves too little for what it errs
  static constexpr Index n_recent = 16, enough = 4, enough_to_skip = 8, seldom = 61, soon = 13;

  bool has_grown(Index n_tokens) const { return n_tokens - n_tokens_ > n_tokens_ / 4; }
  const Probe& last() const { return recent_[static_cast<std::size_t>((n_probes_ - 1) % n_recent)]; }
  // The mean of squared errors and one standard error of it more: a few probes may have missed the worst queries.
  double likely_error(std::size_t level) const {
    const double error = mean([&](const Probe& probe) { return probe.error[level]; });
    const double square = mean([&](const Probe& probe) { return probe.error[level] * probe.error[level]; });
    const auto n = static_cast<double>(std::min(n_probes_, n_recent));
    return error + std::sqrt(std::max(0.0, square - error * error) / n);
  }
  bool may_skip(std::size_t level) const {
    return n_probes_ >= enough_to_skip && mean([&](const Probe& probe) { return probe.scanned[level]; }) < most_scanned;
  }
  double budget_of(std::size_t level) const {
    return mean([&](const Probe& probe) { return probe.budget[level]; });
  }
  template <class Of>
  double mean(const Of& of) const {
    const Index n = std::min(n_probes_, n_recent);
    double sum = 0;
    for (Index i = 0; i < n; ++i) sum += of(recent_[static_cast<std::size_t>(i)]);
    return n == 0 ? 0 : sum / static_cast<double>(n);
  }

  std::array<Probe, 16> recent_{};
  Index n_probes_ = 0, n_queries_ = 0, first_ = 0, next_ = 0, last_ = 0, n_tokens_ = 0;
};

}  // namespace heed::detail
