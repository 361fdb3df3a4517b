#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
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
    Told told;
    if (ranks.rank() == rank) told = describe();
    broadcast(ranks, &told, sizeof told, rank);
    if (told.kind == other) {
      if (ranks.rank() == rank) std::rethrow_exception(failure_);
      throw DistributedError(message("rank ", rank, " of ", ranks.size(), " could not go on: ", told.text));
    }
    std::string text = told.text;
    if (ranks.size() > 1) text += joined({" (on rank ", rank, " of ", ranks.size(), ")"});
    if (told.kind == shape) throw ShapeError(text);
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

  // One message of a fixed size: between two, memory could run out on a rank that listens.
  struct Told {
    Kind kind = other;
    char text[1024] = {};
    void say(const char* words) { std::strncpy(text, words, sizeof text - 1); }
  };

  Told describe() const {
    Told told;
    try {
      std::rethrow_exception(failure_);
    } catch (const ShapeError& error) {
      told.kind = shape;
      told.say(error.what());
    } catch (const OptionError& error) {
      told.kind = option;
      told.say(error.what());
    } catch (const std::exception& error) {
      told.say(error.what());
    } catch (...) {
      told.say("an exception of an unknown type");
    }
    return told;
  }

  std::exception_ptr failure_;
};

}  // namespace heed::detail
