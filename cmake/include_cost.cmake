# What including heed costs a user, recorded and not judged (a clock is no gate): preprocessed lines and the processor
# time to parse heed.hpp beside Eigen/Core alone, and to build the smallest program beside one Eigen product.
#
#   cmake [-D COMPILERS=<list>] [-D EIGEN=<folder>] [-D SCRATCH=<folder>] -P include_cost.cmake
include("${CMAKE_CURRENT_LIST_DIR}/gate_tools.cmake")
set(repeats 3)
set(scratch "${SCRATCH}/include_cost")

file(WRITE "${scratch}/eigen.cpp" "#include <Eigen/Core>\n")
file(WRITE "${scratch}/heed.cpp" "#include <Eigen/Core>\n#include \"heed/heed.hpp\"\n")
file(WRITE "${scratch}/product.cpp" "#include <Eigen/Core>
Eigen::MatrixXf product(const Eigen::MatrixXf& a, const Eigen::MatrixXf& b) { return a * b; }\n")
file(WRITE "${scratch}/smallest.cpp" "#include \"heed/heed.hpp\"
Eigen::MatrixXf smallest(const Eigen::MatrixXf& q, const Eigen::MatrixXf& k, const Eigen::MatrixXf& v) {
  return heed::attend(q, k, v).out;
}\n")

# measure(<variable>, <command>...): the least processor time of `repeats` runs, in milliseconds. A busy machine
# disturbs processor time little.
function(measure variable)
  set(least 999999999)
  foreach(repeat RANGE 1 ${repeats})
    execute_process(COMMAND bash -c "TIMEFORMAT='%3U %3S'; time \"$@\" 2>&1" time ${ARGN} RESULT_VARIABLE result
                    OUTPUT_VARIABLE said ERROR_VARIABLE times)
    if(NOT result EQUAL 0 OR NOT times MATCHES "^0*([0-9]+)[.]([0-9]+) 0*([0-9]+)[.]([0-9]+)")
      message(FATAL_ERROR "include_cost: ${ARGN} failed:\n${said}${times}")
    endif()
    math(EXPR time "1000 * ${CMAKE_MATCH_1} + 1${CMAKE_MATCH_2} + 1000 * ${CMAKE_MATCH_3} + 1${CMAKE_MATCH_4} - 2000")
    if(time LESS least)
      set(least ${time})
    endif()
  endforeach()
  set(${variable} ${least} PARENT_SCOPE)
endfunction()

function(count_lines variable)
  execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE text ERROR_QUIET)
  string(REGEX REPLACE "[][;\\]" "" text "${text}")
  string(REGEX MATCHALL "[^\n \t][^\n]*\n" lines "${text}")
  list(LENGTH lines n)
  set(${variable} ${n} PARENT_SCOPE)
endfunction()

foreach(compiler IN LISTS FIRST_AND_LAST)
  set(flags -std=c++20 "-I${ROOT}/include" -isystem "${EIGEN}")
  foreach(name IN ITEMS eigen heed)
    measure(parse_${name} "${compiler}" ${flags} -fsyntax-only "${scratch}/${name}.cpp")
    count_lines(lines_${name} "${compiler}" ${flags} -E -P "${scratch}/${name}.cpp")
  endforeach()
  foreach(name IN ITEMS product smallest)
    measure(build_${name} "${compiler}" ${flags} -O2 -c "${scratch}/${name}.cpp" -o "${scratch}/${name}.o")
  endforeach()
  math(EXPR more "${parse_heed} - ${parse_eigen}")
  math(EXPR more_lines "${lines_heed} - ${lines_eigen}")
  math(EXPR percent "100 * ${build_smallest} / ${build_product}")
  message("include_cost with ${compiler}:
  parsing Eigen/Core ${parse_eigen} ms (${lines_eigen} lines); heed.hpp adds ${more} ms (${more_lines} lines)
  building one Eigen product at -O2 ${build_product} ms; the smallest heed program ${build_smallest} ms (${percent}%)")
endforeach()
