#pragma once
#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"

namespace heed {

/// Scratch memory that calls reuse: the first call grows it, later calls of the same shapes allocate nothing.
/// Threads: one workspace per concurrent call (a call shares it among its own threads).
class Workspace {
 public:
  Workspace() = default;
  Workspace(Workspace&&) = default;
  Workspace& operator=(Workspace&&) = default;

  /// Gives all memory back; the next call grows it again.
  /// Errors  OptionError while a frame is open: a call is using the memory.
  void release() {
    if (frames_ > 0) {
      throw OptionError(detail::message("Workspace::release: ", frames_,
                                        " frames are open but none must be: a call uses the memory"));
    }
    std::vector<Block>().swap(blocks_);
    std::vector<Workspace>().swap(of_threads_);
  }

  /// Bytes held.
  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const Block& block : blocks_) sum += block.size;
    for (const Workspace& own : of_threads_) sum += own.bytes();
    return sum;
  }

  /// Workspaces of the threads of a call each of which runs calls of its own; `n` of them at least.
  std::vector<Workspace>& of_threads(std::size_t n) {
    if (of_threads_.size() < n) of_threads_.resize(n);
    return of_threads_;
  }

  /// Takes memory for the life of one call and gives all of it back when destroyed; frames nest.
  class Frame {
   public:
    explicit Frame(Workspace& workspace) : workspace_(workspace), block_(workspace.block_), used_(workspace.used_) {
      ++workspace.frames_;
    }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;
    ~Frame() {
      workspace_.block_ = block_;
      workspace_.used_ = used_;
      --workspace_.frames_;
    }
    /// `count` entries aligned to 64 bytes, not initialised.
    /// Errors  ShapeError for a negative count or more than memory can hold; std::bad_alloc. The frame is then
    ///         unchanged.
    template <class T>
    T* take(Index count) {
      if (count < 0 || count > most_bytes / static_cast<Index>(sizeof(T))) refuse(count, sizeof(T));
      return reinterpret_cast<T*>(workspace_.take_bytes(static_cast<std::size_t>(count) * sizeof(T)));
    }
    /// A frame inside this one: what it takes is given back before this one takes more.
    Frame nested() { return Frame(workspace_); }

   private:
    Workspace& workspace_;
    std::size_t block_;
    std::size_t used_;
  };

 private:
  static constexpr std::size_t alignment = 64;
  static constexpr std::size_t least_block = 4096, most_spare = 65536;
  struct Free {
    void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{alignment}); }
  };
  struct Block {
    std::unique_ptr<std::byte, Free> data;
    std::size_t size;
  };

  static constexpr Index most_bytes = Index(1) << (sizeof(Index) >= 8 ? 62 : 30);
  [[noreturn, gnu::noinline]] static void refuse(Index count, std::size_t size) {
    throw ShapeError(detail::message("Workspace: ", count, " entries of ", size,
                                     " bytes must be at least 0 and at most ", most_bytes, " bytes"));
  }

  std::byte* take_bytes(std::size_t bytes) {
    bytes = (bytes + alignment - 1) / alignment * alignment;
    std::size_t block = block_, used = used_;
    while (block < blocks_.size() && used + bytes > blocks_[block].size) {
      ++block;
      used = 0;
    }
    if (block == blocks_.size()) {
      // Blocks grow with what is held, up to a point: a small call allocates once or twice, a large one little more
      // than it takes.
      const std::size_t size = std::max(bytes, std::clamp(this->bytes(), least_block, most_spare));
      blocks_.reserve(blocks_.size() + 1);
      auto* fresh = static_cast<std::byte*>(::operator new (size, std::align_val_t{alignment}));
      blocks_.push_back({std::unique_ptr<std::byte, Free>(fresh), size});
    }
    block_ = block;
    used_ = used + bytes;
    return blocks_[block].data.get() + used;
  }

  std::vector<Block> blocks_;
  std::vector<Workspace> of_threads_;
  std::size_t block_ = 0;  // where the next bytes come from
  std::size_t used_ = 0;   // bytes in use of that block
  int frames_ = 0;         // open ones
};

namespace detail {

/// Hands out parts of a block of memory in order, each aligned to 64 bytes. Without a block it only measures.
class Scratch {
 public:
  explicit Scratch(std::byte* block = nullptr) : block_(block) {}

  template <class T>
  T* take(Index count) {
    T* start = block_ == nullptr ? nullptr : reinterpret_cast<T*>(block_ + used_);
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return start;
  }
  /// `count` objects, each made by make_one(scratch) with what it takes for itself.
  template <class MakeOne>
  auto* make(Index count, const MakeOne& make_one) {
    using Object = decltype(make_one(*this));
    Object* objects = take<Object>(count);
    for (Index i = 0; i < count; ++i) {
      if (block_ == nullptr) {
        make_one(*this);
      } else {
        new (objects + i) Object(make_one(*this));
      }
    }
    return objects;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* block_;
  std::size_t used_ = 0;
};

}  // namespace detail
}  // namespace heed
