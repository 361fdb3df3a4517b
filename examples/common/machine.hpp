#pragma once
#include <string>

namespace common {

/// What a time depends on besides the method.
struct Machine {
  std::string cpu;
  std::string compiler;
  std::string flags;    ///< what the compiler's own macros tell of this program's build
  std::string kernels;  ///< instruction set heed chose at run time
  int threads = 1;

  /// All of it in one line.
  [[nodiscard]] std::string text() const;
};

Machine describe_machine(int asked_threads);

}  // namespace common
