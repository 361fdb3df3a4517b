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

# run_all(<variable for the number of failures>): runs the commands gathered by also_run(), as many at a time as there
# are cores (two at least), and prints what the failing ones said.
set_property(GLOBAL PROPERTY gate_jobs "")
function(also_run name)  # name; then the command, in which no word may hold a semicolon
  get_property(jobs GLOBAL PROPERTY gate_jobs)
  list(LENGTH jobs job)
  list(APPEND jobs ${job})
  set_property(GLOBAL PROPERTY gate_jobs "${jobs}")
  set_property(GLOBAL PROPERTY gate_job_${job}_name "${name}")
  set_property(GLOBAL PROPERTY gate_job_${job}_command "${ARGN}")
endfunction()

function(run_all failures_variable)
  cmake_host_system_information(RESULT width QUERY NUMBER_OF_LOGICAL_CORES)
  if(width LESS 2)
    set(width 2)
  endif()
  get_property(jobs GLOBAL PROPERTY gate_jobs)
  set(failures 0)
  while(NOT jobs STREQUAL "")  # a list of job 0 alone would be false
    list(SUBLIST jobs 0 ${width} now)
    list(REMOVE_ITEM jobs ${now})
    set(commands)
    foreach(job IN LISTS now)
      get_property(command GLOBAL PROPERTY gate_job_${job}_command)
      list(APPEND commands COMMAND ${command})
    endforeach()
    # The commands of one execute_process are a pipeline, so they run at the same time; compilers read no input.
    execute_process(${commands} RESULTS_VARIABLE results OUTPUT_QUIET ERROR_QUIET)
    foreach(job result IN ZIP_LISTS now results)
      if(NOT result STREQUAL "0")
        get_property(name GLOBAL PROPERTY gate_job_${job}_name)
        get_property(command GLOBAL PROPERTY gate_job_${job}_command)
        execute_process(COMMAND ${command} OUTPUT_VARIABLE said ERROR_VARIABLE said)
        string(SUBSTRING "${said}" 0 4000 said)
        message("FAILED ${name} (${result}):\n${said}")
        math(EXPR failures "${failures} + 1")
      endif()
    endforeach()
  endwhile()
  set_property(GLOBAL PROPERTY gate_jobs "")
  set(${failures_variable} ${failures} PARENT_SCOPE)
endfunction()
