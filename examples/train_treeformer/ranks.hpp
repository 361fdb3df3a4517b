#pragma once
#include <heed/train/training_ranks.hpp>

namespace train_treeformer {

/// The ranks this process is one of: those of mpirun, where the program was built with MPI and started by it; else it
/// is alone. MPI runs as long as this lives.
class RunningRanks {
 public:
  RunningRanks(int& argc, char**& argv);
  RunningRanks(const RunningRanks&) = delete;
  ~RunningRanks();

  [[nodiscard]] const heed::TrainingRanks& hooks() const { return hooks_; }
  /// Ends this rank with an exit code, and all others with it: who waits for a rank that is gone waits for ever.
  void abort(int code) const;

 private:
  [[maybe_unused]] bool started_ = false;
  heed::TrainingRanks hooks_;
};

}  // namespace train_treeformer
