#pragma once
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"
#include "heed/distributed/ranks.hpp"

namespace heed::detail {

/// What went wrong on this rank, kept until all ranks can throw it together.
class Failure {
 public:
  /// Runs work() and keeps what it throws, the first time.
  template <class Work>
  void guard(const Work& work) {
    if (failure_) return;
    try {
      work();
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  explicit operator bool() const { return failure_ != nullptr; }

  /// Throws on every rank what `rank` has kept; all ranks call it with the same number. The rank itself rethrows what
  /// it caught, unless words about where it happened can be added: those of errors about arguments.
  [[noreturn]] void throw_that_of(const Ranks& ranks, Index rank) const {
    std::int64_t head[2] = {other, 0};
    std::string text;
    if (ranks.rank() == rank) {
      describe(head[0], text);
      head[1] = static_cast<std::int64_t>(text.size());
    }
    broadcast(ranks, head, sizeof head, rank);
    text.resize(static_cast<std::size_t>(head[1]));
    broadcast(ranks, text.data(), text.size(), rank);
    if (head[0] == other) {
      if (ranks.rank() == rank) std::rethrow_exception(failure_);
      throw DistributedError(message("rank ", rank, " of ", ranks.size(), " could not go on: ", text));
    }
    if (ranks.size() > 1) text += joined({" (on rank ", rank, " of ", ranks.size(), ")"});
    if (head[0] == shape) throw ShapeError(text);
    throw OptionError(text);
  }

  /// Gathers who has failed, and throws on every rank what the first of them kept; returns where none has.
  void settle(const Ranks& ranks) const {
    std::int64_t first = failure_ ? ranks.rank() : ranks.size(), least = first;
    check_mpi(MPI_Allreduce(&first, &least, 1, MPI_INT64_T, MPI_MIN, ranks.comm()), "MPI_Allreduce");
    if (least < ranks.size()) throw_that_of(ranks, least);
  }

 private:
  enum Kind : std::int64_t { shape, option, other };

  void describe(std::int64_t& kind, std::string& text) const {
    kind = other;
    try {
      std::rethrow_exception(failure_);
    } catch (const ShapeError& error) {
      kind = shape;
      text = error.what();
    } catch (const OptionError& error) {
      kind = option;
      text = error.what();
    } catch (const std::exception& error) {
      text = error.what();
    } catch (...) {
      text = "an exception of an unknown type";
    }
  }

  std::exception_ptr failure_;
};

}  // namespace heed::detail
