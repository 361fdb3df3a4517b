#pragma once
#include <cstdint>

namespace heed::test {

/// What stands between the library and MPI (mpi_spy.cpp): makes calls fail, and counts what is sent.
struct MpiSpy {
  const char* failing_call = nullptr;  ///< this one of MPI_Allgather, MPI_Bcast, MPI_Isend fails on this rank
  std::int64_t bytes_sent = 0;         ///< by MPI_Isend
};
MpiSpy& mpi_spy();

}  // namespace heed::test
