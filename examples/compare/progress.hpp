#pragma once
#include <chrono>
#include <cstdio>
#include <string>

#include <unistd.h>

namespace compare {

/// One line on stderr that says how far a run has come: rewritten in place on a terminal, once a second elsewhere where
/// asked for, nothing otherwise and nothing in the first second.
class Progress {
 public:
  explicit Progress(bool asked) : terminal_(isatty(STDERR_FILENO) == 1), shown_(asked || terminal_) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (terminal_ && written_) std::fputs("\r\033[K", stderr);
  }

  void operator()(const std::string& phase, double share) {
    const auto now = Clock::now();
    if (!shown_ ||
        now - last_ < (terminal_ && written_ ? std::chrono::milliseconds(200) : std::chrono::milliseconds(1000))) {
      return;
    }
    last_ = now;
    written_ = true;
    std::fprintf(stderr, terminal_ ? "\rcompare: %s, %.0f%%\033[K" : "compare: %s, %.0f%%\n", phase.c_str(),
                 100 * share);
    std::fflush(stderr);
  }

 private:
  using Clock = std::chrono::steady_clock;

  bool terminal_;
  bool shown_;
  bool written_ = false;
  Clock::time_point last_ = Clock::now();
};

}  // namespace compare
