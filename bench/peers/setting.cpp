#include "peers/setting.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "support/fma_peak.hpp"
#include "support/gradient_oracle.hpp"
#include "support/inputs.hpp"
#include "support/oracle.hpp"

namespace heed_bench {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// heads x n x d into n x (heads d).
std::vector<float> packed_from(const std::vector<float>& planar, std::ptrdiff_t n, std::ptrdiff_t d,
                               std::ptrdiff_t heads) {
  std::vector<float> packed(planar.size());
  for (std::ptrdiff_t h = 0; h < heads; ++h)
    for (std::ptrdiff_t i = 0; i < n; ++i)
      std::copy_n(planar.data() + (h * n + i) * d, d, packed.data() + (i * heads + h) * d);
  return packed;
}

/// Operands of one shape, heads first, and packed too where an engine asks for that.
struct Inputs {
  struct Set {
    std::vector<float> q, k, v, d_out, packed_q, packed_k, packed_v, packed_d_out;
  };
  std::vector<Set> sets;

  Inputs(const Shape& shape, std::size_t count, bool packed) {
    const auto size = [&](std::ptrdiff_t n) { return static_cast<std::size_t>(n * shape.d * shape.n_heads); };
    for (std::size_t s = 0; s < count; ++s) {
      Set set;
      set.q = random_values(size(shape.n_q), 3 * s + 1);
      set.k = random_values(size(shape.n_k), 3 * s + 2);
      set.v = random_values(size(shape.n_k), 3 * s + 3);
      if (shape.backward) set.d_out = random_values(size(shape.n_q), 3 * s + 77);
      if (packed) {
        if (shape.backward) set.packed_d_out = packed_from(set.d_out, shape.n_q, shape.d, shape.n_heads);
        set.packed_q = packed_from(set.q, shape.n_q, shape.d, shape.n_heads);
        set.packed_k = packed_from(set.k, shape.n_k, shape.d, shape.n_heads);
        set.packed_v = packed_from(set.v, shape.n_k, shape.d, shape.n_heads);
      }
      sets.push_back(std::move(set));
    }
  }

  [[nodiscard]] std::vector<Operands> operands(Layout layout) const {
    std::vector<Operands> all;
    for (const Set& set : sets)
      all.push_back(layout == Layout::packed ? Operands{set.packed_q.data(), set.packed_k.data(), set.packed_v.data(),
                                                        set.packed_d_out.data()}
                                             : Operands{set.q.data(), set.k.data(), set.v.data(), set.d_out.data()});
    return all;
  }
};

/// The oracle's rows of set 0: computed once, compared with every engine.
struct Wanted {
  std::ptrdiff_t head, row;
  std::vector<double> out;
};

std::vector<Wanted> wanted_rows(const Inputs::Set& in, const Shape& shape) {
  std::vector<Wanted> wanted;
  for (const std::ptrdiff_t h : sample_rows(shape.n_heads, 3)) {
    const HeadRows<float> q{in.q.data() + h * shape.n_q * shape.d, shape.d},
        k{in.k.data() + h * shape.n_k * shape.d, shape.d}, v{in.v.data() + h * shape.n_k * shape.d, shape.d};
    const auto score = [&](std::ptrdiff_t i, std::ptrdiff_t j, double scaled) {
      return shape.causal && j > i ? -std::numeric_limits<double>::infinity() : scaled;
    };
    for (const std::ptrdiff_t i : sample_rows(shape.n_q, 24))
      wanted.push_back({h, i, oracle_row(q, k, v, i, shape.n_k, shape.d, shape.d, score)});
  }
  return wanted;
}

double largest_error(const std::vector<Wanted>& wanted, const std::vector<float>& out, const Shape& shape,
                     Layout layout) {
  double largest = 0;
  for (const Wanted& want : wanted) {
    const std::ptrdiff_t at = layout == Layout::packed ? (want.row * shape.n_heads + want.head) * shape.d
                                                       : (want.head * shape.n_q + want.row) * shape.d;
    const double error = row_error(out.data() + at, want.out);
    largest = error <= largest ? largest : error;  // a NaN is kept
  }
  return largest;
}

/// The same of gradients, of the first head.
double largest_gradient_error(const Inputs::Set& in, const std::vector<float>& out, const Shape& shape, Layout layout) {
  const std::ptrdiff_t d = shape.d, stride = layout == Layout::packed ? d * shape.n_heads : d;
  const float *d_q = out.data(), *d_k = d_q + shape.query_numbers(), *d_v = d_k + shape.key_numbers();
  const auto score = [&](std::ptrdiff_t i, std::ptrdiff_t j, double scaled) {
    return shape.causal && j > i ? -std::numeric_limits<double>::infinity() : scaled;
  };
  using Rows = HeadRows<float>;
  return gradient_error(Rows{in.d_out.data(), d}, Rows{in.q.data(), d}, Rows{in.k.data(), d}, Rows{in.v.data(), d},
                        Rows{d_q, stride}, Rows{d_k, stride}, Rows{d_v, stride}, shape.n_q, shape.n_q, d, score);
}

/// One engine at work on the setting.
struct Runner {
  Engine* engine;
  std::vector<float> out;
  std::size_t next_set = 0;
  std::size_t rounds_left;
  double first_call = 0;

