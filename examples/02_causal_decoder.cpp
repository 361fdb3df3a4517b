// A decoder: one new token at a time against a cache of the keys and values so far. The answers are those of one pass
// over the whole sequence under a causal mask.
#include <algorithm>
#include <cstdio>

#include <Eigen/Core>

#include <heed/heed.hpp>

int main() {
  const Eigen::Index n = 300, n_heads = 8, n_kv_heads = 2, d = 32;  // four query heads share each key/value head
  using RowMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const RowMatrix q = RowMatrix::Random(n, n_heads * d);
  const RowMatrix k = RowMatrix::Random(n, n_kv_heads * d);
  const RowMatrix v = RowMatrix::Random(n, n_kv_heads * d);

  const auto whole = heed::multi_head_attend(q, k, v, {.n_heads = n_heads, .n_kv_heads = n_kv_heads},
                                             {.mask = {.causal = heed::Causal::square}});

  heed::KeyValueCache<float> cache(d, d, n_kv_heads);
  heed::KeyValueCache<Eigen::bfloat16> half_the_bytes(d, d, n_kv_heads);  // the same, stored in 16 bits
  heed::Workspace workspace;                                              // scratch that every step reuses
  const heed::Context context{.workspace = &workspace};

  // A prompt of several tokens first: its queries look at keys up to themselves, the last at all of them.
  const Eigen::Index n_prompt = 40;
  cache.append(k.topRows(n_prompt), v.topRows(n_prompt));
  half_the_bytes.append(k.topRows(n_prompt), v.topRows(n_prompt));
  const auto prompt =
      heed::attend(q.topRows(n_prompt), cache, {.mask = {.causal = heed::Causal::bottom_right}}, context);
  float difference = (prompt.out - whole.out.topRows(n_prompt)).cwiseAbs().maxCoeff();

  float rounding = 0.0f;
  for (Eigen::Index i = n_prompt; i < n; ++i) {
    cache.append(k.row(i), v.row(i));
    half_the_bytes.append(k.row(i), v.row(i));
    const auto token = heed::attend(q.row(i), cache, {}, context);  // the newest token sees all keys: no mask
    const auto rounded = heed::attend(q.row(i), half_the_bytes, {}, context);
    difference = std::max(difference, (token.out - whole.out.row(i)).cwiseAbs().maxCoeff());
    rounding = std::max(rounding, (rounded.out - whole.out.row(i)).cwiseAbs().maxCoeff());
  }

  std::printf("%td tokens decoded after a prompt of %td; the cache holds %td\n", n - n_prompt, n_prompt, cache.size());
  std::printf("largest difference from the whole causal pass: %.1e with float, %.1e with a bfloat16 cache\n",
              difference, rounding);
  return cache.size() == n && difference < 1e-5f && rounding < 1e-2f ? 0 : 1;
}
