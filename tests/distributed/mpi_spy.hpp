#pragma once
#include <cstdint>

namespace heed::test {

/// What stands between the library and MPI, and memory (mpi_spy.cpp): makes calls fail, and counts what is sent.
struct MpiSpy {
  const char* failing_call = nullptr;  ///< this one of MPI_Allgather, MPI_Bcast, MPI_Isend fails on this rank
  std::int64_t bytes_sent = 0;         ///< by MPI_Isend
  std::int64_t news = 0;               ///< calls of operator new
  std::int64_t news_left = -1;         ///< so many calls of operator new succeed on this rank, then one fails; < 0: all
};
MpiSpy& mpi_spy();

}  // namespace heed::test
