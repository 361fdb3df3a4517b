# Processors that have no kernels of their own, and indices of 32 bits: a program that makes most calls compiles
# without a warning for 64-bit RISC-V and for 32-bit x86, and a small one gives right answers there, the first under an
# emulator. Skipped, with a line that says so, where no cross compiler is found; on Debian they are the packages
# g++-riscv64-linux-gnu, g++-i686-linux-gnu and qemu-user.
#
#   cmake [-D EIGEN=<folder>] [-D SCRATCH=<folder>] -P processors.cmake
include("${CMAKE_CURRENT_LIST_DIR}/gate_tools.cmake")
find_program(emulator_of_riscv64 NAMES qemu-riscv64 qemu-riscv64-static)
set(emulator_of_i686 env)  # x86-64 runs it
set(found)
foreach(processor IN ITEMS riscv64 i686)
  find_program(compiler_of_${processor} ${processor}-linux-gnu-g++)
  if(NOT compiler_of_${processor} OR NOT emulator_of_${processor})
    continue()
  endif()
  list(APPEND found ${processor})
  # Without SSE, g++ remarks that vectors are handed over in another way than with it.
  set(compile "${compiler_of_${processor}}" -std=c++20 ${warning_flags} -Wno-psabi "-I${ROOT}/include" -isystem
              "${EIGEN}")
  also_run("most calls for ${processor}" ${compile} -fsyntax-only "${ROOT}/tests/headers/many_calls.cpp")
  set(program "${SCRATCH}/program_of_${processor}")
  list(APPEND compile -O1 -static "${ROOT}/tests/headers/processors.cpp" -o "${program}")
  list(JOIN compile "' '" compile)
  also_run("answers on ${processor}" sh -c "'${compile}' && '${emulator_of_${processor}}' '${program}'")
endforeach()
if(NOT found)
  message("processors: skipped: no cross compiler was found "
          "(Debian: apt-get install g++-riscv64-linux-gnu g++-i686-linux-gnu qemu-user)")
  return()
endif()
run_all(failures)
if(failures GREATER 0)
  message(FATAL_ERROR "processors: ${failures} failure(s)")
endif()
message("processors: right answers on ${found}")
