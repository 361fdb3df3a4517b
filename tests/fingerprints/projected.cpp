#include "support.hpp"

namespace fingerprints {
namespace {

template <class S, class Method>
void over(Recorder& recorder, const std::string& method_name, const Shape& shape, const std::vector<Kind>& kinds,
          const Method& method) {
  const Index d_in = 48;
  const Operands<S> in(shape);
  const Store store(shape);
  const Rows<S> x = numbers<S>(shape.n_k, d_in, 71), w = numbers<S>(d_in, shape.n_kv_heads * shape.d_v, 72, 0.2);
  const heed::Vector<S> bias = numbers<S>(shape.n_kv_heads * shape.d_v, 1, 73).col(0);
  struct Order {
    const char* name;
    heed::ProjectionOrder order;
  };
  for (const Order order : {Order{"automatic", heed::ProjectionOrder::automatic},
                            Order{"project_first", heed::ProjectionOrder::project_first},
                            Order{"attend_first", heed::ProjectionOrder::attend_first}}) {
    for (const bool with_bias : {false, true}) {
      heed::ProjectionOptions projection;
      projection.order = order.order;
      if (with_bias) projection.bias = bias;
      const heed::ProjectedValues<S> values(x, w, projection);
      for (const Kind& kind : kinds) {
        heed::AttentionOptions options;
        kind.apply(options, store);
        const std::string name = "projected/" + method_name + "/" + scalar_name<S>() + "/" + shape.name() + "/" +
                                 order.name + (with_bias ? "+bias/" : "/") + kind.name;
        recorder.record(name, [&](const heed::Context& context) {
          const auto result =
              heed::multi_head_attend(in.q, in.k, values, {shape.n_heads, shape.n_kv_heads}, options, method, context);
          return std::vector<std::uint64_t>{hash_of(result.out), hash_of(result.lse)};
        });
      }
      recorder.record("projected/rows/" + method_name + scalar_name<S>() + "/" + shape.name() +
                          (with_bias ? "+bias/" : "/") + order.name,
                      [&](const heed::Context& context) {
                        Rows<S> rows(shape.n_k, w.cols());
                        values.value_rows_into(rows, context);
                        return std::vector<std::uint64_t>{hash_of(rows)};
                      });
    }
  }
}

}  // namespace

void projected_cases(Recorder& recorder) {
  for_each_scalar([&]<class S>() {
    using T = Sum<S>;
    for (const Shape& shape :
         {Shape{65, 113, 16, 20}, Shape{2, 130, 33, 8}, Shape{33, 70, 16, 8, 4, 2}, Shape{1, 7, 8, 3}}) {
      const auto tree = random_tree<S>(3, shape.d);
      over<S>(recorder, "exact", shape, few_kinds(), heed::ExactAttention<>{});
      over<S>(recorder, "tf", shape, few_kinds(), heed::TfAttention<S>(tree, {.window_left = 3}));
      over<S>(recorder, "tc", shape, few_kinds(), heed::TcAttention<S>(tree, numbers<T>(4, 1, 61).col(0).eval()));
    }
  });
}

}  // namespace fingerprints
