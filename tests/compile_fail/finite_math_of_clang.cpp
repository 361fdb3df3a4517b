// compilers: clang
// flags: -O2 -ffast-math
// expect: heed: masks need infinities: behind -ffast-math add -fno-finite-math-only
#include "heed/heed.hpp"

int main() { return 0; }
