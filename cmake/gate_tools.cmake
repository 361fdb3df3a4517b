# What the gate scripts share. Sets ROOT (this repository), COMPILERS (a list of full paths), FIRST_AND_LAST of them,
# EIGEN (the folder of Eigen/Core), SCRATCH (a folder to write in) and warning_flags; COMPILERS, EIGEN and SCRATCH only
# where they are not given.
cmake_minimum_required(VERSION 3.21)
get_filename_component(ROOT "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
if(NOT SCRATCH)
  set(SCRATCH "${ROOT}/build/gates")
endif()
file(MAKE_DIRECTORY "${SCRATCH}")
set(warning_flags -Wall -Wextra -Wpedantic -Wshadow -Werror)

if(NOT COMPILERS)
  include("${CMAKE_CURRENT_LIST_DIR}/newest_clang.cmake")
  foreach(name IN ITEMS g++ clang++)
    find_program(found_${name} NAMES ${name})
    if(found_${name})
      list(APPEND COMPILERS "${found_${name}}")
    endif()
  endforeach()
  # Two names of one compiler are one compiler.
  get_filename_component(newest "${CMAKE_CXX_COMPILER}" REALPATH)
  get_filename_component(plain "${found_clang++}" REALPATH)
  if(NOT newest STREQUAL plain)
    list(APPEND COMPILERS "${CMAKE_CXX_COMPILER}")
  endif()
endif()

# The first and the newest: g++ and a clang, where both are found.
list(GET COMPILERS 0 -1 FIRST_AND_LAST)
list(REMOVE_DUPLICATES FIRST_AND_LAST)

if(NOT EIGEN)
  # A script has no system prefixes of its own.
  find_path(EIGEN Eigen/Core HINTS /usr/include /usr/local/include /opt/homebrew/include PATH_SUFFIXES eigen3)
  if(NOT EIGEN)
    message(FATAL_ERROR "gates: Eigen/Core was not found; give -D EIGEN=<its folder>")
  endif()
endif()

# precompiled(<variable> <compiler> <header> <flag>...): compiles a header once, and gives the options that let a
# program begin with it. Programs must be compiled with the same flags.
function(precompiled variable compiler header)
  string(MAKE_C_IDENTIFIER "${compiler} ${header}" name)
  set(file "${SCRATCH}/precompiled/${name}.hpp")
  file(WRITE "${file}" "#include <${header}>\n")
  execute_process(COMMAND "${compiler}" ${ARGN} -x c++-header "${file}" -o "${file}.gch" RESULT_VARIABLE result
                  ERROR_VARIABLE said)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "gates: ${compiler} does not compile ${header}:\n${said}")
  endif()
  set(${variable} -include "${file}" PARENT_SCOPE)
endfunction()

# also_run(<name> <command>...): gathers a command; neither the name nor a word of it may hold a semicolon.
# run_jobs(<variable for the number of jobs>): runs those gathered, as many at a time as there are cores (two at least).
#   Job i of 0, 1, ... leaves what it returned in <variable>_<i>_result and what it said in <variable>_<i>_said.
# run_all(<variable for the number of failures>): runs them likewise, and prints what the failing ones said.
set_property(GLOBAL PROPERTY gate_jobs "")
get_filename_component(gate_script "${CMAKE_SCRIPT_MODE_FILE}" NAME_WE)
set(gate_jobs_folder "${SCRATCH}/jobs_of_${gate_script}")
file(REMOVE_RECURSE "${gate_jobs_folder}")

function(also_run name)
  get_property(names GLOBAL PROPERTY gate_jobs)
  list(LENGTH names job)
  set_property(GLOBAL APPEND PROPERTY gate_jobs "${name}")
  set(line "exec")
  foreach(word IN LISTS ARGN)
    string(REPLACE "'" "'\\''" word "${word}")
    string(APPEND line " '${word}'")
  endforeach()
  file(WRITE "${gate_jobs_folder}/${job}.sh" "${line}\n")
endfunction()

function(run_jobs variable)
  cmake_host_system_information(RESULT width QUERY NUMBER_OF_LOGICAL_CORES)
  if(width LESS 2)
    set(width 2)
  endif()
  get_property(names GLOBAL PROPERTY gate_jobs)
  list(LENGTH names n_jobs)
  set(numbers "")
  math(EXPR last "${n_jobs} - 1")
  foreach(job RANGE ${last})
    string(APPEND numbers "${job}\n")
  endforeach()
  file(WRITE "${gate_jobs_folder}/numbers" "${numbers}")
  execute_process(COMMAND xargs -P ${width} -n 1 sh -c "sh $0.sh > $0.said 2>&1; echo $? > $0.result"
                  INPUT_FILE "${gate_jobs_folder}/numbers" WORKING_DIRECTORY "${gate_jobs_folder}"
                  COMMAND_ERROR_IS_FATAL ANY)
  foreach(job RANGE ${last})
    file(STRINGS "${gate_jobs_folder}/${job}.result" result)
    file(READ "${gate_jobs_folder}/${job}.said" said)
    set(${variable}_${job}_result "${result}" PARENT_SCOPE)
    set(${variable}_${job}_said "${said}" PARENT_SCOPE)
  endforeach()
  set_property(GLOBAL PROPERTY gate_jobs "")
  set(${variable} ${n_jobs} PARENT_SCOPE)
endfunction()

function(run_all failures_variable)
  get_property(names GLOBAL PROPERTY gate_jobs)
  run_jobs(jobs)
  set(failures 0)
  set(job 0)
  foreach(name IN LISTS names)
    if(NOT jobs_${job}_result STREQUAL "0")
      string(SUBSTRING "${jobs_${job}_said}" 0 4000 said)
      message("FAILED ${name} (${jobs_${job}_result}):\n${said}")
      math(EXPR failures "${failures} + 1")
    endif()
    math(EXPR job "${job} + 1")
  endforeach()
  set(${failures_variable} ${failures} PARENT_SCOPE)
endfunction()
