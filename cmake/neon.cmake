# The tests of kernels and of exact attention on 64-bit Arm, under an emulator: built by a cross compiler, run by qemu
# under every instance of that architecture. Skipped, with a line that says so, where these are not found; on Debian
# they are the packages g++-aarch64-linux-gnu, qemu-user and googletest (its sources, to build for Arm).
#
#   cmake [-D FOLDERS="kernels;exact"] [-D EIGEN=<folder>] [-D SCRATCH=<folder>] -P neon.cmake
include("${CMAKE_CURRENT_LIST_DIR}/gate_tools.cmake")
if(NOT FOLDERS)
  set(FOLDERS kernels exact)
endif()
set(system_root /usr/aarch64-linux-gnu)
find_program(compiler aarch64-linux-gnu-g++)
find_program(emulator NAMES qemu-aarch64 qemu-aarch64-static)
find_path(googletest src/gtest-all.cc HINTS /usr/src/googletest/googletest)
foreach(tool IN ITEMS compiler emulator googletest)
  if(NOT ${tool})
    message("neon: skipped: no ${tool} for 64-bit Arm was found "
            "(Debian: apt-get install g++-aarch64-linux-gnu qemu-user googletest)")
    return()
  endif()
endforeach()

# The kernels once, as heed_kernels of own_programs.cmake has them.
file(GLOB sources "${ROOT}/cmake/compiled/*.cpp" "${ROOT}/tests/support/*.cpp")
foreach(folder IN LISTS FOLDERS)
  file(GLOB files "${ROOT}/tests/${folder}/*_test.cpp")
  list(APPEND sources ${files})
endforeach()
list(APPEND sources "${ROOT}/tests/main.cpp" "${googletest}/src/gtest-all.cc")

set(scratch "${SCRATCH}/neon")
file(REMOVE_RECURSE "${scratch}")
file(MAKE_DIRECTORY "${scratch}")
set(objects)
foreach(source IN LISTS sources)
  string(MAKE_C_IDENTIFIER "${source}" name)
  list(APPEND objects "${scratch}/${name}.o")
  also_run("${source}" "${compiler}" -std=c++20 -O1 -fopenmp ${warning_flags} -DHEED_COMPILED -D_GLIBCXX_ASSERTIONS
           "-I${ROOT}/include" "-I${ROOT}/tests" -isystem "${EIGEN}" -isystem "${googletest}/include"
           -isystem "${googletest}" -c "${source}" -o "${scratch}/${name}.o")
endforeach()
run_all(failures)
if(failures GREATER 0)
  message(FATAL_ERROR "neon: ${failures} file(s) do not compile")
endif()
set(program "${scratch}/heed_tests")
execute_process(COMMAND "${compiler}" -fopenmp ${objects} -o "${program}" COMMAND_ERROR_IS_FATAL ANY)

# Without the suites nobody uses in these folders, and without what takes minutes: the oracle of double sums in long
# double, which is 128 bits in software there.
set(filter "-GoogleTestVerification*:*ManyBlocksOfKeys*:*EveryPairOfOptions*/double")
foreach(isa IN ITEMS neon baseline)
  also_run("the tests under ${isa}" "${CMAKE_COMMAND}" -E env HEED_ISA=${isa} OMP_WAIT_POLICY=passive "${emulator}"
           -L "${system_root}" "${program}" --gtest_brief=1 "--gtest_filter=${filter}")
endforeach()
run_all(failures)
if(failures GREATER 0)
  message(FATAL_ERROR "neon: ${failures} instance(s) fail")
endif()
list(LENGTH sources n_sources)
message("neon: ${n_sources} files, tests passed under neon and baseline, in ${emulator}")
