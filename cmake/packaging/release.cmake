# Writes the recipes for the registries of vcpkg and Conan for one released archive.
#
#   cmake -D REPOSITORY=<owner>/heed -D ARCHIVE=<v0.2.0.tar.gz> -D OUT=<folder> -P cmake/packaging/release.cmake
#
# REPOSITORY: where the archive was published; ARCHIVE: the file as it is downloaded from there, whose checksums go into
# the recipes. The version is that of include/heed/version.hpp.
cmake_minimum_required(VERSION 3.21)
foreach(needed IN ITEMS REPOSITORY ARCHIVE OUT)
  if("${${needed}}" STREQUAL "")
    message(FATAL_ERROR "release: ${needed} is not given; see the head of release.cmake")
  endif()
endforeach()
if(NOT EXISTS "${ARCHIVE}")
  message(FATAL_ERROR "release: ARCHIVE = ${ARCHIVE} must be a file")
endif()
file(READ "${CMAKE_CURRENT_LIST_DIR}/../../include/heed/version.hpp" header)
string(REGEX MATCHALL "HEED_VERSION_[A-Z]+ [0-9]+" numbers "${header}")
list(TRANSFORM numbers REPLACE ".* " "")
string(JOIN "." VERSION ${numbers})
file(SHA512 "${ARCHIVE}" SHA512)
file(SHA256 "${ARCHIVE}" SHA256)
file(GLOB_RECURSE files RELATIVE "${CMAKE_CURRENT_LIST_DIR}/registries" "${CMAKE_CURRENT_LIST_DIR}/registries/*")
foreach(file IN LISTS files)
  string(REGEX REPLACE "[.]in$" "" to "${file}")
  configure_file("${CMAKE_CURRENT_LIST_DIR}/registries/${file}" "${OUT}/${to}" @ONLY)
endforeach()
message("release: recipes of ${VERSION} are in ${OUT}")
