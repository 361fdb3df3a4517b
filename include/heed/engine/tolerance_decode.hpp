#pragma once
#include <algorithm>
#include <cmath>
#include <new>
#include <span>

#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/options.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/int8_row_operands.hpp"
#include "heed/engine/detail/score_rule.hpp"
#include "heed/engine/detail/softmax_state.hpp"
#include "heed/engine/detail/write_out.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/int8_rows.hpp"
#include "heed/engine/page_look.hpp"
#include "heed/engine/partial_pages.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/engine/tolerance_levels.hpp"
#include "heed/engine/tolerance_row.hpp"
#include "heed/engine/tolerance_scan.hpp"

namespace heed::detail {

/// What a head wants of a query: the answer of a level; or, its output being that of all keys already, what every level
/// would have said.
struct ToleranceWish {
  Index level = 0;
  bool is_probe = false;
};
/// What it got.
struct ToleranceAnswer {
  bool found = true;     ///< false: the level has no answer
  double budget = 0;     ///< squared relative error, by the budget
  double floor = 0;      ///< relative error of reading all in 8 bits
  double keys_read = 0;  ///< in full
  double pages = 0;      ///< scanned
  ToleranceProbes::Probe probe{};
};

/// One query of several heads over an 8-bit cache, to a tolerance. Pages wholly within the keys the query sees are
/// scanned, but for those a head's level leaves out; other keys are read in full. Work is cut into chunks of pages and
/// heads, by shapes alone.
template <class Call>
class ToleranceDecode {
 public:
  /// The pages a query that sees keys [low, high) would scan.
  struct Reach {
    Index low, high, first_page, end_page;
    Reach(const Int8Rows& tokens, const KeyRange& range) : low(range.low), high(range.high) {
      const Index page = Int8Layout::keys, first = Int8Rows::n_first;
      first_page = (std::max(low, first) - first + page - 1) / page;
      end_page = std::max(first_page, (std::clamp(high, first, std::max(first, tokens.pages_end())) - first) / page);
    }
    Index n_pages() const { return end_page - first_page; }
    /// True where keys in 8 bits lie outside the pages to scan.
    bool cuts(const Int8Rows& tokens) const {
      const Index from = Int8Rows::n_first + first_page * Int8Layout::keys;
      return std::max(low, Int8Rows::n_first) < std::min(high, from) ||
             from + n_pages() * Int8Layout::keys < std::min(high, tokens.pages_end());
    }
  };

  /// `calls` of one query each; wishes and answers one a call. Heads that share keys are neighbours.
  ToleranceDecode(std::span<const Call> calls, Index heads_per_kv, const Reach& reach, const AttentionOptions& options,
                  std::span<const ToleranceWish> wishes, std::span<ToleranceAnswer> answers, Workspace& workspace,
                  int threads)
      : calls_(calls),
        per_kv_(heads_per_kv),
        reach_(reach),
        options_(options),
        wishes_(wishes),
        answers_(answers),
        frame_(workspace),
        threads_(threads),
        isa_(active_isa()) {}

  void run() {
    const Index n = static_cast<Index>(calls_.size());
    queries_ = frame_.template take<ScanQuery>(n);
    scans_ = frame_.template take<PageScan>(n);
    exact_ = frame_.template take<SoftmaxState<float>>(n);
    partial_ = frame_.template take<PartialPages>(n);
    const Int8Layout& layout = tokens_of(0).layout;
    Scratch measure;
    PageScan(measure, reach_.first_page, reach_.end_page, layout.d_v);
    const Index v_width = (layout.d_v + 15) / 16 * 16;
    SoftmaxState<float>(measure, 1, v_width);
    const Index bytes = static_cast<Index>(measure.used());
    std::byte* memory = frame_.template take<std::byte>(bytes * n);
    const Index q_width = layout.d_padded + 16;
    float* q = frame_.template take<float>(n * q_width);
    std::int8_t* whole = frame_.template take<std::int8_t>(n * layout.d_padded);
    for (Index h = 0; h < n; ++h) {
      Scratch scratch(memory + bytes * h);
      new (scans_ + h) PageScan(scratch, reach_.first_page, reach_.end_page, layout.d_v);
      new (exact_ + h) SoftmaxState<float>(scratch, 1, v_width);
      const ScoreRule<float> rule(options_, layout.d, call(h).head, false);
      float* own = q + h * q_width;
      std::fill_n(own, q_width, 0.0f);
      for (Index c = 0; c < layout.d; ++c) own[c] = static_cast<float>(call(h).q(0, c)) * rule.query_factor;
      new (queries_ + h)
          ScanQuery{quantised_query(own, layout.d, layout.d_padded, whole + h * layout.d_padded), rule.softmax_factor};
    }
    for_each_task(
        n, threads_, frame_, [&](Scratch& scratch) { return Opener(scratch, reach_.n_pages(), layout, isa_); },
        [&](Opener& opener, Index h) { open(opener, h); });
    scan_pages(n);
    for_each_task(
        n, threads_, frame_, [&](Scratch& scratch) { return Worker(scratch, reach_, layout, isa_); },
        [&](Worker& worker, Index h) { answer(worker, h); });
  }

