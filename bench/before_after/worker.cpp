// Times the cases against the headers it was built with, one batch of calls for each line it reads: "<case> <calls>",
// calls = 0 asks for as many as take 10 ms. Answers "<calls> <nanoseconds a call>". First it writes the names of its
// cases.
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "cases.hpp"

namespace {

double time_ns(const std::function<void()>& call, long calls) {
  const auto start = std::chrono::steady_clock::now();
  for (long c = 0; c < calls; ++c) call();
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
}

long calls_for(const std::function<void()>& call) {
  call();  // grows the workspace
  long calls = 1;
  while (time_ns(call, calls) < 1e7) calls *= 2;
  return calls;
}

}  // namespace

int main(int argc, char** argv) {
  const auto cases = before_after::all_cases(argc > 1 ? std::atol(argv[1]) : 1);
  for (const auto& one : cases) std::printf("%s\n", one.name.c_str());
  std::printf("\n");
  std::fflush(stdout);
  std::size_t prepared = cases.size(), wanted = 0;
  long calls = 0;
  std::function<void()> call;
  while (std::scanf("%zu %ld", &wanted, &calls) == 2 && wanted < cases.size()) {
    if (wanted != prepared) {
      call = nullptr;  // the operands of the last case go first
      call = cases[wanted].prepare();
      prepared = wanted;
    }
    if (calls == 0) calls = calls_for(call);
    call();  // warms caches that the other program has used meanwhile
    std::printf("%ld %.1f\n", calls, time_ns(call, calls) / static_cast<double>(calls));
    std::fflush(stdout);
  }
}
