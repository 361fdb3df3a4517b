#pragma once
#include "heed/core/macros_away.inl"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>

#include "heed/core/check_option.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/number_range.hpp"
#include "heed/core/types.hpp"
#include "heed/layers/parameter_store.hpp"

namespace heed {

/// How the learning rate goes after the warm-up, which is linear from 0.
enum class Decay {
  cosine,        ///< half a cosine down to `last_share` at n_steps
  inverse_root,  ///< sqrt(warm_up / step)
  none,
};

/// The learning rate of each step.
struct Schedule {
  double rate = 1e-3;        ///< the highest; >= 0
  Index warm_up = 50;        ///< steps; >= 0
  Index n_steps = 1000;      ///< of cosine; >= 0
  double last_share = 0.05;  ///< of cosine; 0 .. 1
  Decay decay = Decay::cosine;

  /// Rate of step 1, 2, ...
  double at(Index step) const {
    const double t = static_cast<double>(step), warm = static_cast<double>(warm_up);
    if (step <= warm_up) return rate * t / std::max(1.0, warm);
    if (decay == Decay::none) return rate;
    if (decay == Decay::inverse_root) return rate * std::sqrt(std::max(1.0, warm) / t);
    const double done = std::min(1.0, (t - warm) / std::max(1.0, static_cast<double>(n_steps) - warm));
    return rate * (last_share + (1 - last_share) * 0.5 * (1 + std::cos(std::numbers::pi * done)));
  }
};

/// How AdamW steps.
struct AdamWOptions {
  double beta_1 = 0.9, beta_2 = 0.98;  ///< shares of the moments that stay at each step; 0 <= beta < 1
  double eps = 1e-9;                   ///< 1e-30 .. 1
  double decay = 0.01;                 ///< decoupled: values shrink by rate * decay, of slices that decay; >= 0
  double clip = 1.0;                   ///< largest norm of all gradients together; 0: no clipping; >= 0
};

namespace detail {

inline void check_schedule(const Schedule& schedule) {
  check_not_negative(schedule.rate, "Schedule::rate");
  check_at_least(schedule.warm_up, 0, "Schedule::warm_up");
  check_at_least(schedule.n_steps, 0, "Schedule::n_steps");
  check_within(schedule.last_share, 0, 1, "Schedule::last_share");
  check_enumerator(schedule.decay, Decay::none, "Schedule::decay");
}

/// Throws OptionError where a step of AdamW at this rate could leave numbers that are not finite in T.
template <class T>
void check_adamw(const ParameterStore<T>& store, Index step, double rate, const AdamWOptions& options) {
  constexpr NumberRange range = number_range<T>();
  check_at_least(step, 1, "step");
  const auto check_beta = [](double beta, const char* name) {
    if (!is_finite(beta) || beta < 0 || beta >= 1)
      throw OptionError(message(name, " = ", beta, " must be at least 0 and below 1"));
  };
  check_beta(options.beta_1, "AdamWOptions::beta_1");
  check_beta(options.beta_2, "AdamWOptions::beta_2");
  check_within(options.eps, 1e-30, 1, "AdamWOptions::eps");
  check_not_negative(options.decay, "AdamWOptions::decay");
  check_number(options.decay, range, "AdamWOptions::decay");
  check_not_negative(options.clip, "AdamWOptions::clip");
  check_number(options.clip, range, "AdamWOptions::clip");
  check_not_negative(rate, "rate");
  const double first = 1 - std::pow(options.beta_1, static_cast<double>(step));
  for (Index s = 0; s < store.n_slices(); ++s) {
    const double own = rate * store.options(s).rate;
    if (own / first > range.largest || own * options.decay > range.largest) {
      throw OptionError(message("rate = ", rate, " is too high for '", store.name(s), "', whose SliceOptions::rate is ",
                                store.options(s).rate,
                                ": their product, over 1 - beta_1^step and times AdamWOptions::decay too, ",
                                "must be at most ", range.largest, ", the largest ", range.scalar));
    }
  }
}

/// The norm of all gradients of a store together.
/// Errors  TrainingError, naming the step, where it is NaN or infinite.
template <class T>
double gradient_norm(const ParameterStore<T>& store, Index step) {
  double square = 0;
  for (const T gradient : store.all_gradients())
    square += static_cast<double>(gradient) * static_cast<double>(gradient);
  const double norm = std::sqrt(square);
  if (is_finite(norm)) return norm;
  throw TrainingError(message("the norm of the gradients of step ", step, " is ", norm,
                              " but must be finite; the parameters are those of the step before"));
}

/// See adamw_step; `norm`: of the gradients.
template <class T>
void adamw_update(ParameterStore<T>& store, Index step, double rate, double norm, const AdamWOptions& options) {
  check_adamw(store, step, rate, options);
  const std::span<T> x = store.all_values(), g = store.all_gradients(), m = store.first_moments(),
                     v = store.second_moments();
  const double shrink = options.clip > 0 && norm > options.clip ? options.clip / norm : 1;
  const double t = static_cast<double>(step);
  const double first = 1 - std::pow(options.beta_1, t), second = 1 - std::pow(options.beta_2, t);
  const T b1 = static_cast<T>(options.beta_1), b2 = static_cast<T>(options.beta_2), by = static_cast<T>(shrink);
  // In double, as the bias corrections are: a beta near 1 is 1 in float, where its moment only adds up.
  const T c1 = static_cast<T>(1 - options.beta_1), c2 = static_cast<T>(1 - options.beta_2);
  const T root = static_cast<T>(1 / std::sqrt(second)), eps = static_cast<T>(options.eps);
  for (Index s = 0; s < store.n_slices(); ++s) {
    const Slice& slice = store.slice(s);
    const double own = rate * store.options(s).rate;
    const T reach = static_cast<T>(own / first);
    const T keep = static_cast<T>(store.options(s).decays ? 1 - own * options.decay : 1);
    using Flat = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>;
    Flat gs(g.data() + slice.first, slice.size()), ms(m.data() + slice.first, slice.size()),
        vs(v.data() + slice.first, slice.size()), xs(x.data() + slice.first, slice.size());
    gs *= by;
    ms = b1 * ms + c1 * gs;
    vs = b2 * vs + c2 * gs.square();
    xs = keep * xs - reach * ms / (vs.sqrt() * root + eps);
    gs.setZero();
  }
}

}  // namespace detail

/// One step of AdamW over every parameter: m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, x -= rate (m / (1 - b1^t) /
/// (sqrt(v / (1 - b2^t)) + eps) + decay x). Gradients are first scaled down to the norm `clip`, then cleared.
///
/// Returns the norm of the gradients before clipping. `step`: 1, 2, ...
/// Errors  OptionError for a step below 1, a rate or options out of range; TrainingError where the norm is NaN or
///         infinite. Nothing is changed then.
/// Source  Loshchilov and Hutter 2019, algorithm 2.
template <class T>
double adamw_step(ParameterStore<T>& store, Index step, double rate, const AdamWOptions& options = {}) {
  const double norm = detail::gradient_norm(store, step);
  detail::adamw_update(store, step, rate, norm, options);
  return norm;
}

}  // namespace heed

#include "heed/core/macros_back.inl"
