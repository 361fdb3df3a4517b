# Two ranks, one of which is killed after a checkpoint, and two that go on from it: the model is, byte for byte, that of
# one process that was left alone.
#
#   cmake -D TRAIN=<program> -D MPIRUN=<command, a list> -D SCRATCH=<folder> -P check_ranks.cmake
file(REMOVE_RECURSE "${SCRATCH}")
file(MAKE_DIRECTORY "${SCRATCH}")
set(run "${TRAIN}" --task recall --quick --attention exact --length 32 --micro-batches 2 --steps 70,0,0 --csv none
        --svg none)
set(saved --checkpoint "${SCRATCH}/checkpoint.safetensors")

execute_process(COMMAND ${run} --model "${SCRATCH}/alone.safetensors" RESULT_VARIABLE result OUTPUT_QUIET ERROR_QUIET)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "check_ranks: one process failed: ${result}")
endif()

# Kills the rank that was started last, as soon as there is a checkpoint.
string(JOIN "' '" words ${MPIRUN} ${run} ${saved} --model "${SCRATCH}/killed.safetensors")
file(WRITE "${SCRATCH}/kill_one.sh" "'${words}' &
mpirun=$!
for i in $(seq 2400); do
  [ -e '${SCRATCH}/checkpoint.safetensors' ] && break
  sleep 0.05
done
rank=$(pgrep -P $mpirun -f train_treeformer | tail -1)
[ -n \"$rank\" ] || exit 99
kill -9 $rank
wait $mpirun
")
execute_process(COMMAND bash "${SCRATCH}/kill_one.sh" RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE said
                TIMEOUT 200)
if(result EQUAL 0 OR result EQUAL 99)
  message(FATAL_ERROR "check_ranks: a run whose rank was killed should have failed, but returned ${result}: ${said}")
endif()

execute_process(COMMAND ${MPIRUN} ${run} ${saved} --resume --model "${SCRATCH}/resumed.safetensors"
                RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE said)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "check_ranks: going on from the checkpoint failed: ${result}: ${said}")
endif()
file(SHA256 "${SCRATCH}/alone.safetensors" alone)
file(SHA256 "${SCRATCH}/resumed.safetensors" resumed)
if(NOT alone STREQUAL resumed)
  message(FATAL_ERROR "check_ranks: two ranks have not learned what one process has")
endif()
message("check_ranks: two ranks, one killed and all resumed, have the bytes of one process")
