#include <algorithm>
#include <iostream>
#include <string>

#include <mpi.h>
#include <gtest/gtest.h>

namespace {

// Of ranks above 0 only what fails is said, with the rank.
class FailuresOnly : public testing::EmptyTestEventListener {
 public:
  explicit FailuresOnly(int rank) : rank_(rank) {}

 private:
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    const char* const file = result.file_name() == nullptr ? "" : result.file_name();
    std::cout << "rank " + std::to_string(rank_) + ": " + file + ":" + std::to_string(result.line_number()) + ": " +
                     result.message() + "\n"
              << std::flush;
  }
  int rank_;
};

}  // namespace

// Every rank runs every test, in the same order; the program fails on all ranks where it fails on one. MPI_Init, not
// MPI_Init_thread: a program that promises one thread must do.
int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  testing::InitGoogleTest(&argc, argv);
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (rank > 0) {
    testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailuresOnly(rank));
  } else {
    std::cout << size << " ranks" << std::endl;
  }
  int failed = RUN_ALL_TESTS(), any = 0;
  if (testing::UnitTest::GetInstance()->test_to_run_count() == 0) failed = 1;
  MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return any;
}
