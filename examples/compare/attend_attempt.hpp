#pragma once
#include <memory>
#include <type_traits>
#include <utility>

#include <heed/heed.hpp>

#include "method.hpp"

namespace compare {

/// heed::attend_into with storage scalar S and any heed method. Inputs in S, the output and the scratch memory are made
/// by the constructor, which is not timed; S = float reads the head's own matrices.
template <class S, class AttentionMethod>
class AttendAttempt : public Attempt {
 public:
  AttendAttempt(const Head& head, const heed::AttentionOptions& options, int threads, AttentionMethod method)
      : q_(stored(head.q)),
        k_(stored(head.k)),
        v_(stored(head.v)),
        options_(options),
        threads_(threads),
        method_(std::move(method)),
        out_(q_->rows(), v_->cols()) {}

  void run(heed::FlopCounter* flops) override {
    heed::attend_into(out_, lse_, *q_, *k_, *v_, options_, method_,
                      {.flops = flops, .workspace = &workspace_, .threads = threads_});
  }

  [[nodiscard]] heed::Matrix<float> out() const override { return out_.template cast<float>(); }

 private:
  using Stored = std::shared_ptr<const heed::Matrix<S>>;

  static Stored stored(const Rows& rows) {
    if constexpr (std::is_same_v<S, float>) {
      return rows;
    } else {
      return std::make_shared<heed::Matrix<S>>(rows->template cast<S>());
    }
  }

  Stored q_, k_, v_;
  heed::AttentionOptions options_;
  int threads_;
  AttentionMethod method_;
  heed::Workspace workspace_;
  heed::Matrix<S> out_;
  heed::LseSpan<heed::Accumulator<S>> lse_;  // not wanted
};

template <class S, class AttentionMethod>
std::unique_ptr<Attempt> attend_attempt(const Head& head, const heed::AttentionOptions& options, int threads,
                                        AttentionMethod method) {
  return std::make_unique<AttendAttempt<S, AttentionMethod>>(head, options, threads, std::move(method));
}

}  // namespace compare
