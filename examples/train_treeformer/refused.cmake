# refused(<part of the line> <options>...): the program TRAIN, run with these options, returns 2 and says one line with
# this part.
function(refused part)
  execute_process(COMMAND "${TRAIN}" --csv none --svg none ${ARGN} RESULT_VARIABLE result OUTPUT_QUIET
                  ERROR_VARIABLE said)
  string(REGEX MATCHALL "\n" lines "${said}")
  list(LENGTH lines n_lines)
  if(NOT result EQUAL 2 OR NOT n_lines EQUAL 1 OR NOT said MATCHES "${part}")
    get_filename_component(name "${CMAKE_SCRIPT_MODE_FILE}" NAME_WE)
    message(FATAL_ERROR "${name}: '${ARGN}' should return 2 and one line with '${part}': ${result}: ${said}")
  endif()
endfunction()
