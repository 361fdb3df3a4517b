// before_after <worker> <worker> [rounds] [threads] [text]: runs two workers in turns, A B B A ..., one batch at a
// time, and prints for each case the shortest times, their ratio, and the median of the ratios of the rounds. Cases
// without `text` in their name are left out. See README.md.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <unistd.h>
#include <sys/wait.h>

namespace {

/// A worker program and the two pipes to it.
class Worker {
 public:
  Worker(const char* program, const char* threads) {
    int down[2], up[2];
    if (pipe(down) != 0 || pipe(up) != 0) std::exit(2);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(down[0], 0);
      dup2(up[1], 1);
      for (const int end : {down[0], down[1], up[0], up[1]}) close(end);
      execl(program, program, threads, static_cast<char*>(nullptr));
      std::perror(program);
      _exit(2);
    }
    close(down[0]);
    close(up[1]);
    to_ = fdopen(down[1], "w");
    from_ = fdopen(up[0], "r");
    for (std::string name = line(); !name.empty(); name = line()) names.push_back(name);
  }
  ~Worker() {
    std::fclose(to_);
    std::fclose(from_);
    waitpid(pid_, nullptr, 0);
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  double time_ns(std::size_t number, long& calls) {
    std::fprintf(to_, "%zu %ld\n", number, calls);
    std::fflush(to_);
    double ns = 0;
    if (std::sscanf(line().c_str(), "%ld %lf", &calls, &ns) != 2) {
      std::fprintf(stderr, "a worker ended during '%s'\n", names[number].c_str());
      std::exit(1);
    }
    return ns;
  }

  std::vector<std::string> names;

 private:
  std::string line() {
    char text[256];
    if (std::fgets(text, sizeof text, from_) == nullptr) return "";
    std::string one = text;
    if (!one.empty() && one.back() == '\n') one.pop_back();
    return one;
  }

  pid_t pid_ = -1;
  std::FILE* to_ = nullptr;
  std::FILE* from_ = nullptr;
};

double median(std::vector<double> numbers) {
  std::sort(numbers.begin(), numbers.end());
  const std::size_t n = numbers.size();
  return n % 2 == 1 ? numbers[n / 2] : 0.5 * (numbers[n / 2 - 1] + numbers[n / 2]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: before_after <worker> <worker> [rounds] [threads] [text]\n");
    return 2;
  }
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 15;
  const char* threads = argc > 4 ? argv[4] : "1";
  const std::string text = argc > 5 ? argv[5] : "";
  Worker a(argv[1], threads), b(argv[2], threads);
  if (a.names.empty() || a.names != b.names) {
    std::fprintf(stderr, "the workers differ in their cases\n");
    return 1;
  }
  std::printf("%-42s %12s %12s %8s %8s\n", "case", "least A", "least B", "B / A", "median");
  for (std::size_t c = 0; c < a.names.size(); ++c) {
    if (a.names[c].find(text) == std::string::npos) continue;
    long calls = 0;  // A decides; B makes as many
    a.time_ns(c, calls);
    b.time_ns(c, calls);
    std::vector<double> of_a, of_b, ratios;
    for (int round = 0; round < rounds; ++round) {
      const bool b_first = round % 2 == 1;
      double ns[2];
      ns[b_first ? 1 : 0] = (b_first ? b : a).time_ns(c, calls);
      ns[b_first ? 0 : 1] = (b_first ? a : b).time_ns(c, calls);
      of_a.push_back(ns[0]);
      of_b.push_back(ns[1]);
      ratios.push_back(ns[1] / ns[0]);
    }
    const double least_a = *std::min_element(of_a.begin(), of_a.end()),
                 least_b = *std::min_element(of_b.begin(), of_b.end());
    const double of_least = least_b / least_a, of_rounds = median(ratios);
    // Other programs on the machine disturb either of the two, seldom both.
    const bool slower = of_least > 1.02 && of_rounds > 1.02, faster = of_least < 0.98 && of_rounds < 0.98;
    std::printf("%-42s %9.2f us %9.2f us %8.3f %8.3f%s\n", a.names[c].c_str(), least_a * 1e-3, least_b * 1e-3, of_least,
                of_rounds,
                slower   ? "  slower"
                : faster ? "  faster"
                         : "");
    std::fflush(stdout);
  }
}
