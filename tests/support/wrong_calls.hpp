#pragma once
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <Eigen/Core>

#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/method_case.hpp"

namespace heed::test {

/// What a call is made of: 6 queries (or none), 9 keys, d = 4, d_v = 3, one head. Outputs hold NaN until they are
/// written.
struct Operands {
  explicit Operands(Index n_q)
      : q(random_matrix<float>(n_q, 4, 1)),
        out(Matrix<float>::Constant(n_q, 3, nan_of<float>())),
        lse(Vector<float>::Constant(n_q, nan_of<float>())),
        d_q(Matrix<float>::Constant(n_q, 4, nan_of<float>())),
        d_k(Matrix<float>::Constant(9, 4, nan_of<float>())),
        d_v(Matrix<float>::Constant(9, 3, nan_of<float>())) {}

  Matrix<float> q, k = random_matrix<float>(9, 4, 2), v = random_matrix<float>(9, 3, 3);
  Matrix<float> weights = Matrix<float>::Identity(3, 3);  ///< values made during the call are v times these
  Matrix<float> out;
  Vector<float> lse;
  Matrix<float> d_q, d_k, d_v;  ///< what attend_backward_into writes
  AttentionOptions options;
  Context context;
  PairMatrix allowed;
  Matrix<float> bias;
  std::vector<double> numbers;
  std::vector<Index> offsets, key_offsets;
};

/// True while nothing was written.
template <class M>
bool untouched(const M& m) {
  for (Index i = 0; i < m.size(); ++i) {
    if (!same_bits(m.data()[i], nan_of<float>())) return false;
  }
  return true;
}

inline bool untouched(const Operands& o) {
  return untouched(o.out) && untouched(o.lse) && untouched(o.d_q) && untouched(o.d_k) && untouched(o.d_v);
}

/// What a door takes, and a wrong call is wrong in.
enum Part : unsigned { scales = 1, scores = 2, masks = 4, contexts = 8, operands = 16, values = 32, heads = 64 };

enum class Thrown { shape, option };

struct WrongCall {
  unsigned parts;                 ///< all of them, for a door to be asked
  std::vector<std::string> said;  ///< argument, value, requirement
  std::function<void(Operands&)> make_wrong;
  Thrown thrown = Thrown::option;
};

inline std::vector<WrongCall> wrong_scores() {
  using Change = std::function<void(Operands&)>;
  const auto scale = [](double x) -> Change { return [x](Operands& o) { o.options.scale = x; }; };
  const auto softcap = [](double x) -> Change { return [x](Operands& o) { o.options.softcap = x; }; };
  const auto sinks = [](double x) -> Change { return [x](Operands& o) { o.options.sinks = x; }; };
  const double nan = nan_of<double>(), infinity = infinity_of<double>(), minus_infinity = minus_infinity_of<double>();
  const std::string most = "must be at most 3.40282e+38 in size", least = "must be 0 or more than 7.00649e-46 in size";
  return {
      {scales, {"AttentionOptions::scale", "must be finite"}, scale(nan)},
      {scales, {"AttentionOptions::scale", "must be finite"}, scale(minus_infinity)},
      {scales, {"AttentionOptions::scale = 1e+39", most}, scale(1e39)},
      {scales, {"AttentionOptions::scale = 1e-50", least}, scale(1e-50)},
      {scores, {"AttentionOptions::softcap = 0", "must be > 0"}, softcap(0.0)},
      {scores, {"AttentionOptions::softcap = -2.5", "must be > 0"}, softcap(-2.5)},
      {scores, {"AttentionOptions::softcap", "must be > 0 and finite"}, softcap(infinity)},
      {scores, {"AttentionOptions::softcap = 1e+39", most}, softcap(1e39)},
      {scores, {"AttentionOptions::softcap = 1e-46", least}, softcap(1e-46)},
      {scores, {"AttentionOptions::softcap = 1e-40", "scale / softcap must be at most"}, softcap(1e-40)},
      {scores, {"AttentionOptions::sinks of head 0", "must be finite"}, sinks(nan)},
      {scores, {"AttentionOptions::sinks of head 0", "must be finite"}, sinks(infinity)},
      {scores, {"AttentionOptions::sinks of head 0 = 1e+39", most}, sinks(1e39)},
      {scores, {"AttentionOptions::sinks of head 0 = -1e+39", most}, sinks(-1e39)},
      {scores, {"AttentionOptions::sinks of head 0 = 1e-50", least}, sinks(1e-50)},
      {scores | heads,
       {"AttentionOptions::sinks has 3 values", "must have one"},
       [](Operands& o) {
         o.options.sinks = o.numbers = {0.5, 0.25, 1.0};
       }},
  };
}

inline std::vector<WrongCall> wrong_masks() {
  using Change = std::function<void(Operands&)>;
  using O = Operands;
  const auto slope = [](double x) -> Change { return [x](O& o) { o.options.mask.alibi_slope = x; }; };
  const auto offsets = [](std::vector<Index> list) -> Change {
    return [list](O& o) { o.options.mask.sequence_offsets = o.offsets = list; };
  };
  const auto allowed = [](Index rows, Index cols) -> Change {
    return [=](O& o) { o.options.mask.allowed = o.allowed = PairMatrix::Constant(rows, cols, true); };
  };
  const auto bias = [](Index rows, Index cols) -> Change {
    return [=](O& o) { o.options.mask.bias = o.bias = Matrix<float>::Zero(rows, cols); };
  };
  return {
      {masks | heads,
       {"Mask::alibi_slope has 2 values", "must have one"},
       [](O& o) {
         o.options.mask.alibi_slope = o.numbers = {0.5, 0.25};
       }},
      {masks, {"Mask::alibi_slope of head 0", "must be finite"}, slope(nan_of<double>())},
      {masks, {"Mask::alibi_slope of head 0 = 1e+39", "must be at most"}, slope(1e39)},
      {masks, {"Mask::alibi_slope of head 0 = -1e-50", "must be 0 or more than"}, slope(-1e-50)},
      {masks, {"Mask::alibi_slope of head 0 = 3e+38", "a score of every distance"}, slope(3e38)},
      {masks, {"Mask::window_left = -1", "must be >= 0"}, [](O& o) { o.options.mask.window_left = -1; }},
      {masks, {"Mask::window_right = -3", "must be >= 0"}, [](O& o) { o.options.mask.window_right = -3; }},
      {masks, {"Mask::n_real_keys = -1", "must be >= 0"}, [](O& o) { o.options.mask.n_real_keys = -1; }},
      {masks, {"Mask::n_real_keys = 10", "must be <= rows(k) = 9"}, [](O& o) { o.options.mask.n_real_keys = 10; }},
      {masks,
       {"Mask::causal = Causal::square", "rows(k) = 9", "name the corner"},
       [](O& o) { o.options.mask.causal = Causal::square; }},
      {masks, {"rows(mask.allowed) = 7", "must be rows(q)"}, allowed(7, 9), Thrown::shape},
      {masks, {"cols(mask.allowed) = 8", "must be rows(k) = 9"}, allowed(6, 8), Thrown::shape},
      {masks, {"rows(mask.bias) = 7", "must be rows(q)"}, bias(7, 9), Thrown::shape},
      {masks, {"cols(mask.bias) = 6", "must be rows(k) = 9"}, bias(6, 6), Thrown::shape},
      {masks, {"Mask::sequence_offsets has 1 entries", "at least 2"}, offsets({0})},
      {masks, {"Mask::sequence_offsets[0] = 1", "must be 0"}, offsets({1, 6})},
      {masks, {"Mask::sequence_offsets[2] = 2", "must be >="}, offsets({0, 4, 2, 6})},
      {masks, {"Mask::sequence_offsets[1] = 7", "must be rows(q)"}, offsets({0, 7})},
      {masks,
       {"Mask::key_sequence_offsets", "give both"},
       [](O& o) {
         o.options.mask.key_sequence_offsets = o.key_offsets = {0, 4, 9};
       }},
      {masks,
       {"Mask::key_sequence_offsets has 3 entries", "must have as many"},
       [](O& o) {
         o.options.mask.sequence_offsets = o.offsets = {0, o.q.rows()};
         o.options.mask.key_sequence_offsets = o.key_offsets = {0, 4, 9};
       }},
  };
}

/// Everything attend refuses, wrong in one thing at a time.
inline std::vector<WrongCall> wrong_calls() {
  std::vector<WrongCall> calls = wrong_scores();
  for (const WrongCall& wrong : wrong_masks()) calls.push_back(wrong);
  const auto threads = [](Index n) { return [n](Operands& o) { o.context.threads = n; }; };
  calls.push_back({contexts, {"Context::threads = -1", "must be >= 0"}, threads(-1)});
  calls.push_back({contexts, {"Context::threads = -9223372036854775808"}, threads(std::numeric_limits<Index>::min())});
  calls.push_back({operands,
                   {"cols(q) = 4", "cols(k) = 5", "must be equal"},
                   [](Operands& o) { o.k = random_matrix<float>(9, 5, 1); },
                   Thrown::shape});
  calls.push_back({operands | values,
                   {"rows(k) = 9", " = 8", "must be equal"},
                   [](Operands& o) { o.v = random_matrix<float>(8, 3, 1); },
                   Thrown::shape});
  return calls;
}

}  // namespace heed::test
