#pragma once
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include "heed/core/types.hpp"

namespace heed {

/// Scratch memory that calls reuse: the first call grows it, later calls of the same shapes allocate nothing.
/// Threads: one workspace per concurrent call (a call shares it among its own threads).
class Workspace {
 public:
  Workspace() = default;
  Workspace(Workspace&&) = default;
  Workspace& operator=(Workspace&&) = default;

  /// Bytes held.
  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const Block& block : blocks_) sum += block.size;
    return sum;
  }

  /// Takes memory for the life of one call and gives all of it back when destroyed; frames nest.
  class Frame {
   public:
    explicit Frame(Workspace& workspace) : workspace_(workspace), block_(workspace.block_), used_(workspace.used_) {}
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;
    ~Frame() {
      workspace_.block_ = block_;
      workspace_.used_ = used_;
    }
    /// `count` entries aligned to 64 bytes, not initialised.
    template <class T>
    T* take(std::size_t count) {
      return reinterpret_cast<T*>(workspace_.take_bytes(count * sizeof(T)));
    }

   private:
    Workspace& workspace_;
    std::size_t block_;
    std::size_t used_;
  };

 private:
  static constexpr std::size_t alignment = 64;
  struct Free {
    void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{alignment}); }
  };
  struct Block {
    std::unique_ptr<std::byte, Free> data;
    std::size_t size;
  };

  std::byte* take_bytes(std::size_t bytes) {
    bytes = (bytes + alignment - 1) / alignment * alignment;
    while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size) {
      ++block_;
      used_ = 0;
    }
    if (block_ == blocks_.size()) {
      auto* fresh = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{alignment}));
      blocks_.push_back({std::unique_ptr<std::byte, Free>(fresh), bytes});
    }
    std::byte* start = blocks_[block_].data.get() + used_;
    used_ += bytes;
    return start;
  }

  std::vector<Block> blocks_;
  std::size_t block_ = 0;  // where the next bytes come from
  std::size_t used_ = 0;   // bytes in use of that block
};

namespace detail {

/// Hands out parts of a block of memory in order, each aligned to 64 bytes. Without a block it only measures.
class Scratch {
 public:
  explicit Scratch(std::byte* block = nullptr) : block_(block) {}

  template <class T>
  T* take(std::size_t count) {
    T* start = block_ == nullptr ? nullptr : reinterpret_cast<T*>(block_ + used_);
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return start;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* block_;
  std::size_t used_ = 0;
};

}  // namespace detail
}  // namespace heed
