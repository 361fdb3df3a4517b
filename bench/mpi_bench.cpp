// Attention over ranks, run by mpirun: see include/heed/distributed/README.md.
//
//   mpirun -n P mpi_bench ring|prefill|sharded|within|decode|overhead <tokens of all ranks> [repeats] [link in MB/s]
//
// ring: causal prefill over a ring, one head of d = 128; prefill: attend on one rank, the same work; sharded: one token
// of 8 heads of d = 128 decoded over shards; within: the same over 8-bit shards, to a tolerance of 5%; decode: attend
// over one cache; overhead: sharded and decode in turn, on one rank. One thread a rank. A link slows messages on
// purpose: what a rank receives is there no sooner than it would have been over a link of so many bytes a second.
// "cpu" is the processor time of the rank that took most of it, without what it spent waiting in MPI: on a busy machine
// the clock says little.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include <mpi.h>
#include <heed/distributed/attend_sharded.hpp>
#include <heed/distributed/attend_within_sharded.hpp>
#include <heed/distributed/ring_attend.hpp>
#include <heed/heed.hpp>

#include "support/allocations.hpp"
#include "support/inputs.hpp"
#include "support/timing.hpp"

namespace {

using Clock = std::chrono::steady_clock;

struct Link {
  double bytes_per_second = 0;  // 0: as fast as it is
  Clock::time_point free{};     // when what is on the way has arrived
  double bytes = 0;             // received so far
  double waited = 0;            // seconds, for messages
  double waited_cpu = 0;        // seconds of the processor, for messages and for other ranks
};
Link& link() {
  static Link link;
  return link;
}
void note_message(int n) {
  link().bytes += n;
  if (link().bytes_per_second <= 0) return;
  const auto lasts =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(n / link().bytes_per_second));
  link().free = std::max(link().free, Clock::now()) + lasts;
}
double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }
template <class Wait>
int wait_for_ranks(const Wait& wait) {
  const double begin = processor_seconds();
  const int code = wait();
  link().waited_cpu += processor_seconds() - begin;
  return code;
}
template <class Wait>
int wait_for_link(const Wait& wait) {
  const Clock::time_point begin = Clock::now();
  const int code = wait_for_ranks(wait);
  std::this_thread::sleep_until(link().free);
  link().waited += std::chrono::duration<double>(Clock::now() - begin).count();
  return code;
}

}  // namespace

// MPI's own way in for tools.
extern "C" int MPI_Irecv(void* data, int n, MPI_Datatype type, int from, int tag, MPI_Comm comm, MPI_Request* request) {
  note_message(n);
  return PMPI_Irecv(data, n, type, from, tag, comm, request);
}
extern "C" int MPI_Waitall(int n, MPI_Request* requests, MPI_Status* statuses) {
  return wait_for_link([&] { return PMPI_Waitall(n, requests, statuses); });
}
extern "C" int MPI_Allgather(const void* a, int n, MPI_Datatype x, void* b, int m, MPI_Datatype y, MPI_Comm comm) {
  return wait_for_ranks([&] { return PMPI_Allgather(a, n, x, b, m, y, comm); });
}
extern "C" int MPI_Allreduce(const void* a, void* b, int n, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
  return wait_for_ranks([&] { return PMPI_Allreduce(a, b, n, type, op, comm); });
}
extern "C" int MPI_Recv(void* data, int n, MPI_Datatype type, int from, int tag, MPI_Comm comm, MPI_Status* status) {
  return wait_for_link([&] {
    const int code = PMPI_Recv(data, n, type, from, tag, comm, status);
    note_message(n);
    return code;
  });
}
extern "C" int MPI_Bcast(void* data, int n, MPI_Datatype type, int root, MPI_Comm comm) {
  return wait_for_link([&] {
    const int code = PMPI_Bcast(data, n, type, root, comm);
    int rank = 0;
    MPI_Comm_rank(comm, &rank);
    if (rank != root) note_message(n);
    return code;
  });
}

