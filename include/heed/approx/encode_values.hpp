#pragma once
#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>

#include "heed/approx/encoding_weights.hpp"
#include "heed/approx/sample_plan.hpp"
#include "heed/approx/token_rows.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/matrix_product.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/sampling/monte_carlo_options.hpp"
#include "heed/sampling/row_encoder.hpp"

namespace heed::detail {

/// Makes value rows from a plan: exact heads by dense products, the others token by token from samples. A task is a
/// block of tokens and some of the heads. The row of a token depends on neither.
template <class S>
class ValueEncoding {
 public:
  using T = Accumulator<S>;

  /// `exact[kv]`: the head is multiplied exactly. `rows`: n_k x (n_kv * d_v), contiguous.
  ValueEncoding(const ConstView<S>& x, const MonteCarloOptions& options, const PlanArrays<T>& plan,
                const EncodingWeights<S>& weights, const unsigned char* exact, Index n_real, S* rows,
                Workspace& workspace, int threads)
      : x_(x),
        row_stride_(weights.d_v() * plan.n_kv),
        options_(options),
        plan_(plan),
        exact_(exact),
        n_real_(n_real),
        rows_(rows),
        weights_(weights),
        frame_(workspace),
        threads_(threads),
        isa_(active_isa()),
        d_v_(weights_.d_v()) {}

  void run() {
    const Index n_blocks = (plan_.n_k + block_tokens - 1) / block_tokens;
    // Where blocks are too few for the threads, heads are split into parts; each part reads the rows of its block.
    const Index n_parts = threads_ > 1 ? std::clamp<Index>((2 * threads_ + n_blocks - 1) / n_blocks, 1, plan_.n_kv) : 1;
    for_each_task(
        n_blocks * n_parts, threads_, frame_, [&](Scratch& scratch) { return Worker(scratch, x_.cols, d_v_, isa_); },
        [&](Worker& worker, Index task) {
          const Index part = task % n_parts, first = task / n_parts * block_tokens;
          block(worker, first, std::min(block_tokens, plan_.n_k - first), part * plan_.n_kv / n_parts,
                (part + 1) * plan_.n_kv / n_parts);
        });
  }

  /// Adds what run() multiplies, and the rows it makes.
  void count(FlopCounter& flops) const {
    const double d_in = static_cast<double>(plan_.d_in), d_v = static_cast<double>(d_v_);
    double samples = 0, multiplied = 0, means = 0, sampled_rows = 0;
    for (Index kv = 0; kv < plan_.n_kv; ++kv) {
      if (exact_[kv] != 0) {
        multiplied += static_cast<double>(n_real_);
        continue;
      }
      means += plan_.centred ? static_cast<double>(plan_.n_sequences) : 0.0;
      for (Index j = 0; j < plan_.n_k; ++j) {
        const Index r = plan_.counts[kv * plan_.n_k + j];
        multiplied += r >= plan_.d_in ? 1 : 0;
        sampled_rows += r > 0 && r < plan_.d_in ? 1 : 0;
        samples += r < plan_.d_in ? static_cast<double>(r) : 0.0;
      }
    }
    // Each token that chooses its own products first multiplies |x_k| |W_k|.
    const double chosen = options_.estimator == Estimator::with_replacement ? 0.0 : sampled_rows;
    flops.add_products(Phase::sample, 2.0 * samples * d_v);
    flops.add_products(Phase::project, 2.0 * (multiplied + means) * d_in * d_v);
    flops.add_products(Phase::route, 2.0 * chosen * d_in);
    flops.add_value_rows(sampled_rows, multiplied);
  }

