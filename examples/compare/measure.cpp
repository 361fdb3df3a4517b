#include "../common/printf_text.hpp"
#include "measure.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include <heed/heed.hpp>

namespace compare {

using common::format;
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

heed::Matrix<double> oracle(const Head& head, const Settings& settings) {
  const heed::Matrix<double> q = head.q->cast<double>();
  const heed::Matrix<double> k = head.k->cast<double>();
  const heed::Matrix<double> v = head.v->cast<double>();
  auto out = heed::attend(q, k, v, settings.options, heed::ExactAttention{}, {.threads = settings.threads}).out;
  if (!out.allFinite()) {
    throw heed::OptionError("heed: scale is " + format("%g", *settings.options.scale) + " but must be smaller: head " +
                            std::to_string(head.number) + " is not finite even in double");
  }
  return out;
}

// Rows of padding tokens are nobody's output: where queries and keys are the same tokens they are left out.
Index rows_that_count(const Head& head, const heed::Mask& mask) {
  const Index n_q = head.q->rows();
  return n_q == head.k->rows() ? std::min(n_q, mask.n_real_keys) : n_q;
}

double relative_error(const heed::Matrix<float>& out, const heed::Matrix<double>& want, Index rows) {
  const double size = want.topRows(rows).norm();
  const double off = (out.topRows(rows).cast<double>() - want.topRows(rows)).norm();
  if (!std::isfinite(off)) return std::numeric_limits<double>::quiet_NaN();
  if (size == 0) return off == 0 ? 0 : 1;
  return off / size;
}

// Attempts on every head of one method.
using Attempts = std::vector<std::unique_ptr<Attempt>>;

// Every head once. Where there are heads enough each thread takes its own, so that methods without threads of their own
// are not at a disadvantage; fewer heads are run one after the other, with all threads inside.
void pass(const Attempts& attempts, [[maybe_unused]] int threads) {
  const auto n_heads = static_cast<std::ptrdiff_t>(attempts.size());
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (n_heads >= threads && threads > 1)
  for (std::ptrdiff_t h = 0; h < n_heads; ++h) attempts[static_cast<std::size_t>(h)]->run(nullptr);
}

bool enough(std::size_t rounds, double spent, int repeats) {
  constexpr double budget_seconds = 3;
  if (repeats > 0) return rounds == static_cast<std::size_t>(repeats);
  return rounds >= 1001 || (rounds >= 3 && spent >= budget_seconds);
}

}  // namespace

std::vector<Measurement> measure(const Inputs& inputs, const std::vector<Method>& methods, const Settings& settings,
                                 int repeats, const Report& report) {
  std::vector<Measurement> results(methods.size());
  std::vector<Attempts> attempts(methods.size());
  for (std::size_t m = 0; m < methods.size(); ++m) results[m].method = methods[m];

  Settings inside = settings;  // threads within one head
  if (inputs.heads.size() >= static_cast<std::size_t>(settings.threads)) inside.threads = 1;

  // Errors and counts first: this also makes every buffer, so that the rounds below allocate nothing.
  const double steps = static_cast<double>(inputs.heads.size() * (methods.size() + 2));  // the oracle costs about two
  double step = 0;
  for (const Head& head : inputs.heads) {
    report("oracle and errors", step / steps);
    const heed::Matrix<double> want = oracle(head, settings);
    step += 2;
    const Index rows = rows_that_count(head, inputs.options.mask);
    for (std::size_t m = 0; m < methods.size(); ++m) {
      report("oracle and errors", step++ / steps);
      attempts[m].push_back(methods[m].bind(head, inside));
      attempts[m].back()->run(&results[m].flops);
      results[m].errors.push_back(relative_error(attempts[m].back()->out(), want, rows));
      results[m].decoding.push_back(attempts[m].back()->decoding());
    }
  }

  const auto start = Clock::now();
  for (std::size_t round = 0; !enough(round, seconds_since(start), repeats); ++round) {
    report("timed rounds",
           repeats > 0 ? static_cast<double>(round) / repeats : std::min(1.0, seconds_since(start) / 3));
    for (std::size_t m = 0; m < methods.size(); ++m) {
      const auto begin = Clock::now();
      pass(attempts[m], settings.threads);
      results[m].seconds.push_back(seconds_since(begin));
    }
  }
  report("done", 1);
  return results;
}

}  // namespace compare