namespace {

heed::Matrix<float> random_rows(heed::Index rows, heed::Index cols, std::uint64_t seed) {
  heed::Matrix<float> m(rows, cols);
  heed_bench::fill_random({m.data(), static_cast<std::size_t>(m.size())}, seed);
  return m;
}

constexpr heed::Index width = 128;
constexpr heed::Context one_thread{.threads = 1};

// Calls run(call): `call` makes one step.
template <class Run>
void prefill(bool ring, heed::Index n, heed::Index rank, heed::Index ranks, const Run& run) {
  const heed::Index own = n / ranks;
  const auto seed = static_cast<std::uint64_t>(3 * rank);
  const heed::Matrix<float> q = random_rows(own, width, seed), k = random_rows(own, width, seed + 1),
                            v = random_rows(own, width, seed + 2);
  const heed::AttentionOptions causal{.mask = {.causal = heed::Causal::square}};
  if (ring) {
    run([&] { heed::ring_attend(MPI_COMM_WORLD, q, k, v, causal, {}, one_thread); });
  } else {
    run([&] { heed::attend(q, k, v, causal, {}, one_thread); });
  }
}

constexpr heed::Index heads = 8;

// What a rank holds of n tokens.
template <class S>
heed::KeyValueCache<S> cache_of(heed::Index n, heed::Index rank, heed::Index ranks) {
  const heed::Index own = n / ranks;
  heed::KeyValueCache<S> cache(width, width, heads, own);
  for (heed::Index at = 0; at < own; at += 4096) {  // a block at a time: memory is the cache's
    const heed::Index some = std::min<heed::Index>(4096, own - at);
    const auto seed = static_cast<std::uint64_t>(2 * (rank * own + at));
    cache.append(random_rows(some, heads * width, seed), random_rows(some, heads * width, seed + 1));
  }
  return cache;
}

// Queries differ from call to call: a head learns from them how far to read.
template <class Run>
void decode_within(heed::Index n, heed::Index rank, heed::Index ranks, const Run& run) {
  heed::KeyValueCache<heed::Int8> cache = cache_of<heed::Int8>(n, rank, ranks);
  heed::Workspace workspace;
  const heed::Context context{.workspace = &workspace, .threads = 1};
  std::uint64_t step = 0;
  run([&] {
    const heed::Matrix<float> q = random_rows(1, heads * width, ++step);
    heed::attend_within_sharded(MPI_COMM_WORLD, 0.05, q, cache, {}, context);
  });
}

template <class Run>
void decode(const std::string& what, heed::Index n, heed::Index rank, heed::Index ranks, const Run& run) {
  const heed::KeyValueCache<float> cache = cache_of<float>(n, rank, ranks);
  const heed::Matrix<float> q = random_rows(1, heads * width, 7);
  heed::Workspace workspace;
  const heed::Context context{.workspace = &workspace, .threads = 1};
  const auto over_shards = [&] { heed::attend_sharded(MPI_COMM_WORLD, q, cache, {}, context); };
  const auto alone = [&] { heed::attend(q, cache, {}, context); };
  if (what == "overhead") {
    std::vector<double> ratios;
    for (int r = 0; r < 60; ++r) {
      const double begin = processor_seconds();
      over_shards();
      const double middle = processor_seconds();
      alone();
      if (r > 0) ratios.push_back((middle - begin) / (processor_seconds() - middle));
    }
    std::printf("attend_sharded over attend, processor time, median of %d pairs: %.4f\n",
                static_cast<int>(ratios.size()), heed_bench::median_of(ratios));
  } else if (what == "sharded") {
    run(over_shards);
  } else {
    run(alone);
  }
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0, ranks = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  const std::string what = argc > 1 ? argv[1] : "ring";
  const heed::Index n = argc > 2 ? std::atol(argv[2]) : 4096;
  const int repeats = argc > 3 ? std::atoi(argv[3]) : 5;
  if (argc > 4) link().bytes_per_second = 1e6 * std::atof(argv[4]);
  heed_bench::reset_peak();
  const auto run = [&](const auto& call) {
    call();
    std::vector<double> seconds, waited, processor;
    const double bytes_before = link().bytes;
    for (int r = 0; r < repeats; ++r) {
      PMPI_Barrier(MPI_COMM_WORLD);
      const double waited_before = link().waited;
      const double cpu_before = processor_seconds() - link().waited_cpu;
      double own[2] = {heed_bench::time_once(call), 0}, all[2] = {};
      own[1] = processor_seconds() - link().waited_cpu - cpu_before;
      PMPI_Allreduce(own, all, 2, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
      seconds.push_back(all[0]);
      processor.push_back(all[1]);
      waited.push_back(link().waited - waited_before);
    }
    if (rank != 0) return;
    std::printf(
        "%-8s ranks %d  n %8td  median %9.3f ms  least %9.3f ms  cpu %9.3f ms  waited %8.3f ms  received %8.3f MB  "
        "heap %8.2f MB\n",
        what.c_str(), ranks, n, 1e3 * heed_bench::median_of(seconds),
        1e3 * *std::min_element(seconds.begin(), seconds.end()), 1e3 * heed_bench::median_of(processor),
        1e3 * heed_bench::median_of(waited), (link().bytes - bytes_before) / repeats * 1e-6,
        static_cast<double>(heed_bench::allocations().peak_bytes) * 1e-6);
  };
  if (what == "ring" || what == "prefill") {
    prefill(what == "ring", n, rank, ranks, run);
  } else if (what == "within") {
    decode_within(n, rank, ranks, run);
  } else {
    decode(what, n, rank, ranks, run);
  }
  MPI_Finalize();
  return 0;
}