 private:
  // Scratch of one thread that makes rows.
  struct Worker {
    Worker(Scratch& scratch, Index d_in, Index d_v, Isa isa)
        : panel(scratch, d_in, isa), encoder(scratch, d_in, d_v, isa) {
      row = (d_in + 15) / 16 * 16;
      rows = scratch.take<T>(block_tokens * row);
      groups = scratch.take<T>(block_tokens * d_in);
      value = scratch.take<T>(block_tokens * d_v);
      y = scratch.take<const T*>(block_tokens);
      tokens = scratch.take<EncodeToken<T>>(block_tokens);
      list = scratch.take<Index>(block_tokens);
    }
    DensePanel<S> panel;
    RowEncoder<T> encoder;
    Index row;               // entries from one of `rows` to the next
    T *rows, *groups;        // rows of x as they are sampled: one after the other, and those of a group side by side
    T* value;                // value rows in the accumulator, where they are stored in less
    const T** y;             // where the row of each token lies; null: no head samples it
    EncodeToken<T>* tokens;  // the sampled ones of a head, or of a group
    Index* list;             // tokens that a head multiplies exactly
  };

  void block(Worker& worker, Index first, Index n, Index first_kv, Index last_kv) {
    bool some_sampled = false, all_sampled = true;
    for (Index kv = first_kv; kv < last_kv; ++kv) {
      some_sampled = some_sampled || exact_[kv] == 0;
      all_sampled = all_sampled && exact_[kv] == 0;
    }
    if (!all_sampled) multiply_block(worker, first, n, first_kv, last_kv);
    if (!some_sampled) return;
    read_rows(worker, first, n, first_kv, last_kv);
    bool chosen = false;
    for (Index kv = first_kv; kv < last_kv; ++kv) {
      if (exact_[kv] == 0) sample_block(worker, first, n, kv, chosen);
    }
  }

  // Rows of exact heads. Padding is not read: its rows are 0.
  void multiply_block(Worker& worker, Index first, Index n, Index first_kv, Index last_kv) {
    const Index width = DensePanel<S>::width(isa_), end = std::min(first + n, std::max(first, n_real_));
    for (Index at = first; at < end; at += width) {
      worker.panel.begin(x_, TokenSet{at, std::min(width, end - at)});
      for (Index kv = first_kv; kv < last_kv; ++kv) {
        if (exact_[kv] != 0) multiply(worker, kv);
      }
    }
    for (Index j = end; j < first + n; ++j) {
      for (Index kv = first_kv; kv < last_kv; ++kv) {
        if (exact_[kv] != 0) std::fill(row_of(kv, j), row_of(kv, j) + d_v_, S(0));
      }
    }
  }

  void multiply(Worker& worker, Index kv) {
    worker.panel.multiply(weights_.blocks(kv), Index(0), d_v_, weights_.bias(kv),
                          View<S>{rows_ + kv * d_v_, plan_.n_k, d_v_, row_stride_, 1});
  }

  // Rows of x, less the mean row, of tokens that some head samples: one after the other, or, where groups share draws,
  // transposed a group at a time.
  void read_rows(Worker& worker, Index first, Index n, Index first_kv, Index last_kv) {
    const T** const y = worker.y;
    const TokenRows<S> rows(x_, isa_);
    const bool grouped = options_.estimator == Estimator::with_replacement;
    for (Index t = 0; t < n; ++t) {
      y[t] = nullptr;
      bool sampled = false;
      for (Index kv = first_kv; kv < last_kv && !sampled; ++kv) sampled = exact_[kv] == 0 && samples(kv, first + t);
      if (!sampled) continue;
      T* room = worker.rows + t * worker.row;
      y[t] = rows.row(first + t, room);
      if (!plan_.centred) continue;
      project_kernels<T>(isa_).centre(plan_.d_in, y[t], plan_.means + plan_.sequence[first + t] * plan_.d_in, room);
      y[t] = room;
    }
    if (!grouped) return;
    for (Index g = 0; g < block_groups; ++g) {
      const T* members[group_tokens];
      T* panel = worker.groups + g * plan_.d_in * group_tokens;
      Index size = 0;
      for (Index t = g; size < group_tokens && t < n; t = group_member(g, size)) {
        members[size] = y[t];
        y[t] = y[t] == nullptr ? nullptr : panel + size;
        ++size;
      }
      project_kernels<T>(isa_).interleave(plan_.d_in, members, size, panel, group_tokens);
    }
  }

