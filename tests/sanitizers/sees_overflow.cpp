#include <limits>

// Adds one to the largest int. Volatile, so that the compiler neither proves nor removes the overflow.
int main() {
  volatile int largest = std::numeric_limits<int>::max();
  volatile int sum = largest + 1;
  return sum == 0 ? 1 : 0;
}
