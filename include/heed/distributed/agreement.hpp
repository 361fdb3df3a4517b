#pragma once
#include <array>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <string>

#include <mpi.h>

#include "heed/core/digest.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pair_view.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/distributed/failure.hpp"
#include "heed/distributed/ranks.hpp"
#include "heed/kernels/isa.hpp"

namespace heed::detail {

/// What ranks tell each other before the first transfer of a call, in one gather of a fixed size: what must be the same
/// everywhere, what each has of its own, and whether its arguments are wrong. All ranks see the same table and come to
/// the same verdict, so that where one throws all do, in the same words.
class Agreement {
 public:
  /// `call`: the name of the call that is made; `frame`: where what all ranks say is kept.
  Agreement(const Ranks& ranks, const char* call, Workspace::Frame& frame) : ranks_(ranks), frame_(frame) {
    same_digest("the call", call_number(call));
  }

  /// Runs check(), whose exception becomes everybody's.
  template <class Check>
  void check(const Check& check) {
    failure_.guard(check);
  }

  void same_size(const char* name, Index size) { add(name, Kind::size, size); }
  void same_option(const char* name, Index value) { add(name, Kind::option, value); }
  /// Entries of a list, or PerHead::every_head.
  void same_count(const char* name, Index entries) { add(name, Kind::count, entries); }
  /// One of some names; `text` has them.
  void same_word(const char* name, Index number, std::string (*text)(Index)) {
    add(name, Kind::word, number);
    entries_[n_ - 1].text = text;
  }
  template <class S>
  void same_scalar(const char* name) {
    if constexpr (RealScalar<S>) {
      add(name, Kind::scalar, static_cast<std::int64_t>(dtype_of<S>()));
    } else {
      add(name, Kind::scalar, -1 - static_cast<std::int64_t>(sizeof(S)));
    }
  }
  void same_isa(Index isa) {
    same_word("HEED_ISA", isa, [](Index number) { return std::string(isa_name(static_cast<Isa>(number))); });
  }
  void same_flag(const char* name, bool given) { add(name, Kind::flag, given ? 1 : 0); }
  void same_number(const char* name, const std::optional<double>& number) {
    same_flag(name, number.has_value());
    add(name, Kind::number, std::bit_cast<std::int64_t>(number.value_or(0.0)));
  }
  /// Numbers too many to send, by a digest of them.
  void same_digest(const char* name, std::uint64_t digest) {
    add(name, Kind::digest, std::bit_cast<std::int64_t>(digest));
  }

  /// A size that ranks need not share; returns what of() finds it by.
  std::size_t own(Index value) {
    add("", Kind::own, value);
    return n_ - 1;
  }

  /// Gathers. Throws on every rank alike: the error of the lowest rank whose check threw, or what differs first.
  void conclude() {
    values_[0] = failure_ ? 1 : 0;
    make_room();
    gather(ranks_, &values_, all_.data(), static_cast<int>(sizeof values_));
    for (std::size_t r = 1; r < all_.size(); ++r) {
      if (all_[r][1] != all_[0][1])
        throw OptionError(message("rank ", r, " makes another call than rank 0: every rank must make the same"));
    }
    for (std::size_t r = 0; r < all_.size(); ++r) {
      if (all_[r][0] != 0) failure_.throw_that_of(ranks_, static_cast<Index>(r));
    }
    for (std::size_t e = 1; e < n_; ++e) {
      for (std::size_t r = 1; r < all_.size(); ++r) {
        if (entries_[e].kind != Kind::own && all_[r][e] != all_[0][e]) refuse(e, r);
      }
    }
  }
  /// What `rank` gave; after conclude().
  Index of(std::size_t own, Index rank) const { return all_[static_cast<std::size_t>(rank)][own]; }

 private:
  static constexpr std::size_t most = 64;
  enum class Kind { own, size, option, count, word, scalar, flag, number, digest };
  struct Entry {
    const char* name = "";
    Kind kind = Kind::own;
    std::string (*text)(Index) = nullptr;  // of a word
  };
  using Values = std::array<std::int64_t, most>;

  // For what all ranks say. Where one has no memory for it, no rank goes on.
  void make_room() {
    int has_room = 1, all_have = 1;
    try {
      all_ = {frame_.take<Values>(ranks_.size()), static_cast<std::size_t>(ranks_.size())};
    } catch (const std::bad_alloc&) {
      has_room = 0;
    }
    check_mpi(MPI_Allreduce(&has_room, &all_have, 1, MPI_INT, MPI_MIN, ranks_.comm()), "MPI_Allreduce");
    if (all_have == 0) throw DistributedError("heed: a rank has run out of memory");
  }

  static std::uint64_t call_number(const char* call) {
    std::uint64_t number = 0xcbf29ce484222325u;
    for (const char* c = call; *c != '\0'; ++c) number = (number ^ static_cast<unsigned char>(*c)) * 0x100000001b3u;
    return number;
  }
  void add(const char* name, Kind kind, std::int64_t value) {
    assert(n_ < most);
    entries_[n_] = {name, kind, nullptr};
    values_[n_++] = value;
  }

