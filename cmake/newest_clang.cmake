# A toolchain file that picks the newest clang++ found, so that one preset serves machines with different ones.
# Debian ships an OpenMP runtime for one clang at a time: the numbered compilers come first.
if(NOT heed_clangxx)
  set(heed_clang_names)
  foreach(version RANGE 25 14 -1)
    list(APPEND heed_clang_names clang++-${version})
  endforeach()
  find_program(heed_clangxx NAMES ${heed_clang_names} clang++ NAMES_PER_DIR)
  if(NOT heed_clangxx)
    message(FATAL_ERROR "heed: this preset needs clang++, and none was found")
  endif()
endif()
set(CMAKE_CXX_COMPILER "${heed_clangxx}")
