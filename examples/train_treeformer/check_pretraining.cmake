# A run with pretraining that is killed while it pretrains, and again behind that, and goes on each time, ends with the
# model, byte for byte, of one that was left alone; and what cannot be pretrained is refused by one line.
#
#   cmake -D TRAIN=<program> -D SCRATCH=<folder> -P check_pretraining.cmake
file(REMOVE_RECURSE "${SCRATCH}")
file(MAKE_DIRECTORY "${SCRATCH}")
set(run "${TRAIN}" --task listops --quick --attention tf --height 2 --heads 1 --length 32 --csv none --svg none)
set(steps --pretrain 60 --steps 0,60,0)
set(checkpoint "${SCRATCH}/checkpoint.safetensors")
set(saved --checkpoint "${checkpoint}" --model "${SCRATCH}/resumed.safetensors")

execute_process(COMMAND ${run} ${steps} --model "${SCRATCH}/alone.safetensors" RESULT_VARIABLE result
                OUTPUT_VARIABLE said ERROR_QUIET)
if(NOT result EQUAL 0 OR NOT said MATCHES "step +60  hidden symbols +accuracy .*step +120  tf +accuracy")
  message(FATAL_ERROR "check_pretraining: the run that is left alone failed: ${result}: ${said}")
endif()

# kill_in(<stage> <options>...): starts the run, and kills it as soon as its checkpoint is of this stage.
function(kill_in stage)
  string(JOIN "' '" words ${run} ${steps} ${saved} ${ARGN})
  file(WRITE "${SCRATCH}/kill.sh" "'${words}' &
run=$!
for i in $(seq 24000); do
  grep -aqs '\"stage\":\"${stage}\"' '${checkpoint}' && kill -9 $run && wait $run
  kill -0 $run 2> /dev/null || break
  sleep 0.005
done
wait $run
")
  execute_process(COMMAND bash "${SCRATCH}/kill.sh" RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE said TIMEOUT 200)
  if(NOT result EQUAL 137)
    message(FATAL_ERROR "check_pretraining: a run that is killed should have returned 137, but ${result}: ${said}")
  endif()
endfunction()
kill_in(pretraining)
kill_in(first --resume)
execute_process(COMMAND ${run} ${steps} ${saved} --resume RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE said)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "check_pretraining: going on from the checkpoint failed: ${result}: ${said}")
endif()
file(SHA256 "${SCRATCH}/alone.safetensors" alone)
file(SHA256 "${SCRATCH}/resumed.safetensors" resumed)
if(NOT alone STREQUAL resumed)
  message(FATAL_ERROR "check_pretraining: a run that was killed twice has not learned what one left alone has")
endif()

include("${CMAKE_CURRENT_LIST_DIR}/refused.cmake")
refused("--pretrain is for --task listops or bytes.* --task is recall" --pretrain 10)
refused("--pretrain is for --task listops or bytes.* --task is text-lm" --pretrain 10 --task text-lm)
refused("--pretrain: .*0 not in range" --task listops --pretrain 0)
refused("--pretrain: .*-3 not in range" --task listops --pretrain -3)
refused("leave out .*--pretrain" --task listops --attention exact --evaluate x.safetensors --pretrain 10)
refused("is of the run .* pretrained 33:60 33:0 33:60. but must be of" --task listops --quick --attention tf --height
        2 --heads 1 --length 32 --steps 0,60,0 --checkpoint "${checkpoint}" --resume)
message("check_pretraining: a run killed twice has the bytes of one left alone")
