#pragma once
#include <cstddef>

namespace heed_bench {

/// DRAM read bandwidth in bytes per second: `threads` threads read disjoint parts of one buffer far larger than any cache.
///
/// The buffer (1.5 GiB unless told otherwise, huge pages where the kernel gives them) is written once and then read pass after
/// pass with the widest vector loads, sixteen to a turn, the results folded into eight registers. Each trial tries plain
/// sequential reading and software prefetch 4 KiB ahead, and keeps the faster: that is the bandwidth a decoder is held to.
class ReadBandwidth {
 public:
  explicit ReadBandwidth(std::size_t bytes = default_bytes);
  ~ReadBandwidth();
  ReadBandwidth(const ReadBandwidth&) = delete;
  ReadBandwidth& operator=(const ReadBandwidth&) = delete;

  /// One trial: every way of reading once over the whole buffer; the faster pass counts.
  [[nodiscard]] double measure(int threads) const;
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

  static constexpr std::size_t default_bytes = std::size_t{3} << 29U;

 private:
  std::size_t bytes_;
  unsigned char* data_;
};

}  // namespace heed_bench
