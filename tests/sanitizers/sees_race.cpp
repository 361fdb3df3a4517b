#include <cstdio>

// Every thread adds to one sum without agreeing on it.
int main() {
  int sum = 0;
#pragma omp parallel for num_threads(4)
  for (int i = 0; i < 100000; ++i) sum += i & 1;
  std::printf("%d\n", sum);
}
