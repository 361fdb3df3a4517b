# Runs every gate, one after another, even when one fails; prints how long each took, and at the end which failed.
#
#   cmake -P cmake/gates.cmake                        all of them (about 35 minutes on two cores)
#   cmake -D ONLY="format;docs" -P cmake/gates.cmake  these
#   cmake -D WITHOUT=test -P cmake/gates.cmake        all but these
#
# layering, format, docs
# headers       every header alone and twice; heed.hpp with every compiler found and as users compile it
# strict        most calls without a warning of those that careful users switch on, with macros and types of others
# compile_fail  programs that must not compile, with g++ and the newest clang
# processors    answers on 64-bit RISC-V and 32-bit x86; skipped where no cross compiler is found
# tidy          clang-tidy over every header and every example
# test          the workflow preset `test`: g++, warnings as errors, tests under each kernel instance, examples,
#               layering, consumers but for that of heed::compiled
# clang         examples, consumers, benchmarks, and the tests of kernels, with clang at -O2; the other tests meet clang
#               in asan. Here heed::compiled is built, installed and found as others do it
# asan          tests under sanitizers, after programs with deliberate mistakes have been caught: all of them,
# tsan          and those of several threads
# neon          tests of kernels and of exact attention on 64-bit Arm, emulated; skipped where its tools are not found
#
# Not among them, because a clock is no gate: cmake/include_cost.cmake, what heed.hpp costs to include.
cmake_minimum_required(VERSION 3.25)
set(gates layering format docs headers strict compile_fail processors tidy test clang asan tsan neon)
get_filename_component(root "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
set(log_folder "${root}/build/gates")
file(MAKE_DIRECTORY "${log_folder}")

set(chosen ${gates})
if(ONLY)
  set(chosen ${ONLY})
endif()
if(WITHOUT)
  list(REMOVE_ITEM chosen ${WITHOUT})
endif()
foreach(gate IN LISTS chosen WITHOUT)
  if(NOT gate IN_LIST gates)
    message(FATAL_ERROR "gates: there is no gate '${gate}'; there are ${gates}")
  endif()
endforeach()

set(script_headers headers_alone)
foreach(gate IN ITEMS layering format docs strict compile_fail processors tidy neon)
  set(script_${gate} ${gate})
endforeach()

set(failed)
foreach(gate IN LISTS chosen)
  string(TIMESTAMP before "%s")
  set(log "${log_folder}/${gate}.log")
  if(DEFINED script_${gate})
    set(command "${CMAKE_COMMAND}" -P "${CMAKE_CURRENT_LIST_DIR}/${script_${gate}}.cmake")
  else()
    set(command "${CMAKE_COMMAND}" --workflow --preset ${gate})
  endif()
  execute_process(COMMAND ${command} WORKING_DIRECTORY "${root}" RESULT_VARIABLE result OUTPUT_FILE "${log}"
                  ERROR_FILE "${log}")
  string(TIMESTAMP after "%s")
  math(EXPR seconds "${after} - ${before}")
  if(result EQUAL 0)
    file(READ "${log}" said)
    string(REGEX MATCH "skipped: [^\n]*" skipped "${said}")
    if(skipped AND DEFINED script_${gate})
      message("gate ${gate}: ${skipped}")
    else()
      message("gate ${gate}: ok (${seconds} s)")
    endif()
  else()
    list(APPEND failed ${gate})
    file(READ "${log}" said)
    string(LENGTH "${said}" length)
    if(length GREATER 6000)
      math(EXPR start "${length} - 6000")
      string(SUBSTRING "${said}" ${start} -1 said)
    endif()
    message("gate ${gate}: FAILED (${seconds} s); the end of ${log}:\n${said}")
  endif()
endforeach()

if(failed)
  string(JOIN ", " failed ${failed})
  message(FATAL_ERROR "gates: failed: ${failed}")
endif()
message("gates: all passed")