  static std::string scalar_name(std::int64_t dtype) {
    switch (dtype) {
      case static_cast<std::int64_t>(Dtype::f32): return "float";
      case static_cast<std::int64_t>(Dtype::f64): return "double";
      case static_cast<std::int64_t>(Dtype::f16): return "half";
      case static_cast<std::int64_t>(Dtype::bf16): return "bfloat16";
      default: return "another type";
    }
  }
  [[noreturn]] void refuse(std::size_t e, std::size_t rank) const {
    const Entry& entry = entries_[e];
    const std::int64_t first = all_[0][e], other = all_[rank][e];
    const auto told = [&](std::int64_t value) {
      if (entry.kind == Kind::scalar) return scalar_name(value);
      if (entry.kind == Kind::number) return joined({std::bit_cast<double>(value)});
      if (entry.kind == Kind::word) return entry.text(static_cast<Index>(value));
      if (entry.kind == Kind::count && value == PerHead::every_head) return std::string("one entry for all heads");
      if (entry.kind == Kind::count) return joined({value, value == 1 ? " entry" : " entries"});
      return value == Mask::unlimited ? std::string("unlimited") : joined({value});
    };
    const std::string alike = " on rank 0: every rank must give the same";
    if (entry.kind == Kind::flag) {
      throw OptionError(message(entry.name, other != 0 ? " is given on rank " : " is not given on rank ", rank,
                                other != 0 ? " but not" : " but is", alike));
    }
    if (entry.kind == Kind::digest)
      throw OptionError(message(entry.name, " on rank ", rank, " is not what it is", alike));
    const char* is = entry.kind == Kind::count ? " has " : " = ";
    const std::string text = message(entry.name, is, told(other), " on rank ", rank, " but ", told(first), alike);
    if (entry.kind == Kind::size) throw ShapeError(text);
    throw OptionError(text);
  }

  const Ranks& ranks_;
  Workspace::Frame& frame_;
  Failure failure_;
  std::size_t n_ = 1;  // entry 0 says whether the rank has failed
  std::array<Entry, most> entries_{};
  Values values_{};
  std::span<Values> all_;
};

/// Every rank must give the same numbers per head.
inline void agree_on(Agreement& agreement, const char* name, const PerHead& numbers) {
  agreement.same_count(name, numbers.size());
  Digest digest;
  const Index n = numbers.size() == PerHead::every_head ? 1 : numbers.size();
  for (Index h = 0; h < n; ++h) digest.add(numbers.of(h));
  agreement.same_digest(name, digest.sum());
}

/// Every rank must give a mask of pairs of the same shape. Its numbers are not compared: a rank reads those of its own
/// keys (or queries), and may leave out the others.
inline void agree_on(Agreement& agreement, const char* name, const char* rows, const char* cols,
                     const PairView& pairs) {
  agreement.same_flag(name, pairs.given());
  agreement.same_size(rows, pairs.rows());
  agreement.same_size(cols, pairs.cols());
  Digest digest;
  digest.add_all(pairs.n_heads(), pairs.n_entries(), pairs.is_tensor(), pairs.dtype());
  agreement.same_digest(name, digest.sum());
}

inline void agree_on(Agreement& agreement, const char* name, const SequenceOffsets& offsets) {
  agreement.same_count(name, static_cast<Index>(offsets.size()));
  Digest digest;
  for (const Index offset : offsets) digest.add(offset);
  agreement.same_digest(name, digest.sum());
}

inline void agree_on(Agreement& agreement, const AttentionOptions& options) {
  const Mask& mask = options.mask;
  agreement.same_number("AttentionOptions::scale", options.scale);
  agreement.same_number("AttentionOptions::softcap", options.softcap);
  agree_on(agreement, "AttentionOptions::sinks", options.sinks);
  agreement.same_word("Mask::causal", static_cast<Index>(mask.causal), [](Index causal) {
    constexpr std::array<const char*, 4> names{"none", "square", "top_left", "bottom_right"};
    return std::string(names[static_cast<std::size_t>(causal)]);
  });
  agreement.same_flag("Mask::shift", mask.shift.has_value());
  agreement.same_option("Mask::shift", mask.shift.value_or(0));
  agreement.same_option("Mask::window_left", mask.window_left);
  agreement.same_option("Mask::window_right", mask.window_right);
  agreement.same_option("Mask::n_real_keys", mask.n_real_keys);
  agree_on(agreement, "Mask::alibi_slope", mask.alibi_slope);
  agree_on(agreement, "Mask::keys", "rows(mask.keys)", "cols(mask.keys)", mask.keys);
  agree_on(agreement, "Mask::allowed", "rows(mask.allowed)", "cols(mask.allowed)", mask.allowed);
  agree_on(agreement, "Mask::bias", "rows(mask.bias)", "cols(mask.bias)", mask.bias);
  agree_on(agreement, "Mask::key_lengths", mask.key_lengths);
  agree_on(agreement, "Mask::query_lengths", mask.query_lengths);
  agree_on(agreement, "Mask::sequence_offsets", mask.sequence_offsets);
  agree_on(agreement, "Mask::key_sequence_offsets", mask.key_sequence_offsets);
}

}  // namespace heed::detail
