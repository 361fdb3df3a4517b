#pragma once
#include <array>
#include <cassert>
#include <cstddef>

#include <mpi.h>

#include "heed/core/types.hpp"
#include "heed/distributed/ranks.hpp"

namespace heed::detail {

/// Messages under way. Only this thread moves them on, whenever it asks: a program may have promised MPI one thread.
/// Allocates nothing: a rank that ran out of memory while others wait for it would keep them waiting.
class Transfers {
 public:
  explicit Transfers(const Ranks& ranks) : ranks_(ranks) {}
  Transfers(const Transfers&) = delete;
  // After an error nobody waits for the rest; what was to be received is given up.
  ~Transfers() {
    for (std::size_t i = 0; i < n_; ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      MPI_Cancel(&requests_[i]);
      MPI_Request_free(&requests_[i]);
    }
  }

  void send(const void* data, std::size_t bytes, int to, int tag) {
    for_each_piece(bytes, [&](std::size_t at, int n) {
      check_mpi(MPI_Isend(static_cast<const char*>(data) + at, n, MPI_BYTE, to, tag, ranks_.comm(), &next()),
                "MPI_Isend");
    });
  }
  void receive(void* data, std::size_t bytes, int from, int tag) {
    for_each_piece(bytes, [&](std::size_t at, int n) {
      check_mpi(MPI_Irecv(static_cast<char*>(data) + at, n, MPI_BYTE, from, tag, ranks_.comm(), &next()), "MPI_Irecv");
    });
  }
  /// Moves messages on.
  void poke() {
    if (n_ == 0) return;
    int done = 0;
    check_mpi(MPI_Testall(static_cast<int>(n_), requests_.data(), &done, MPI_STATUSES_IGNORE), "MPI_Testall");
    if (done != 0) n_ = 0;
  }
  /// Returns when all have arrived.
  void wait() {
    check_mpi(MPI_Waitall(static_cast<int>(n_), requests_.data(), MPI_STATUSES_IGNORE), "MPI_Waitall");
    n_ = 0;
  }

  /// Bytes of one message that there is room for, with seven more like it under way.
  static constexpr std::size_t most_bytes() { return most / 8 * most_of_a_piece; }

 private:
  static constexpr std::size_t most = 512;

  MPI_Request& next() {
    assert(n_ < most);
    requests_[n_] = MPI_REQUEST_NULL;
    return requests_[n_++];
  }

  const Ranks& ranks_;
  std::array<MPI_Request, most> requests_;
  std::size_t n_ = 0;
};

}  // namespace heed::detail
