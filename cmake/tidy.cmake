# clang-tidy (.clang-tidy) over every header and every example, read once: one translation unit includes them all, each
# example in a namespace of its own. The examples call what would else be templates that nobody looks into.
#
#   cmake [-D EIGEN=<folder>] [-D FILES=<list of headers and programs>] -P tidy.cmake
include("${CMAKE_CURRENT_LIST_DIR}/gate_tools.cmake")
find_program(clang_tidy NAMES clang-tidy-14 clang-tidy REQUIRED)
if(NOT FILES)
  file(GLOB_RECURSE FILES "${ROOT}/include/heed/*.hpp")
  list(FILTER FILES EXCLUDE REGEX "/distributed/")  # these need MPI, which need not be there
  file(GLOB examples "${ROOT}/examples/[0-9][0-9]_*.cpp")
  list(FILTER examples EXCLUDE REGEX "ranks")  # likewise
  list(APPEND FILES ${examples})
endif()
if(NOT FILES)
  message(FATAL_ERROR "tidy: no file to look at")
endif()

set(headers)
set(programs)
foreach(file IN LISTS FILES)
  if(file MATCHES "\\.hpp$")
    string(APPEND headers "#include \"${file}\"\n")
  else()
    # What a program includes comes first, outside the namespace.
    file(STRINGS "${file}" includes REGEX "^#include ")
    string(REPLACE ";" "\n" includes "${includes}")
    string(APPEND headers "${includes}\n")
    get_filename_component(name "${file}" NAME_WE)
    set(program "#include \"${file}\"  // NOLINT(bugprone-suspicious-include)")
    string(APPEND programs "namespace program_${name} {\n${program}\n}\n")
  endif()
endforeach()
file(WRITE "${SCRATCH}/tidy.cpp" "${headers}${programs}")
execute_process(COMMAND "${clang_tidy}" --quiet "--config-file=${ROOT}/.clang-tidy"
                        "--header-filter=(include/heed/.*[.]hpp|examples/.*[.]cpp)$" "${SCRATCH}/tidy.cpp" -- -std=c++20
                        "-I${ROOT}/include" -isystem "${EIGEN}"
                WORKING_DIRECTORY "${ROOT}" RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE noise)
list(LENGTH FILES n_files)
if(NOT result EQUAL 0)
  message("${said}${noise}")
  message(FATAL_ERROR "tidy: clang-tidy has something to say")
endif()
message("tidy: ${n_files} headers and programs")
