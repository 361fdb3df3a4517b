#pragma once
#include <chrono>
#include <cstdio>
#include <string>
#include <utility>

#include <unistd.h>

namespace common {

/// One line on stderr that says how far a run has come: rewritten in place on a terminal, once every `pause` elsewhere
/// where asked for, nothing otherwise and nothing before the first pause.
class Progress {
 public:
  /// `name`: of the program, at the start of the line.
  Progress(std::string name, bool asked, std::chrono::milliseconds pause = std::chrono::milliseconds(1000))
      : name_(std::move(name)), pause_(pause), terminal_(isatty(STDERR_FILENO) == 1), shown_(asked || terminal_) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { clear(); }

  /// Takes the line away from a terminal, for something else to be written.
  void clear() {
    if (terminal_ && written_) std::fputs("\r\033[K", stderr);
  }

  /// Whether a line would be shown now.
  [[nodiscard]] bool due() const {
    return shown_ && Clock::now() - last_ >= (terminal_ && written_ ? std::chrono::milliseconds(200) : pause_);
  }

  void operator()(const std::string& text) {
    if (!due()) return;
    last_ = Clock::now();
    written_ = true;
    std::fprintf(stderr, terminal_ ? "\r%s: %s\033[K" : "%s: %s\n", name_.c_str(), text.c_str());
    std::fflush(stderr);
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::string name_;
  std::chrono::milliseconds pause_;
  bool terminal_;
  bool shown_;
  bool written_ = false;
  Clock::time_point last_ = Clock::now();
};

}  // namespace common
