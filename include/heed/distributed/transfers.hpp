#pragma once
#include <cstddef>
#include <vector>

#include <mpi.h>

#include "heed/core/types.hpp"
#include "heed/distributed/ranks.hpp"

namespace heed::detail {

/// Messages under way. Only this thread moves them on, whenever it asks: a program may have promised MPI one thread.
class Transfers {
 public:
  explicit Transfers(const Ranks& ranks) : ranks_(ranks) {}
  Transfers(const Transfers&) = delete;
  // After an error nobody waits for the rest; what was to be received is given up.
  ~Transfers() {
    for (MPI_Request& request : requests_) {
      if (request == MPI_REQUEST_NULL) continue;
      MPI_Cancel(&request);
      MPI_Request_free(&request);
    }
  }

  void send(const void* data, std::size_t bytes, int to, int tag) {
    for_each_piece(bytes, [&](std::size_t at, int n) {
      requests_.push_back(MPI_REQUEST_NULL);
      check_mpi(MPI_Isend(static_cast<const char*>(data) + at, n, MPI_BYTE, to, tag, ranks_.comm(), &requests_.back()),
                "MPI_Isend");
    });
  }
  void receive(void* data, std::size_t bytes, int from, int tag) {
    for_each_piece(bytes, [&](std::size_t at, int n) {
      requests_.push_back(MPI_REQUEST_NULL);
      check_mpi(MPI_Irecv(static_cast<char*>(data) + at, n, MPI_BYTE, from, tag, ranks_.comm(), &requests_.back()),
                "MPI_Irecv");
    });
  }
  /// Moves messages on.
  void poke() {
    if (requests_.empty()) return;
    int done = 0;
    check_mpi(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE),
              "MPI_Testall");
    if (done != 0) requests_.clear();
  }
  /// Returns when all have arrived.
  void wait() {
    check_mpi(MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE), "MPI_Waitall");
    requests_.clear();
  }

 private:
  const Ranks& ranks_;
  std::vector<MPI_Request> requests_;
};

}  // namespace heed::detail
