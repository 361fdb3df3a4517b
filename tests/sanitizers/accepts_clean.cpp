#include <cstddef>
#include <vector>

// Correct use of everything heed uses from OpenMP: rows of one's own, a region after a region, tasks taken in any
// order, partial results handed from one thread to another across a barrier.
int main() {
  constexpr std::ptrdiff_t n = 1000;
  std::vector<double> rows(n);
  double sum = 0;
  for (int repeat = 0; repeat < 20; ++repeat) {
#pragma omp parallel for num_threads(4)
    for (std::ptrdiff_t i = 0; i < n; ++i) rows[i] = static_cast<double>(i);
    std::vector<double> mirrored(n);
#pragma omp parallel num_threads(4)
    {
#pragma omp for schedule(dynamic)
      for (std::ptrdiff_t i = 0; i < n; ++i) mirrored[i] = rows[n - 1 - i];
#pragma omp for schedule(static) reduction(+ : sum)
      for (std::ptrdiff_t i = 0; i < n; ++i) sum += mirrored[n - 1 - i];
    }
  }
  return sum == 20.0 * n * (n - 1) / 2 ? 0 : 1;
}
