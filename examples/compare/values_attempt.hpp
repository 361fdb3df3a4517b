#pragma once
#include <memory>
#include <utility>

#include <heed/heed.hpp>

#include "method.hpp"

namespace compare {

/// Exact attention that makes its value rows from x and w_v during the call. `make(x, w_v, bias)` returns the value
/// source that does.
template <class Values>
class ValuesAttempt : public Attempt {
 public:
  template <class Make>
  ValuesAttempt(const Head& head, const heed::AttentionOptions& options, int threads, const Make& make)
      : head_(head),
        options_(options),
        threads_(threads),
        values_(make(*head_.x, *head_.w_v, head_.b_v ? heed::VectorView(*head_.b_v) : heed::VectorView())),
        out_(head_.q->rows(), head_.w_v->cols()) {}

  void run(heed::FlopCounter* flops) override {
    heed::attend_into(out_, nullptr, *head_.q, *head_.k, values_, options_, heed::ExactAttention{},
                      {.flops = flops, .workspace = &workspace_, .threads = threads_});
  }

  [[nodiscard]] heed::Matrix<float> out() const override { return out_; }

 private:
  Head head_;
  heed::AttentionOptions options_;
  int threads_;
  Values values_;
  heed::Workspace workspace_;
  heed::Matrix<float> out_;
};

template <class Values, class Make>
std::unique_ptr<Attempt> values_attempt(const Head& head, const Settings& settings, const Make& make) {
  return std::make_unique<ValuesAttempt<Values>>(head, settings.options, settings.threads, make);
}

}  // namespace compare
