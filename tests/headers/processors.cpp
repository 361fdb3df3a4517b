// Exact attention and a cache of 8 bits against the reference, for processors that the tests do not run on: the gate
// `processors` builds it for them and runs it.
#include <cstdio>

#include <Eigen/Core>

#include <heed/exact/key_value_cache.hpp>
#include <heed/heed.hpp>

int main() {
  using Rows = heed::Matrix<float>;
  const Rows q = Rows::Random(37, 24), k = Rows::Random(400, 24), v = Rows::Random(400, 20);
  const auto in_double = [](const Rows& rows) -> heed::Matrix<double> { return rows.cast<double>(); };
  const heed::AttentionOptions options{.mask = {.causal = heed::Causal::bottom_right}};
  const heed::Matrix<double> want = heed::reference_attention(in_double(q), in_double(k), in_double(v), options).out;
  heed::KeyValueCache<heed::Int8> cache(24, 20);
  cache.append(k, v);
  const double exact = (in_double(heed::attend(q, k, v, options).out) - want).norm() / want.norm();
  const double bytes = (in_double(heed::attend(q, cache, options).out) - want).norm() / want.norm();
  std::printf("relative error %.1e, from 8 bits %.1e\n", exact, bytes);
  return exact < 1e-6 && bytes > 1e-4 && bytes < 0.02 ? 0 : 1;
}