 private:
  struct Opener {
    Opener(Scratch& scratch, Index pages, const Int8Layout& layout, Isa isa)
        : look(scratch, pages, layout, isa),
          operands(scratch, most_exact, 1, layout.d, layout.d_v, isa),
          s(scratch.take<float>(most_exact + 16)) {}
    PageLook look;
    RowOperands<float, Int8> operands;
    float* s;
  };
  struct Worker {
    Worker(Scratch& scratch, const Reach& reach, const Int8Layout& layout, Isa isa)
        : row(scratch, reach.n_pages(), layout, isa),
          scanner(scratch, isa),
          some(scratch, reach.first_page, reach.end_page, layout.d_v) {}
    ToleranceRow row;
    PageScanner scanner;
    PageScan some;  // of a probe at a level that skips
  };
  // At most the first tokens, a page cut at each end, and the newest.
  static constexpr Index most_exact = 256;

  const Call& call(Index h) const { return calls_[static_cast<std::size_t>(h)]; }
  const Int8Rows& tokens_of(Index h) const { return *call(h).k.tokens; }

  void scan_pages(Index n) {
    // Neighbours with the same keys, up to four of them.
    Index* first = frame_.template take<Index>(n + 1);
    Index n_groups = 0;
    for (Index h = 0; h < n; ++h) {
      const bool joins = n_groups > 0 && call(h).head / per_kv_ == call(first[n_groups - 1]).head / per_kv_ &&
                         h - first[n_groups - 1] < PageScanner::max_heads;
      if (!joins) first[n_groups++] = h;
    }
    first[n_groups] = n;
    const Index n_chunks = scans_[0].n_chunks();
    for_each_task(
        n_groups * n_chunks, threads_, frame_, [&](Scratch& scratch) { return PageScanner(scratch, isa_); },
        [&](PageScanner& scanner, Index task) {
          const Index from = first[task / n_chunks], count = first[task / n_chunks + 1] - from;
          PageScan* own[PageScanner::max_heads];
          for (Index h = 0; h < count; ++h) own[h] = scans_ + from + h;
          scanner.run(tokens_of(from), queries_ + from, count, task % n_chunks, own);
        });
  }

  // What is read exactly, and which pages are to be scanned.
  void open(Opener& opener, Index h) {
    const ToleranceWish& wish = wishes_[static_cast<std::size_t>(h)];
    PageScan& scan = scans_[h];
    read_exactly(opener, h);
    const bool skips = ToleranceLevels::skips(wish.level);
    if (tokens_of(h).variances != nullptr && (wish.is_probe || skips))
      opener.look.run(tokens_of(h), queries_[h], scale_of(h), exact_[h], scan);
    scan.want(skips && !wish.is_probe ? ToleranceLevels::skip[static_cast<std::size_t>(wish.level)] : -1);
  }

  // What every level that skips would have said.
  void probe_skips(Worker& worker, Index h) {
    const PageScan& all = scans_[h];
    ToleranceProbes::Probe& probe = answers_[static_cast<std::size_t>(h)].probe;
    for (std::size_t level = 0; level < probe.scanned.size(); ++level) {
      probe.error[level] = probe.scanned[level] = 1;  // unless something is known of pages
      if (!all.has_guesses) continue;
      worker.scanner.leave_out(tokens_of(h), queries_[h], ToleranceLevels::skip[level], all, worker.some);
      worker.row.begin(tokens_of(h), queries_[h], scale_of(h), exact_[h], partial_[h], worker.some);
      const auto [bin, budget] = worker.row.cut_for(ToleranceLevels::tau[level]);
      worker.row.read(bin, ToleranceRow::n_bins);
      probe.budget[level] = budget;
      probe.error[level] = error_of(worker.row, call(h));
      probe.scanned[level] = static_cast<double>(worker.some.n_scanned()) / static_cast<double>(reach_.n_pages());
    }
  }

  void answer(Worker& worker, Index h) {
    const Int8Rows& tokens = tokens_of(h);
    const auto at = static_cast<std::size_t>(h);
    ToleranceRow& row = worker.row;
    ToleranceAnswer& answer = answers_[at];
    answer.pages = static_cast<double>(scans_[h].n_scanned());
    if (wishes_[at].is_probe) probe_skips(worker, h);
    row.begin(tokens, queries_[h], scale_of(h), exact_[h], partial_[h], scans_[h]);
    answer.floor = std::hypot(ToleranceProbes::least_floor, std::sqrt(row.floor_square()));
    Index read_from = ToleranceRow::n_bins;
    if (wishes_[at].is_probe) {
      for (std::size_t level = ToleranceLevels::n_skipping; level < answer.probe.error.size(); ++level) {
        const auto [bin, budget] = row.cut_for(ToleranceLevels::tau[level]);
        row.read(bin, std::exchange(read_from, bin));
        answer.probe.budget[level] = budget;
        answer.probe.error[level] = error_of(row, call(h));
      }
      answer.probe.floor = answer.floor;
    } else {
      const auto [bin, budget] = row.cut_for(ToleranceLevels::tau[static_cast<std::size_t>(wishes_[at].level)]);
      row.read(bin, read_from);
      answer.budget = budget;
      answer.found = row.is_sound();
      if (answer.found) write_out(call(h), {0, 1}, row.answer(), options_.sinks, isa_);
    }
    answer.keys_read =
        static_cast<double>(row.keys_read() + reach_.high - reach_.low - reach_.n_pages() * Int8Layout::keys);
  }