  bool samples(Index kv, Index j) const {
    const Index r = plan_.counts[kv * plan_.n_k + j];
    return r > 0 && r < plan_.d_in;
  }

  // `chosen`: the heads of this block share one choice of products, and it has been made.
  void sample_block(Worker& worker, Index first, Index n, Index kv, bool& chosen) {
    const Index* counts = plan_.counts + kv * plan_.n_k;
    const T* const* const y = worker.y;
    EncodeToken<T>* const tokens = worker.tokens;
    Index n_exact = 0;
    for (Index t = 0; t < n; ++t) {
      const Index j = first + t;
      if (counts[j] >= plan_.d_in) {
        worker.list[n_exact++] = j;
      } else if (counts[j] == 0) {
        const T* base = base_of(kv, j);
        for (Index c = 0; c < d_v_; ++c) row_of(kv, j)[c] = static_cast<S>(base[c]);
      }
    }
    const Index width = DensePanel<S>::width(isa_);
    for (Index at = 0; at < n_exact; at += width) {
      worker.panel.begin(x_, TokenSet{0, std::min(width, n_exact - at), worker.list + at});
      multiply(worker, kv);
    }
    const auto base_row = [&](Index j) { return base_of(kv, j); };
    if (options_.estimator != Estimator::with_replacement) {
      Index size = 0;
      for (Index t = 0; t < n; ++t) {
        if (samples(kv, first + t))
          tokens[size++] = {first + t, counts[first + t], y[t], target(worker, kv, first, t),
                            plan_.floors[kv * plan_.n_k + first + t]};
      }
      const std::span<const EncodeToken<T>> sampled(tokens, static_cast<std::size_t>(size));
      if (!chosen) {
        worker.encoder.choose(options_.estimator, weights_.norms(kv), sampled, options_.seed, draw_stream(kv, 0));
        chosen = weights_.share_choice();
      }
      worker.encoder.encode_chosen(weights_.rows(kv), sampled, base_row);
      for (Index t = 0; t < size; ++t) store(tokens[t], kv);
      return;
    }
    for (Index g = 0; g < block_groups; ++g) {
      Index size = 0;
      for (Index lane = 0; lane < group_tokens && group_member(g, lane) < n; ++lane) {
        const Index t = group_member(g, lane);
        if (samples(kv, first + t)) tokens[size++] = {first + t, counts[first + t], y[t], target(worker, kv, first, t)};
      }
      worker.encoder.with_replacement(weights_.rows(kv), {tokens, static_cast<std::size_t>(size)}, group_tokens,
                                      options_.seed, draw_stream(kv, first / block_tokens * block_groups + g),
                                      base_row);
      for (Index t = 0; t < size; ++t) store(tokens[t], kv);
    }
  }

  // Where the encoder writes: the row itself, or the accumulator where rows are stored in less.
  T* target(Worker& worker, Index kv, Index first, Index t) {
    if constexpr (std::is_same_v<S, T>) {
      return row_of(kv, first + t);
    } else {
      return worker.value + t * d_v_;
    }
  }
  void store(const EncodeToken<T>& token, Index kv) {
    if constexpr (!std::is_same_v<S, T>) {
      for (Index c = 0; c < d_v_; ++c) row_of(kv, token.token)[c] = static_cast<S>(token.to[c]);
    }
  }

  S* row_of(Index kv, Index j) const { return rows_ + j * row_stride_ + kv * d_v_; }
  const T* base_of(Index kv, Index j) const { return weights_.base(plan_.sequence[j], kv); }

  ConstView<S> x_;
  Index row_stride_;
  const MonteCarloOptions& options_;
  const PlanArrays<T>& plan_;
  const unsigned char* exact_;
  Index n_real_;
  S* rows_;
  const EncodingWeights<S>& weights_;
  Workspace::Frame frame_;
  int threads_;
  Isa isa_;
  Index d_v_;
};

}  // namespace heed::detail
