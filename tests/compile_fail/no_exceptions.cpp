// flags: -fno-exceptions
// first: heed: needs exceptions
#include "heed/heed.hpp"

int main() { return 0; }