  double trial(std::size_t n_sets, double least) {
    const auto call = [&] { engine->run(next_set++ % n_sets); };
    if (first_call < 0.25) call();  // threads are awake and caches warm then
    const auto begin = Clock::now();
    int calls = 0;
    double elapsed = 0;
    do {
      call();
      ++calls;
      elapsed = seconds_since(begin);
    } while (elapsed < least);
    return elapsed / calls;
  }
};

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

Setting measure(const std::vector<Engine*>& engines, const Shape& shape, const Arguments& arguments,
                const ReadBandwidth* dram) {
  Setting setting;
  setting.shape = shape;
  setting.decode = arguments.decode;
  // Beyond 128 MiB, sets of operands that make 1.5 GiB together are read in turn, so that no cache keeps one from a
  // call to the next.
  const double bytes = shape.key_value_bytes();
  if (arguments.decode && bytes > double(1 << 27))
    setting.sets = static_cast<std::size_t>(std::ceil(1.5 * double(1 << 30) / bytes));
  const bool packed =
      std::any_of(engines.begin(), engines.end(), [](Engine* e) { return e->layout() == Layout::packed; });
  const Inputs inputs(shape, setting.sets, packed);
  const auto wanted = shape.backward ? std::vector<Wanted>{} : wanted_rows(inputs.sets[0], shape);

  std::vector<Runner> runners;
  for (Engine* engine : engines) {
    if (engine->goes_backward() != shape.backward || !engine->supports(shape)) continue;
    const auto numbers = shape.query_numbers() + (shape.backward ? 2 * shape.key_numbers() : 0);
    Runner runner{engine, std::vector<float>(static_cast<std::size_t>(numbers)), 0,
                  static_cast<std::size_t>(arguments.rounds)};
    engine->prepare(shape, inputs.operands(engine->layout()), runner.out.data());
    engine->run(0);
    const auto begin = Clock::now();
    engine->run(0);
    runner.first_call = seconds_since(begin);
    if (runner.first_call > 3) runner.rounds_left = 1;  // one round tells enough of an engine so slow
    const Layout layout = engine->layout();
    const double error = shape.backward ? largest_gradient_error(inputs.sets[0], runner.out, shape, layout)
                                        : largest_error(wanted, runner.out, shape, layout);
    setting.rows.push_back({engine->name(), {}, engine->key_value_bytes(shape), error});
    runners.push_back(std::move(runner));
  }
  for (int round = 0; round < arguments.rounds; ++round) {
    setting.peak.push_back(fma_peak(Arithmetic::f32, shape.threads));
    if (dram != nullptr) setting.bandwidth.push_back(dram->measure(shape.threads));
    for (std::size_t r = 0; r < runners.size(); ++r) {
      if (runners[r].rounds_left == 0) continue;
      --runners[r].rounds_left;
      // The threads of the engine before this one spin for some milliseconds: let them fall asleep.
      if (shape.threads > 1) std::this_thread::sleep_for(std::chrono::milliseconds(15));
      setting.rows[r].seconds.push_back(runners[r].trial(setting.sets, arguments.seconds));
    }
  }
  for (const Runner& runner : runners) runner.engine->release();
  return setting;
}

}  // namespace heed_bench
