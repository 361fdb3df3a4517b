# Every source file is laid out as clang-format 14 lays it out (.clang-format). FIX=ON rewrites instead of complaining.
#
#   cmake [-D FIX=ON] -P format.cmake
include("${CMAKE_CURRENT_LIST_DIR}/gate_tools.cmake")
find_program(clang_format NAMES clang-format-14 clang-format REQUIRED)

set(files)
foreach(folder IN ITEMS include tests bench examples cmake)
  file(GLOB_RECURSE found "${ROOT}/${folder}/*.hpp" "${ROOT}/${folder}/*.inl" "${ROOT}/${folder}/*.cpp")
  list(APPEND files ${found})
endforeach()
if(FIX)
  set(mode -i)
else()
  set(mode --dry-run -Werror)
endif()
execute_process(COMMAND "${clang_format}" ${mode} --style=file ${files} WORKING_DIRECTORY "${ROOT}"
                RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE said)
list(LENGTH files n_files)
if(NOT result EQUAL 0)
  string(SUBSTRING "${said}" 0 6000 said)
  message("${said}")
  message(FATAL_ERROR "format: run 'cmake -D FIX=ON -P cmake/format.cmake'")
endif()
message("format: ${n_files} files")
