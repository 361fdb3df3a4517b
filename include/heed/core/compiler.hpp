#pragma once

// What the compiler must be told. The first error of a program that lacks it is one of these.
#if !defined(__cpp_concepts) || (defined(__GNUC__) && __cplusplus <= 201703L)
#error "heed: needs C++20: compile with -std=c++20, or link heed::heed in CMake, which asks for it"
#endif
#if !defined(__cpp_exceptions)
#error "heed: needs exceptions, with which it refuses wrong shapes and options: compile without -fno-exceptions"
#endif