  // What multiplies the scores of a head.
  float scale_of(Index h) const { return queries_[h].factor / static_cast<float>(ScoreRule<float>::log2_e); }

  // What lies outside the pages to scan.
  void read_exactly(Opener& opener, Index h) const {
    const Int8Rows& tokens = tokens_of(h);
    const Int8Layout& layout = tokens.layout;
    SoftmaxState<float>& state = exact_[h];
    state.clear();
    state.factor = queries_[h].factor;
    const float* q = queries_[h].query.q;
    opener.operands.begin(call(h).k, q, layout.d_padded + 16, 1, scale_of(h));
    const Index begin = Int8Rows::n_first + reach_.first_page * Int8Layout::keys;
    const Index end = Int8Rows::n_first + reach_.end_page * Int8Layout::keys;
    const Index before = begin - reach_.low, behind = reach_.high - end;
    float* s = opener.s;
    opener.operands.scores(call(h).k, reach_.low, before, q, layout.d_padded, 1, s, most_exact);
    opener.operands.scores(call(h).k, end, behind, q, layout.d_padded, 1, s + before, most_exact);
    const TileKernels<float>& tiles = tile_kernels<float>(isa_);
    state.m[0] = tiles.row_top(before + behind, s, minus_infinity<float>);
    state.l[0] = tiles.row_weigh(before + behind, state.factor, is_minus_infinity(state.m[0]) ? 0.0f : state.m[0], s);
    new (partial_ + h) PartialPages;
    for (Index i = 0; i < before + behind; ++i) {
      const Index j = i < before ? reach_.low + i : end + i - before;
      if (j >= Int8Rows::n_first && j < tokens.pages_end())
        partial_[h].add((j - Int8Rows::n_first) / Int8Layout::keys, s[i]);
    }
    const float one = 1;
    opener.operands.add_values(call(h).v, reach_.low, 0, before, s, most_exact, 1, &one, state.out, state.d_v);
    opener.operands.add_values(call(h).v, end, 0, behind, s + before, most_exact, 1, &one, state.out, state.d_v);
  }

  // The denominator of a softmax, in units of its largest weight.
  double mass_of(const SoftmaxState<float>& some, const Call& call) const {
    const auto mass = static_cast<double>(some.l[0]);
    if (!options_.sinks.given()) return mass;
    const float sink = score_of_sink(options_.sinks.of(call.head), some.factor);
    return mass +
           std::exp2(static_cast<double>(some.factor) * (static_cast<double>(sink) - static_cast<double>(some.m[0])));
  }
  // Squared relative error of an answer against all keys: of the row, or of its denominator where that is more. An
  // output of values that are much alike may hide it, and those who merge answers by their lse would not.
  double error_of(ToleranceRow& row, const Call& call) const {
    if (!row.is_sound()) return 1;
    const SoftmaxState<float> some = row.answer();
    return std::max(error_of_out(some, call), error_of_lse(some, call));
  }
  double error_of_lse(const SoftmaxState<float>& some, const Call& call) const {
    if (call.lse == nullptr) return 0;
    const double lse = static_cast<double>(some.factor) * static_cast<double>(some.m[0]) * std::log(2.0) +
                       std::log(mass_of(some, call));
    return std::pow(lse - static_cast<double>(*call.lse), 2);
  }
  double error_of_out(const SoftmaxState<float>& some, const Call& call) const {
    const double mass = mass_of(some, call);
    double square = 0, error = 0;
    for (Index c = 0; c < some.d_v; ++c) {
      const double exact = static_cast<double>(static_cast<float>(call.out(0, c)));
      square += exact * exact;
      error += std::pow(static_cast<double>(some.out[c]) / mass - exact, 2);
    }
    return square > 0 ? error / square : 0;
  }

  std::span<const Call> calls_;
  Index per_kv_;
  Reach reach_;
  const AttentionOptions& options_;
  std::span<const ToleranceWish> wishes_;
  std::span<ToleranceAnswer> answers_;
  Workspace::Frame frame_;
  int threads_;
  Isa isa_;
  ScanQuery* queries_ = nullptr;
  PageScan* scans_ = nullptr;
  SoftmaxState<float>* exact_ = nullptr;
  PartialPages* partial_ = nullptr;
};

}  // namespace heed::detail
