#pragma once
#include <cstddef>

#include <mpi.h>

#include "heed/core/types.hpp"
#include "heed/distributed/ranks.hpp"

namespace heed {

/// The ranks of a communicator in a row, for sums whose order is fixed: each receives what the next one has, adds its
/// own and sends that to the one before; rank 0 then gives what it made of the sum to all. MPI's own reductions leave
/// the order of additions open. Its members are what TrainingRanks asks for.
///
/// Errors  OptionError for MPI_COMM_NULL or an intercommunicator; DistributedError where a call of MPI fails.
/// Cost    P - 1 messages one after the other, and one broadcast.
/// Threads one thread of each rank; MPI_THREAD_SINGLE is enough.
class RankChain {
 public:
  explicit RankChain(MPI_Comm comm) : ranks_(comm) {}

  Index rank() const { return ranks_.rank(); }
  Index n_ranks() const { return ranks_.size(); }
  /// Receives what rank + 1 sends.
  void receive(void* data, std::size_t bytes) const { detail::receive(ranks_, data, bytes, ranks_.behind(1), tag); }
  /// Sends to rank - 1.
  void send(const void* data, std::size_t bytes) const { detail::send(ranks_, data, bytes, ranks_.behind(-1), tag); }
  /// Gives what rank 0 has to all.
  void share(void* data, std::size_t bytes) const { detail::broadcast(ranks_, data, bytes, 0); }

 private:
  static constexpr int tag = 8192;
  detail::Ranks ranks_;
};

}  // namespace heed
