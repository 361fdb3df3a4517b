// A context that lies on several machines: mpirun -n 2 08_two_ranks. The prompt goes through a ring, each rank with an
// early and a late part of its tokens; then one token after another is decoded over caches of which each rank holds
// one.
#include <algorithm>
#include <cstdio>

#include <mpi.h>
#include <Eigen/Core>

#include <heed/distributed/attend_sharded.hpp>
#include <heed/distributed/ring_attend.hpp>
#include <heed/heed.hpp>

namespace {

using RowMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
constexpr Eigen::Index n_heads = 4, n_kv_heads = 2, d = 16;

/// Largest difference between what a ring gives this rank and one causal pass over all tokens.
float prompt(Eigen::Index rank, Eigen::Index n_ranks) {
  const Eigen::Index n = 600 * n_ranks;
  const RowMatrix q = RowMatrix::Random(n, n_heads * d), k = RowMatrix::Random(n, n_kv_heads * d),
                  v = RowMatrix::Random(n, n_kv_heads * d);  // the same on every rank: only for the comparison
  const heed::HeadOptions heads{.n_heads = n_heads, .n_kv_heads = n_kv_heads};
  const heed::AttentionOptions causal{.mask = {.causal = heed::Causal::square}};
  const auto own =
      heed::multi_head_ring_attend(MPI_COMM_WORLD, heed::ring_rows(q, rank, n_ranks), heed::ring_rows(k, rank, n_ranks),
                                   heed::ring_rows(v, rank, n_ranks), heads, causal);
  const auto whole = heed::multi_head_attend(q, k, v, heads, causal);
  return (own.out - heed::ring_rows(whole.out, rank, n_ranks)).cwiseAbs().maxCoeff();
}

/// The same for tokens decoded over sharded caches: there the bits are those of one cache, so it is 0.
float decode(Eigen::Index rank, Eigen::Index n_ranks) {
  const Eigen::Index each = heed::sharded_key_block;  // all but the last rank hold whole blocks
  heed::KeyValueCache<float> whole(d, d, n_kv_heads), own(d, d, n_kv_heads);
  for (Eigen::Index r = 0; r < n_ranks; ++r) {
    const RowMatrix k = RowMatrix::Random(each, n_kv_heads * d), v = RowMatrix::Random(each, n_kv_heads * d);
    whole.append(k, v);
    if (r == rank) own.append(k, v);
  }
  float difference = 0.0f;
  for (int token = 0; token < 20; ++token) {
    const RowMatrix q = RowMatrix::Random(1, n_heads * d), k = RowMatrix::Random(1, n_kv_heads * d),
                    v = RowMatrix::Random(1, n_kv_heads * d);
    whole.append(k, v);
    if (rank + 1 == n_ranks) own.append(k, v);  // new tokens go to the last rank
    const auto got = heed::attend_sharded(MPI_COMM_WORLD, q, own);
    difference = std::max(difference, (got.out - heed::attend(q, whole).out).cwiseAbs().maxCoeff());
  }
  return difference;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);  // one thread of each rank calls MPI: no MPI_Init_thread is needed
  int rank = 0, n_ranks = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
  const float in_prompt = prompt(rank, n_ranks), in_decoding = decode(rank, n_ranks);
  std::printf("rank %d of %d: differs from one process by %.1e in the prompt, by %.1e in decoding\n", rank, n_ranks,
              static_cast<double>(in_prompt), static_cast<double>(in_decoding));
  MPI_Finalize();
  return in_prompt < 1e-5f && in_decoding <= 0.0f ? 0 : 1;
}
