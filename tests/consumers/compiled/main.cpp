#include "../main_program.hpp"

#ifndef HEED_COMPILED
#error "heed::compiled does not say that it is"
#endif

int main() { return main_program("compiled"); }
