#include "ranks.hpp"

#ifdef HEED_EXAMPLE_MPI
#include <cstdlib>
#include <memory>

#include <mpi.h>
#include <heed/distributed/rank_chain.hpp>

namespace train_treeformer {

RunningRanks::RunningRanks(int& argc, char**& argv) {
  // What mpirun of Open MPI, and of MPICH and its kin, tells its processes.
  for (const char* said : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) started_ = started_ || std::getenv(said) != nullptr;
  if (!started_) return;
  MPI_Init(&argc, &argv);
  const auto chain = std::make_shared<heed::RankChain>(MPI_COMM_WORLD);
  hooks_.rank = chain->rank();
  hooks_.n_ranks = chain->n_ranks();
  hooks_.receive = [chain](void* data, std::size_t bytes) { chain->receive(data, bytes); };
  hooks_.send = [chain](const void* data, std::size_t bytes) { chain->send(data, bytes); };
  hooks_.share = [chain](void* data, std::size_t bytes) { chain->share(data, bytes); };
}

RunningRanks::~RunningRanks() {
  if (started_) MPI_Finalize();
}

void RunningRanks::abort(int code) const {
  if (started_ && hooks_.n_ranks > 1) MPI_Abort(MPI_COMM_WORLD, code);
}

}  // namespace train_treeformer
#else
namespace train_treeformer {

RunningRanks::RunningRanks(int&, char**&) {}
RunningRanks::~RunningRanks() = default;
void RunningRanks::abort(int) const {}

}  // namespace train_treeformer
#endif
