#include "../main_program.hpp"

int main() { return main_program("add_subdirectory"); }
