#pragma once
#include <algorithm>
#include <string>
#include <typeinfo>

#include <mpi.h>
#include <gtest/gtest.h>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"

namespace heed::test {

inline Index rank_of_world() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}
inline Index ranks_of_world() {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

/// Tokens [first, first + size) of a rank.
struct Share {
  Index first = 0, size = 0;
};
/// Whole blocks for every rank but the last, which has the rest.
inline Share share_of(Index n, Index block) {
  const Index ranks = ranks_of_world(), rank = rank_of_world(), each = std::max<Index>(n / block / ranks, 1) * block;
  return {rank * each, rank + 1 == ranks ? n - rank * each : each};
}

/// Expects that call() throws an Error on every rank, in the same words, which hold `part`.
template <class Error, class Call>
void expect_same_error(const Call& call, const std::string& part) {
  std::string said = "nothing was thrown";
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(typeid(error), typeid(Error)) << error.what();
    said = error.what();
  }
  EXPECT_NE(said.find(part), std::string::npos) << said;
  char first[512] = {}, mine[512] = {};
  said.copy(mine, sizeof mine - 1);
  std::copy_n(mine, sizeof mine, first);
  MPI_Bcast(first, sizeof first, MPI_CHAR, 0, MPI_COMM_WORLD);
  EXPECT_EQ(said.substr(0, sizeof mine - 1), std::string(first)) << "every rank must hear the same";
}

}  // namespace heed::test
