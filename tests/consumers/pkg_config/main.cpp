#include "../main_program.hpp"

int main() { return main_program("pkg_config"); }
