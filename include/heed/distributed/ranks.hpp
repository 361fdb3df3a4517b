#pragma once
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <stdexcept>

#include <mpi.h>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"

namespace heed {

/// A call over several ranks cannot go on, for no fault of its arguments: a call of MPI failed, or another rank ran out
/// of memory. The message names the call or the rank.
class DistributedError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {

/// Throws where a call of MPI has failed.
inline void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
  text[std::min(length, MPI_MAX_ERROR_STRING - 1)] = '\0';
  throw DistributedError(message(call, " failed: ", text));
}

/// The ranks of a communicator, and a communicator of their own, so that no message of ours meets one of the program's
/// and errors come back as codes. It is made by the first call (all ranks make it together), kept as an attribute of
/// the program's communicator, and freed with it. Only the thread that calls us calls MPI: MPI_THREAD_SINGLE is enough.
class Ranks {
 public:
  /// Errors  OptionError for MPI_COMM_NULL or an intercommunicator, DistributedError where MPI does not run.
  explicit Ranks(MPI_Comm given) {
    int begun = 0, ended = 0;
    check_mpi(MPI_Initialized(&begun), "MPI_Initialized");
    check_mpi(MPI_Finalized(&ended), "MPI_Finalized");
    if (begun == 0 || ended != 0)
      throw DistributedError("heed: comm must be used between MPI_Init and MPI_Finalize: MPI does not run");
    if (given == MPI_COMM_NULL) throw OptionError("heed: comm is MPI_COMM_NULL but must be a communicator");
    comm_ = own_of(given);
    int rank = 0, size = 1;
    check_mpi(MPI_Comm_rank(comm_, &rank), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(comm_, &size), "MPI_Comm_size");
    rank_ = rank;
    size_ = size;
  }

  MPI_Comm comm() const { return comm_; }
  Index rank() const { return rank_; }
  Index size() const { return size_; }
  /// The rank `steps` further on, or back: from 0 .. size - 1.
  int behind(Index steps) const { return static_cast<int>(((rank_ + steps) % size_ + size_) % size_); }

 private:
  // The program's handler, set aside while its communicator is looked at.
  class CodesInstead {
   public:
    explicit CodesInstead(MPI_Comm comm) : comm_(comm) {
      check_mpi(MPI_Comm_get_errhandler(comm, &before_), "MPI_Comm_get_errhandler");
      check_mpi(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    }
    CodesInstead(const CodesInstead&) = delete;
    ~CodesInstead() {
      MPI_Comm_set_errhandler(comm_, before_);
      MPI_Errhandler_free(&before_);
    }

   private:
    MPI_Comm comm_;
    MPI_Errhandler before_ = MPI_ERRHANDLER_NULL;
  };

  // The attribute is the handle itself: where one rank had no memory to keep it in, others would wait.
  static MPI_Comm handle_of(void* value) {
    static_assert(sizeof(MPI_Comm) <= sizeof(void*));
    MPI_Comm handle;
    std::memcpy(&handle, &value, sizeof handle);
    return handle;
  }
  static int free_own(MPI_Comm, int, void* value, void*) {
    MPI_Comm own = handle_of(value);
    return MPI_Comm_free(&own);
  }
  static int key() {
    static const int key = [] {
      int made = MPI_KEYVAL_INVALID;
      check_mpi(MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, &Ranks::free_own, &made, nullptr),
                "MPI_Comm_create_keyval");
      return made;
    }();
    return key;
  }
  static MPI_Comm own_of(MPI_Comm given) {
    const CodesInstead codes(given);
    void* value = nullptr;
    int found = 0;
    check_mpi(MPI_Comm_get_attr(given, key(), static_cast<void*>(&value), &found), "MPI_Comm_get_attr");
    if (found != 0) return handle_of(value);
    int between = 0;
    check_mpi(MPI_Comm_test_inter(given, &between), "MPI_Comm_test_inter");
    if (between != 0) throw OptionError("heed: comm is an intercommunicator but must be one group of ranks");
    MPI_Comm made = MPI_COMM_NULL;
    check_mpi(MPI_Comm_dup(given, &made), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(made, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    std::memcpy(&value, &made, sizeof made);
    check_mpi(MPI_Comm_set_attr(given, key(), value), "MPI_Comm_set_attr");
    return made;
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  Index rank_ = 0, size_ = 1;
};

constexpr std::size_t most_of_a_piece = std::size_t(1) << 28;  ///< bytes: MPI counts in int

/// Calls transfer(first byte, bytes) for the pieces of a message.
template <class Transfer>
void for_each_piece(std::size_t bytes, const Transfer& transfer) {
  for (std::size_t at = 0; at < bytes; at += most_of_a_piece)
    transfer(at, static_cast<int>(std::min(most_of_a_piece, bytes - at)));
}

inline void send(const Ranks& ranks, const void* data, std::size_t bytes, int to, int tag) {
  for_each_piece(bytes, [&](std::size_t at, int n) {
    check_mpi(MPI_Send(static_cast<const char*>(data) + at, n, MPI_BYTE, to, tag, ranks.comm()), "MPI_Send");
  });
}
inline void receive(const Ranks& ranks, void* data, std::size_t bytes, int from, int tag) {
  for_each_piece(bytes, [&](std::size_t at, int n) {
    check_mpi(MPI_Recv(static_cast<char*>(data) + at, n, MPI_BYTE, from, tag, ranks.comm(), MPI_STATUS_IGNORE),
              "MPI_Recv");
  });
}
inline void broadcast(const Ranks& ranks, void* data, std::size_t bytes, Index from) {
  for_each_piece(bytes, [&](std::size_t at, int n) {
    check_mpi(MPI_Bcast(static_cast<char*>(data) + at, n, MPI_BYTE, static_cast<int>(from), ranks.comm()), "MPI_Bcast");
  });
}
/// Puts the sum over ranks, from rank 0 on, in the place of each rank's n numbers: MPI_Allreduce would leave the order
/// open. `room`: for n more.
template <class T>
void add_in_order(const Ranks& ranks, T* numbers, T* room, Index n) {
  constexpr int tag = 2;
  const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
  if (ranks.rank() > 0) {
    receive(ranks, room, bytes, ranks.behind(-1), tag);
    for (Index i = 0; i < n; ++i) numbers[i] = room[i] + numbers[i];
  }
  if (ranks.rank() + 1 < ranks.size()) send(ranks, numbers, bytes, ranks.behind(1), tag);
  broadcast(ranks, numbers, bytes, ranks.size() - 1);
}
/// `all`: size() times `bytes`, those of rank 0 first.
inline void gather(const Ranks& ranks, const void* mine, void* all, int bytes) {
  check_mpi(MPI_Allgather(mine, bytes, MPI_BYTE, all, bytes, MPI_BYTE, ranks.comm()), "MPI_Allgather");
}

}  // namespace detail
}  // namespace heed
