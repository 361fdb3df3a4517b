#include <vector>

// Reads one past the end. The size is not known to the compiler, so that only the sanitizer can see it.
int main(int argc, char**) {
  const std::vector<float> row(static_cast<unsigned>(argc) + 3, 1.0F);
  const float* const values = row.data();
  return values[argc + 3] > 0 ? 0 : 1;
}
