// flags: -std=c++17
// first: heed: needs C++20: compile with -std=c++20
#include "heed/heed.hpp"

int main() { return 0; }
