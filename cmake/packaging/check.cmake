# Checks of the recipes what can be checked without their tools: that they parse, where their language is at hand, and
# that they name the library's version.
#
#   cmake -D VERSION=<version> -P check.cmake
cmake_minimum_required(VERSION 3.21)
file(READ "${CMAKE_CURRENT_LIST_DIR}/vcpkg/vcpkg.json" port)
string(JSON version GET "${port}" version)
if(NOT version STREQUAL VERSION)
  message(FATAL_ERROR "packaging: vcpkg/vcpkg.json names version ${version}, but include/heed/version.hpp ${VERSION}")
endif()
find_program(python NAMES python3)
if(python)
  execute_process(COMMAND "${python}" -c "import ast, sys; ast.parse(open(sys.argv[1]).read())"
                          "${CMAKE_CURRENT_LIST_DIR}/conan/conanfile.py" RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "packaging: conan/conanfile.py is no Python")
  endif()
endif()
