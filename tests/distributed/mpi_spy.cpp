#include "distributed/mpi_spy.hpp"

#include <cstdlib>
#include <cstring>
#include <new>

#include <mpi.h>

namespace heed::test {

MpiSpy& mpi_spy() {
  static MpiSpy spy;
  return spy;
}

}  // namespace heed::test

namespace {
bool fails(const char* call) {
  const char* const failing = heed::test::mpi_spy().failing_call;
  return failing != nullptr && std::strcmp(failing, call) == 0;
}
}  // namespace

// MPI's own way in for tools: these stand before the library's.
extern "C" int MPI_Allgather(const void* a, int n, MPI_Datatype x, void* b, int m, MPI_Datatype y, MPI_Comm comm) {
  return fails("MPI_Allgather") ? MPI_ERR_OTHER : PMPI_Allgather(a, n, x, b, m, y, comm);
}
extern "C" int MPI_Bcast(void* data, int n, MPI_Datatype type, int root, MPI_Comm comm) {
  return fails("MPI_Bcast") ? MPI_ERR_TRUNCATE : PMPI_Bcast(data, n, type, root, comm);
}
extern "C" int MPI_Isend(const void* data, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm,
                         MPI_Request* request) {
  if (fails("MPI_Isend")) return MPI_ERR_RANK;
  heed::test::mpi_spy().bytes_sent += n;  // the library sends bytes
  return PMPI_Isend(data, n, type, to, tag, comm, request);
}

namespace {
template <class Allocate>
void* allocated(const Allocate& allocate) {
  heed::test::MpiSpy& spy = heed::test::mpi_spy();
  ++spy.news;
  void* memory = spy.news_left >= 0 && spy.news_left-- == 0 ? nullptr : allocate();
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

void* operator new(std::size_t bytes) {
  return allocated([&] { return std::malloc(bytes == 0 ? 1 : bytes); });
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {  // of workspaces
  const auto unit = static_cast<std::size_t>(alignment);
  return allocated([&] { return std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit); });
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
