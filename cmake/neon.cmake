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

set(scratch "${SCRATCH}/neon")
file(REMOVE_RECURSE "${scratch}")
file(MAKE_DIRECTORY "${scratch}")
set(objects)
function(compile unit)  # name, then the files that are one translation unit
  set(text)
  foreach(file IN LISTS ARGN)
    string(APPEND text "#include \"${file}\"\n")
  endforeach()
  file(WRITE "${scratch}/${unit}.cpp" "${text}")
  also_run("${unit}" "${compiler}" -std=c++20 -O1 -fopenmp ${warning_flags} -DHEED_COMPILED -D_GLIBCXX_ASSERTIONS
           "-I${ROOT}/include" "-I${ROOT}/tests" -isystem "${EIGEN}" -isystem "${googletest}/include"
           -isystem "${googletest}" -c "${scratch}/${unit}.cpp" -o "${scratch}/${unit}.o")
  set(objects ${objects} "${scratch}/${unit}.o" PARENT_SCOPE)
endfunction()

# The heaviest first: the tests of a folder five at a time. Then what heed::compiled has, and what must
# stand alone, as it does in tests/CMakeLists.txt.
set(alone "${ROOT}/tests/main.cpp" "${googletest}/src/gtest-all.cc")
foreach(folder IN LISTS FOLDERS ITEMS support)
  file(GLOB files "${ROOT}/tests/${folder}/*.cpp")
  foreach(file IN LISTS files)
    if(file MATCHES "/(allocations|own_engine|vectors_test)[.]cpp$")
      list(APPEND alone "${file}")
      list(REMOVE_ITEM files "${file}")
    endif()
  endforeach()
  set(number 0)
  while(files)
    list(SUBLIST files 0 5 now)
    list(REMOVE_ITEM files ${now})
    compile(${folder}_${number} ${now})
    math(EXPR number "${number} + 1")
  endwhile()
endforeach()
file(GLOB files "${ROOT}/cmake/compiled/*.cpp")
foreach(file IN LISTS files alone)
  get_filename_component(name "${file}" NAME_WE)
  compile(${name} "${file}")
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
message("neon: the tests of ${FOLDERS} passed under neon and baseline, in ${emulator}")
