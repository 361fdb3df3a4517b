# Every source file is laid out as clang-format 14 lays it out (.clang-format). FIX=ON rewrites instead of complaining.
# No line passes 120 columns, comments and pages included, which clang-format leaves alone.
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

file(GLOB pages "${ROOT}/*.md" "${ROOT}/*.txt" "${ROOT}/cmake/*.cmake")
foreach(folder IN ITEMS include tests bench examples cmake/packaging)
  file(GLOB_RECURSE found "${ROOT}/${folder}/*.hpp" "${ROOT}/${folder}/*.inl" "${ROOT}/${folder}/*.cpp"
                          "${ROOT}/${folder}/*.md" "${ROOT}/${folder}/*.txt" "${ROOT}/${folder}/*.cmake")
  list(APPEND pages ${found})
endforeach()
set(n_long 0)
foreach(page IN LISTS pages)
  file(STRINGS "${page}" long LENGTH_MINIMUM 121 ENCODING UTF-8)
  foreach(line IN LISTS long)
    if(NOT line MATCHES "^[$]")  # a command to copy stays in one line
      message("${page}: ${line}")
      math(EXPR n_long "${n_long} + 1")
    endif()
  endforeach()
endforeach()
if(n_long GREATER 0)
  message(FATAL_ERROR "format: ${n_long} lines pass column 120")
endif()
list(LENGTH pages n_pages)
message("format: ${n_files} files; ${n_pages} files within 120 columns")
