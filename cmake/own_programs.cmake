# Settings of our own tests, benchmarks and examples. Nothing here reaches a user of heed::heed.

set(HEED_SANITIZER "" CACHE STRING "Build our own programs with a sanitizer: address (with undefined), thread, or none")
set_property(CACHE HEED_SANITIZER PROPERTY STRINGS "" address thread)
option(HEED_UNITY "Compile the files of one folder of tests, and those of compare, as few translation units" ON)

if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_CONFIGURATION_TYPES AND NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
endif()

set(heed_sanitizer_environment)
if(HEED_SANITIZER STREQUAL "address")
  # The checks of every pointer before it is used are left out: they double the time to build, and AddressSanitizer sees
  # what is read and written through the pointer.
  set(heed_sanitizer_flags -fsanitize=address,undefined -fno-sanitize=null,object-size,vptr,pointer-overflow
                           -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  # detect_stack_use_after_return is off: its stack frames are aligned to less than the vectors on them (GCC bug
  # 110027).
  set(heed_sanitizer_environment "UBSAN_OPTIONS=print_stacktrace=1" "ASAN_OPTIONS=detect_stack_use_after_return=0"
                                 "LSAN_OPTIONS=suppressions=${CMAKE_CURRENT_LIST_DIR}/../tests/sanitizers/leaks.txt")
elseif(HEED_SANITIZER STREQUAL "thread")
  set(heed_sanitizer_flags -fsanitize=thread -g1)
  # ThreadSanitizer does not know OpenMP's barriers, and sees races everywhere unless it is told of them. LLVM's runtime
  # tells it through the library archer. GCC's runtime has nothing of the kind, so only clang can make this build.
  execute_process(COMMAND "${CMAKE_CXX_COMPILER}" -print-file-name=libarcher.so
                  OUTPUT_VARIABLE heed_archer OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT IS_ABSOLUTE "${heed_archer}" OR NOT TARGET OpenMP::OpenMP_CXX)
    message(FATAL_ERROR "heed: HEED_SANITIZER=thread needs clang with its OpenMP runtime and libarcher.so "
                        "(Debian 12: clang-19 libomp-19-dev); ${CMAKE_CXX_COMPILER} has none")
  endif()
  get_filename_component(heed_archer "${heed_archer}" REALPATH)
  set(heed_sanitizer_environment "OMP_TOOL_LIBRARIES=${heed_archer}" "OMP_NUM_THREADS=4"
                                 "TSAN_OPTIONS=ignore_noninstrumented_modules=1")
elseif(HEED_SANITIZER)
  message(FATAL_ERROR "heed: HEED_SANITIZER = ${HEED_SANITIZER} must be address, thread or empty")
endif()

# heed_own_program(<target>): warnings, OpenMP and the sanitizer for an executable or object library of ours.
# Warnings become errors with CMAKE_COMPILE_WARNING_AS_ERROR, which the presets for developers set.
function(heed_own_program target)
  target_link_libraries(${target} PRIVATE heed::heed)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang" AND NOT MSVC)
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # it collects its garbage less often: a fifth of the time to compile
    target_compile_options(${target} PRIVATE "SHELL:--param ggc-min-expand=300"
                           "SHELL:--param ggc-min-heapsize=2000000")
  endif()
  if(TARGET OpenMP::OpenMP_CXX)
    target_link_libraries(${target} PRIVATE OpenMP::OpenMP_CXX)
  endif()
  if(heed_sanitizer_flags)
    target_compile_options(${target} PRIVATE ${heed_sanitizer_flags})
    target_link_options(${target} PRIVATE ${heed_sanitizer_flags})
  endif()
endfunction()

# Our own tests link heed::compiled, and so do examples where tests are built, which saves them kernels that the tests
# have compiled; consumers, the first example and the tests under -ffast-math stay header-only, as users are.
if(NOT HEED_BUILD_COMPILED)  # what is installed is built as users build
  heed_own_program(heed_compiled)
  target_compile_definitions(heed_compiled PRIVATE _GLIBCXX_ASSERTIONS)
endif()
