# The reference, by doxygen, without a warning: SCRATCH/reference/html/index.html.
#
#   cmake [-D SCRATCH=<folder>] [-D INPUT=<folder>] -P docs.cmake
include("${CMAKE_CURRENT_LIST_DIR}/gate_tools.cmake")
find_program(doxygen NAMES doxygen REQUIRED)
if(NOT INPUT)
  set(INPUT "${ROOT}/include/heed")
endif()
set(out "${SCRATCH}/reference")
file(MAKE_DIRECTORY "${out}")
file(READ "${CMAKE_CURRENT_LIST_DIR}/Doxyfile" doxyfile)
file(WRITE "${out}/Doxyfile" "${doxyfile}
OUTPUT_DIRECTORY = \"${out}\"
INPUT = \"${INPUT}\" \"${CMAKE_CURRENT_LIST_DIR}/reference.dox\"
INCLUDE_PATH = \"${ROOT}/include\"
STRIP_FROM_PATH = \"${ROOT}/include\"
STRIP_FROM_INC_PATH = \"${ROOT}/include\"
WARN_LOGFILE = \"${out}/warnings.txt\"
INPUT_FILTER = \"sed -E -f '${CMAKE_CURRENT_LIST_DIR}/doc_words.sed'\"
")
file(REMOVE "${out}/warnings.txt")
execute_process(COMMAND "${doxygen}" "${out}/Doxyfile" WORKING_DIRECTORY "${out}" RESULT_VARIABLE result
                OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "docs: doxygen failed (${result}):\n${said}")
endif()

# Two warnings are let through: of a member without a doc block, and of a deduction guide, which doxygen takes for a
# function.
file(READ "${out}/warnings.txt" warnings)
foreach(harmless IN ITEMS "of (class|struct|union) [^\n]*" "-> [^\n]* of namespace [^\n]*")
  string(REGEX REPLACE "[^\n]*: warning: Member [^\n]* ${harmless} is not documented\\.\n" "" warnings "${warnings}")
endforeach()
string(STRIP "${warnings}" warnings)
if(warnings)
  message("${warnings}")
  message(FATAL_ERROR "docs: doxygen has something to say")
endif()
message("docs: ${out}/html/index.html, no warning")
