# Configures and builds one consumer from nothing and runs its programs, consumer*. Where a step fails, it prints what
# that step said.
#
#   cmake -D NAME=<folder> -D SCRATCH=<folder> -D HEED_BINARY_DIR=<build> -D GENERATOR=<name> -D COMPILER=<c++>
#         -D EIGEN_DIR=<Eigen3_DIR> -D EIGEN=<folder of Eigen/Core> -P run.cmake
cmake_minimum_required(VERSION 3.21)
set(source "${CMAKE_CURRENT_LIST_DIR}/${NAME}")
set(build "${SCRATCH}/${NAME}")
get_filename_component(root "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
file(REMOVE_RECURSE "${build}")
file(MAKE_DIRECTORY "${build}")

function(step what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE said)
  if(NOT result EQUAL 0)
    message("${said}")  # as it is: an error's text would be wrapped
    message(FATAL_ERROR "consumer ${NAME}: ${what} failed (${result})")
  endif()
endfunction()

# Installs what a build has. The installed tree must work wherever it is moved to.
function(install_heed of)
  step("installing heed" "${CMAKE_COMMAND}" --install "${of}" --prefix "${build}/installed")
  file(RENAME "${build}/installed" "${build}/a prefix")
endfunction()

function(build_and_run from into)
  step("configuring" "${CMAKE_COMMAND}" -S "${from}" -B "${into}" -G "${GENERATOR}"
       "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DEigen3_DIR=${EIGEN_DIR}" "-DHEED_SOURCE_DIR=${root}"
       "-DCMAKE_PREFIX_PATH=${build}/a prefix")
  step("building" "${CMAKE_COMMAND}" --build "${into}")
  file(GLOB programs "${into}/consumer*")
  foreach(program IN LISTS programs)
    step("running ${program}" "${program}")
  endforeach()
  if(NOT programs)
    message(FATAL_ERROR "consumer ${NAME}: nothing named consumer* was built")
  endif()
endfunction()

if(EXISTS "${source}/CMakeLists.txt")
  if(NAME MATCHES "^(find_package|pkg_config)$")
    install_heed("${HEED_BINARY_DIR}")
  endif()
  build_and_run("${source}" "${build}/build")
  if(EXISTS "${source}/installed")  # what that project has built, installed and found
    install_heed("${build}/build")
    build_and_run("${source}/installed" "${build}/build of installed")
  endif()
else()
  step("compiling" "${COMPILER}" -std=c++20 -O1 -Wall -Wextra -Wpedantic -Wshadow -Werror "-I${root}/include" -isystem
       "${EIGEN}" "${source}/main.cpp" -o "${build}/consumer")
  step("running" "${build}/consumer")
endif()
message("consumer ${NAME}: configured, built, run")
