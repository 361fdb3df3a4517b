# Removes the files that the last `cmake --install` of a build folder wrote.
#
#   cmake -D MANIFEST=<build folder>/install_manifest.txt -P uninstall.cmake
cmake_minimum_required(VERSION 3.21)
if(NOT EXISTS "${MANIFEST}")
  message(FATAL_ERROR "uninstall: there is no ${MANIFEST}: nothing was installed from this build folder")
endif()
file(STRINGS "${MANIFEST}" files)
file(REMOVE ${files})
list(LENGTH files n_files)
message("uninstall: ${n_files} files removed")
