#pragma once
#include <cstddef>

namespace heed_bench {

/// DRAM read bandwidth in bytes per second: `threads` threads read disjoint parts of one buffer that no cache can hold.
///
/// The buffer is 1.5 GiB unless told otherwise, in huge pages where the kernel gives them. It is written once and then
/// read pass after pass with the widest vector loads, sixteen to a turn, folded into eight registers. Each trial reads
/// it without and with software prefetch 4 KiB ahead, and the faster pass counts. Decoding is held to this bandwidth.
class ReadBandwidth {
 public:
  explicit ReadBandwidth(std::size_t bytes = default_bytes);
  ~ReadBandwidth();
  ReadBandwidth(const ReadBandwidth&) = delete;
  ReadBandwidth& operator=(const ReadBandwidth&) = delete;

  /// One trial: each way of reading goes over the whole buffer once, and the faster pass counts.
  [[nodiscard]] double measure(int threads) const;
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

  static constexpr std::size_t default_bytes = std::size_t{3} << 29U;

 private:
  std::size_t bytes_;
  unsigned char* data_;
};

}  // namespace heed_bench
