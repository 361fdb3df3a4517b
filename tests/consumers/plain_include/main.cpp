#include "../main_program.hpp"

int main() { return main_program("plain_include"); }
