# Every header under include/heed compiles alone, included twice, without a warning, with the first compiler found (g++
# where there is one): an include that is missing is missing for every compiler. Every compiler sees heed.hpp, which
# includes them all, as users compile it: with OpenMP, for a newer machine, without assertions, and before and after the
# intrinsics.
#
#   cmake [-D COMPILERS=<list>] [-D EIGEN=<folder>] [-D SCRATCH=<folder>] -P headers_alone.cmake
include("${CMAKE_CURRENT_LIST_DIR}/gate_tools.cmake")

file(GLOB_RECURSE headers RELATIVE "${ROOT}/include" "${ROOT}/include/heed/*.hpp")
if(NOT headers)
  message(FATAL_ERROR "headers_alone: no header found")
endif()
set(intrinsics "#if __has_include(<immintrin.h>)\n#include <immintrin.h>\n#endif\n")
file(WRITE "${SCRATCH}/intrinsics_first.cpp" "${intrinsics}#include \"heed/heed.hpp\"\n")
file(WRITE "${SCRATCH}/intrinsics_last.cpp" "#include \"heed/heed.hpp\"\n${intrinsics}")
file(WRITE "${SCRATCH}/openmp.cpp" "#include <omp.h>\n")
foreach(compiler IN LISTS COMPILERS)
  execute_process(COMMAND "${compiler}" -fopenmp -fsyntax-only "${SCRATCH}/openmp.cpp" RESULT_VARIABLE result
                  OUTPUT_QUIET ERROR_QUIET)
  if(result EQUAL 0)
    list(APPEND compilers_with_openmp "${compiler}")
  endif()
endforeach()

list(GET COMPILERS 0 first_compiler)

foreach(header IN LISTS headers)
  if(header MATCHES "/distributed/")
    continue()  # these need MPI; their own test compiles them where it is found
  endif()
  string(REPLACE "/" "." name "${header}")
  set(source "${SCRATCH}/${name}.cpp")
  file(WRITE "${source}" "#include \"${header}\"\n#include \"${header}\"\n")
  set(compilers "${first_compiler}")
  if(header STREQUAL "heed/heed.hpp")
    set(compilers ${COMPILERS})
  endif()
  foreach(compiler IN LISTS compilers)
    set(command "${compiler}" -std=c++20 -fsyntax-only ${warning_flags} "-I${ROOT}/include" -isystem "${EIGEN}")
    also_run("${header} with ${compiler}" ${command} "${source}")
    if(header STREQUAL "heed/heed.hpp")
      if(compiler IN_LIST compilers_with_openmp)
        also_run("${header} with ${compiler} -fopenmp" ${command} -fopenmp "${source}")
      endif()
      set(native -O3 -march=native -DNDEBUG)
      also_run("${header} with ${compiler} -O3 -march=native -DNDEBUG" ${command} ${native} "${source}")
      also_run("${header} after <immintrin.h> with ${compiler}" ${command} "${SCRATCH}/intrinsics_first.cpp")
      also_run("${header} before <immintrin.h> with ${compiler}" ${command} "${SCRATCH}/intrinsics_last.cpp")
    endif()
  endforeach()
endforeach()
run_all(failures)

list(LENGTH headers n_headers)
if(failures GREATER 0)
  message(FATAL_ERROR "headers_alone: ${failures} failure(s) in ${n_headers} headers")
endif()
message("headers_alone: ${n_headers} headers, each alone and included twice, with ${first_compiler}; "
        "heed.hpp with ${COMPILERS}")
