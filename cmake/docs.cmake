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

# A warning is one line, or goes on in indented lines; a member's missing doc block is the one kind let through.
file(READ "${out}/warnings.txt" warnings)
string(REGEX REPLACE "[^\n]*: warning: Member [^\n]* of (class|struct|union) [^\n]* is not documented\\.\n" "" warnings
       "\n${warnings}")
string(STRIP "${warnings}" warnings)
if(warnings)
  message("${warnings}")
  message(FATAL_ERROR "docs: doxygen has something to say")
endif()
message("docs: ${out}/html/index.html, no warning")
