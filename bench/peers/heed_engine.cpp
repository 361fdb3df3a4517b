// heed itself, built twice: with plain -O2 and for the CPU at hand. Both must run at the same speed.
#include <type_traits>
#include <vector>
#include <heed/heed.hpp>

#include "peers/engine.hpp"

namespace heed_bench {
namespace {

using heed::Index;
template <class S>
using Rows = Eigen::Map<const Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
template <class S>
using OutRows = Eigen::Map<Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

template <class S>
std::string scalar_name() {
  if constexpr (std::is_same_v<S, Eigen::half>) return " half";
  if constexpr (std::is_same_v<S, Eigen::bfloat16>) return " bfloat16";
  return "";
}

/// Packed rows as a projection leaves them, stored as S; the output is float. One workspace kept between calls. The
/// log-sum-exp is not asked for: others do not give it.
template <class S>
class Forward final : public Engine {
 public:
  [[nodiscard]] std::string name() const override { return "heed" + scalar_name<S>() + " " HEED_PEER_FLAGS; }
  [[nodiscard]] Layout layout() const override { return Layout::packed; }
  [[nodiscard]] bool supports(const Shape& shape) const override { return shape.n_q > 1; }

  void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) override {
    shape_ = shape;
    width_ = shape.d * shape.n_heads;
    out_ = out;
    options_ = {};
    if (shape.causal) options_.mask.causal = heed::Causal::square;
    for (const Operands& set : sets)
      sets_.push_back({stored(set.q, shape.n_q), stored(set.k, shape.n_k), stored(set.v, shape.n_k)});
  }
  void release() override {
    sets_.clear();
    workspace_ = {};
  }

  void run(std::size_t set) override {
    OutRows<float> out(out_, shape_.n_q, width_);
    heed::multi_head_attend_into(out, nullptr, sets_[set].q, sets_[set].k, sets_[set].v, {.n_heads = shape_.n_heads},
                                 options_, heed::ExactAttention{},
                                 {.workspace = &workspace_, .threads = shape_.threads});
  }

 private:
  [[nodiscard]] heed::Matrix<S> stored(const float* rows, Index n) const {
    return Rows<float>(rows, n, width_).template cast<S>();
  }
  struct Set {
    heed::Matrix<S> q, k, v;
  };
  Shape shape_;
  Index width_ = 0;
  std::vector<Set> sets_;
  heed::AttentionOptions options_;
  heed::Workspace workspace_;
  float* out_ = nullptr;
};

/// Gradients of packed rows, stored as S: d_q, d_k and d_v are turned to float outside the clock for other scalars.
template <class S>
class Backward final : public Engine {
 public:
  [[nodiscard]] std::string name() const override { return "heed" + scalar_name<S>() + " " HEED_PEER_FLAGS; }
  [[nodiscard]] Layout layout() const override { return Layout::packed; }
  [[nodiscard]] bool goes_backward() const override { return true; }

  void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) override {
    shape_ = shape;
    width_ = shape.d * shape.n_heads;
    to_ = out;
    options_ = {};
    if (shape.causal) options_.mask.causal = heed::Causal::square;
    for (const Operands& set : sets) {
      Set one{stored(set.q, shape.n_q),
              stored(set.k, shape.n_k),
              stored(set.v, shape.n_k),
              stored(set.d_out, shape.n_q),
              {}};
      one.forward = heed::multi_head_attend(one.q, one.k, one.v, {.n_heads = shape.n_heads}, options_);
      sets_.push_back(std::move(one));
    }
    grads_.d_q.resize(shape.n_q, width_);
    grads_.d_k.resize(shape.n_k, width_);
    grads_.d_v.resize(shape.n_k, width_);
    run(0);
    OutRows<float>(to_, shape.n_q, width_) = grads_.d_q.template cast<float>();
    OutRows<float>(to_ + shape.query_numbers(), shape.n_k, width_) = grads_.d_k.template cast<float>();
    OutRows<float>(to_ + shape.query_numbers() + shape.key_numbers(), shape.n_k, width_) =
        grads_.d_v.template cast<float>();
  }
  void release() override {
    sets_.clear();
    workspace_ = {};
  }

  void run(std::size_t set) override {
    const Set& in = sets_[set];
    heed::multi_head_attend_backward_into(grads_, in.d_out, in.q, in.k, in.v, in.forward.out, in.forward.lse,
                                          {.n_heads = shape_.n_heads}, options_, heed::ExactAttention{},
                                          {.workspace = &workspace_, .threads = shape_.threads});
  }

 private:
  [[nodiscard]] heed::Matrix<S> stored(const float* rows, Index n) const {
    return Rows<float>(rows, n, width_).template cast<S>();
  }
  struct Set {
    heed::Matrix<S> q, k, v, d_out;
    heed::MultiHeadResult<S> forward;
  };
  Shape shape_;
  Index width_ = 0;
  std::vector<Set> sets_;
  heed::AttentionOptions options_;
  heed::AttentionGradients<S> grads_;
  heed::Workspace workspace_;
  float* to_ = nullptr;
};

/// Decoding: float queries against a cache that stores S.
template <class S>
class Decode final : public Engine {
 public:
  [[nodiscard]] std::string name() const override { return "heed cache" + scalar_name<S>() + " " HEED_PEER_FLAGS; }
  [[nodiscard]] Layout layout() const override { return Layout::packed; }
  [[nodiscard]] bool supports(const Shape& shape) const override { return shape.n_q == 1; }
  [[nodiscard]] double key_value_bytes(const Shape& shape) const override {
    return shape.key_value_bytes() / sizeof(float) * sizeof(S);
  }

  void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) override {
    shape_ = shape;
    const Index width = shape.d * shape.n_heads;
    out_ = out;
    lse_.resize(1, shape.n_heads);
    for (const Operands& set : sets) {
      caches_.emplace_back(shape.d, shape.d, shape.n_heads, shape.n_k);
      caches_.back().append(Rows<float>(set.k, shape.n_k, width), Rows<float>(set.v, shape.n_k, width));
      queries_.push_back(Rows<float>(set.q, 1, width));
    }
  }
  void release() override {
    caches_.clear();
    queries_.clear();
    workspace_ = {};
  }

  void run(std::size_t set) override {
    OutRows<float> out(out_, 1, shape_.d * shape_.n_heads);
    heed::attend_into(out, lse_, queries_[set], caches_[set], {},
                      {.workspace = &workspace_, .threads = shape_.threads});
  }

 private:
  Shape shape_;
  std::vector<heed::KeyValueCache<S>> caches_;
  std::vector<heed::Matrix<float>> queries_;
  heed::Workspace workspace_;
  heed::Matrix<float> lse_;
  float* out_ = nullptr;
};

}  // namespace
}  // namespace heed_bench

heed_bench::Engine* heed_bench_engine(int index) {
  using namespace heed_bench;
  switch (index) {
    case 0: return new Forward<float>;
    case 1: return new Decode<float>;
    case 2: return new Forward<Eigen::bfloat16>;
    case 3: return new Decode<Eigen::half>;
    case 4: return new Decode<Eigen::bfloat16>;
    case 5: return new Backward<float>;
    case 6: return new Backward<Eigen::bfloat16>;
    default: return nullptr;
  }
}
