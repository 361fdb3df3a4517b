# A program that makes most calls, where the templates behind them are seen, is read without a warning, of those too
# that careful users switch on, and with an index type and macros of others. With the first compiler found (g++ where
# there is one) and the newest clang; the headers are no system headers to them.
#
#   cmake [-D COMPILERS=<list>] [-D EIGEN=<folder>] -P strict.cmake
include("${CMAKE_CURRENT_LIST_DIR}/gate_tools.cmake")
set(program "${ROOT}/tests/headers/many_calls.cpp")
set(strict -Wconversion -Wsign-conversion -Wold-style-cast -Wdouble-promotion -Wswitch-default -Wmissing-declarations)
set(check -std=c++20 ${warning_flags} "-I${ROOT}/include" -isystem "${EIGEN}" -fsyntax-only "${program}")
foreach(compiler IN LISTS FIRST_AND_LAST)
  set(more ${strict})
  if(NOT compiler MATCHES "clang")
    list(APPEND more -Wuseless-cast)
  endif()
  also_run("strict warnings with ${compiler}" "${compiler}" ${more} ${check})
  also_run("macros and another index type with ${compiler}" "${compiler}" -DHEED_TEST_MACROS
           -DEIGEN_DEFAULT_DENSE_INDEX_TYPE=int ${check})
endforeach()
run_all(failures)
if(failures GREATER 0)
  message(FATAL_ERROR "strict: ${failures} failure(s)")
endif()
message("strict: no warning, with ${FIRST_AND_LAST}")
