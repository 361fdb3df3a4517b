# Every header under include/heed compiles alone, included twice, without a warning, with the first compiler found (g++
# where there is one): an include that is missing is missing for every compiler. Every compiler sees heed.hpp, which
# includes them all, as users compile it: with OpenMP, for a newer machine, without assertions, and before and after the
# intrinsics.
# Those of distributed/ need MPI, and are skipped where no mpicxx says where it is.
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
set(command -std=c++20 ${warning_flags} "-I${ROOT}/include" -isystem "${EIGEN}")

# Most of the time would go to Eigen, which is therefore read once, ahead of the headers that come to Eigen/Core by
# their own includes. The others are compiled without it, so that none of them can live off it unnoticed.
precompiled(eigen "${first_compiler}" Eigen/Core ${command})
function(reaches_eigen variable header)
  get_property(known GLOBAL PROPERTY "eigen_of_${header}")
  if(NOT known)
    set(known no)
    set_property(GLOBAL PROPERTY "eigen_of_${header}" no)  # ends a circle of includes
    file(STRINGS "${ROOT}/include/${header}" includes REGEX "^#include [<\"]")
    foreach(include IN LISTS includes)
      string(REGEX REPLACE "^#include [<\"]([^>\"]*).*" "\\1" include "${include}")
      if(include STREQUAL "Eigen/Core")
        set(known yes)
      elseif(EXISTS "${ROOT}/include/${include}")
        reaches_eigen(inner "${include}")
        if(inner)
          set(known yes)
        endif()
      endif()
    endforeach()
    set_property(GLOBAL PROPERTY "eigen_of_${header}" ${known})
  endif()
  set(${variable} ${known} PARENT_SCOPE)
endfunction()

set(mpi_flags)
find_program(mpicxx NAMES mpicxx)
if(mpicxx)  # -showme of Open MPI, -show of MPICH
  foreach(flag IN ITEMS -showme:compile -show)
    execute_process(COMMAND "${mpicxx}" ${flag} OUTPUT_VARIABLE said RESULT_VARIABLE result ERROR_QUIET)
    string(REGEX MATCHALL "-I[^ \n]+" folders "${said}")
    if(result EQUAL 0 AND folders)
      string(REPLACE "-I" "-isystem;" mpi_flags "${folders}")
      list(APPEND mpi_flags -DOMPI_SKIP_MPICXX -DMPICH_SKIP_MPICXX)
      break()
    endif()
  endforeach()
endif()

foreach(header IN LISTS headers)
  set(mpi)
  if(header MATCHES "/distributed/")
    if(NOT mpi_flags)
      continue()
    endif()
    set(mpi ${mpi_flags})
  endif()
  string(REPLACE "/" "." name "${header}")
  set(source "${SCRATCH}/${name}.cpp")
  file(WRITE "${source}" "#include \"${header}\"\n#include \"${header}\"\n")
  reaches_eigen(with_eigen "${header}")
  if(with_eigen)
    set(first ${eigen})
  else()
    set(first)
  endif()
  also_run("${header} with ${first_compiler}" "${first_compiler}" ${command} ${first} ${mpi} -fsyntax-only
           "${source}")
endforeach()

set(source "${SCRATCH}/heed.heed.hpp.cpp")
foreach(compiler IN LISTS COMPILERS)
  set(check "${compiler}" ${command} -fsyntax-only)
  also_run("heed.hpp with ${compiler}" ${check} "${source}")
  if(compiler IN_LIST compilers_with_openmp)
    also_run("heed.hpp with ${compiler} -fopenmp" ${check} -fopenmp "${source}")
  endif()
  also_run("heed.hpp with ${compiler} for this machine" ${check} -O3 -march=native -DNDEBUG "${source}")
  also_run("heed.hpp after <immintrin.h> with ${compiler}" ${check} "${SCRATCH}/intrinsics_first.cpp")
  also_run("heed.hpp before <immintrin.h> with ${compiler}" ${check} "${SCRATCH}/intrinsics_last.cpp")
endforeach()
run_all(failures)

list(LENGTH headers n_headers)
if(failures GREATER 0)
  message(FATAL_ERROR "headers_alone: ${failures} failure(s) in ${n_headers} headers")
endif()
message("headers_alone: ${n_headers} headers, each alone and included twice, with ${first_compiler}; "
        "heed.hpp with ${COMPILERS}")
