# heed_mpi_test(<name> <ranks> <target> <argument>...): a ctest entry that runs a program on so many ranks.
execute_process(COMMAND "${MPIEXEC_EXECUTABLE}" --version OUTPUT_VARIABLE heed_mpiexec_says ERROR_QUIET)
set(heed_mpiexec_flags)
if(heed_mpiexec_says MATCHES "Open MPI|OpenRTE")
  set(heed_mpiexec_flags --oversubscribe --bind-to none --mca mpi_yield_when_idle 1)
endif()
function(heed_mpi_test name ranks target)
  add_test(NAME ${name} COMMAND "${MPIEXEC_EXECUTABLE}" ${MPIEXEC_NUMPROC_FLAG} ${ranks} ${heed_mpiexec_flags}
                                $<TARGET_FILE:${target}> ${ARGN})
  # Open MPI starts nothing for root unless it is told twice.
  set(environment "OMPI_ALLOW_RUN_AS_ROOT=1" "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1" "OMP_NUM_THREADS=1"
                  "OMP_WAIT_POLICY=passive" ${heed_sanitizer_environment})
  set_tests_properties(${name} PROPERTIES ENVIRONMENT "${environment}" PROCESSORS 2 TIMEOUT 300)
endfunction()
