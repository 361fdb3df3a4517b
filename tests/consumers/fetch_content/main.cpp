#include "../main_program.hpp"

int main() { return main_program("fetch_content"); }
