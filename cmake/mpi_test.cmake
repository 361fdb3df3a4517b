# heed_mpi_command(<variable> <ranks>): what starts a program on so many ranks. More ranks than cores wait for each
# other: they yield instead of spinning.
# heed_mpi_test(<name> <ranks> <target> <argument>...): a ctest entry that does.
execute_process(COMMAND "${MPIEXEC_EXECUTABLE}" --version OUTPUT_VARIABLE heed_mpiexec_says ERROR_QUIET)
set(heed_mpiexec_flags)
if(heed_mpiexec_says MATCHES "Open MPI|OpenRTE")
  set(heed_mpiexec_flags --oversubscribe --bind-to none --mca mpi_yield_when_idle 1)
endif()
# Open MPI starts nothing for root unless it is told twice. It keeps memory to the end of the program, some of it made
# by libraries that are then unloaded and have no name to leave out: leaks are not looked for.
string(REPLACE "detect_stack_use_after_return=0" "detect_stack_use_after_return=0:detect_leaks=0" heed_mpi_sanitizer
               "${heed_sanitizer_environment}")
set(heed_mpi_environment "OMPI_ALLOW_RUN_AS_ROOT=1" "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1" "OMP_NUM_THREADS=1"
                         "OMP_WAIT_POLICY=passive" ${heed_mpi_sanitizer})

macro(heed_mpi_command variable ranks)
  set(${variable} "${MPIEXEC_EXECUTABLE}" ${MPIEXEC_NUMPROC_FLAG} ${ranks} ${heed_mpiexec_flags})
endmacro()

function(heed_mpi_test name ranks target)
  heed_mpi_command(mpirun ${ranks})
  add_test(NAME ${name} COMMAND ${mpirun} $<TARGET_FILE:${target}> ${ARGN})
  set_tests_properties(${name} PROPERTIES ENVIRONMENT "${heed_mpi_environment}" PROCESSORS 2 TIMEOUT 300)
endfunction()
